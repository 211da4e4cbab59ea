"""Decoding through mixtures of experts: a loop over those that are chosen, beside copies.

    python -m benchmarks.experts --output=bench/experts.json

A pass of some tokens through several layers of experts alone, without attention: in a loop whose
matrices are views, as generation does it, and grouped, as training does it, which copies an
expert's matrices for each of its blocks of tokens. In milliseconds, the median of many passes, all
ways by turns; and what reading the chosen matrices once would take at the speed of a product by one
row.
"""

import os
import statistics
import time

from absl import app, flags

from benchmarks.tables import markdown
from trainers.files import write_json


def layers(D, F, experts, chosen, count):
    """That many layers of random experts."""
    import gpt_keras
    from gpt_keras.experts import MixtureOfExperts

    config = gpt_keras.GPTConfig(
        vocab_size=8, hidden_size=D, num_layers=1, num_heads=8, intermediate_size=F,
        num_experts=experts, experts_per_token=chosen,
    )  # fmt: skip
    made = [MixtureOfExperts(config) for _ in range(count)]
    for layer in made:
        layer.build((None, None, D))
    return made


def ways(stack, D):
    """Name -> function of (B, 1, D)."""
    import tensorflow as tf

    def through(in_loop):
        def run(x):
            for layer in stack:
                x = x + layer(x, in_loop=in_loop)
            return x

        return tf.function(run, [tf.TensorSpec([None, None, D])], autograph=False)

    def dense(x):
        """As many matrices as one row is sent to, the same ones each time."""
        for layer in stack:
            for e in range(layer.config.experts_per_token):
                y = tf.matmul(x, tf.convert_to_tensor(layer.up)[e])
                gate, up = tf.split(y, 2, -1)
                x += tf.matmul(tf.nn.silu(gate) * up, tf.convert_to_tensor(layer.down)[e])
        return x

    products = tf.function(dense, [tf.TensorSpec([None, D])], autograph=False)
    return {
        "loop": through(in_loop=True),
        "grouped": through(in_loop=False),
        "products alone": lambda x: products(x[:, 0]),
    }


def main(_):
    import tensorflow as tf

    F = flags.FLAGS
    stack = layers(F.width, F.intermediate, F.experts, F.chosen, F.layers)
    functions, report = ways(stack, F.width), []
    for rows in F.rows:
        times = {name: [] for name in functions}
        for _ in range(F.rounds):
            x = tf.random.normal([int(rows), 1, F.width])
            for name, function in functions.items():
                start = time.perf_counter()
                function(x).numpy()
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, values in times.items():
            report.append(
                {"rows": int(rows), "way": name, "ms": statistics.median(values[F.rounds // 5 :])}
            )
    cells = [(str(row["rows"]), row["way"], f"{row['ms']:.2f}") for row in report]
    print(markdown(("rows", "way", "ms"), cells))
    if F.output:
        write_json(F.output, {"cores": os.cpu_count(), "results": report})


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_integer("width", 512, "D")
    flags.DEFINE_integer("intermediate", 1024, "F of an expert")
    flags.DEFINE_integer("experts", 8, "experts of a layer")
    flags.DEFINE_integer("chosen", 2, "experts of a token")
    flags.DEFINE_integer("layers", 8, "layers")
    flags.DEFINE_list("rows", ["1", "8"], "tokens of a pass")
    flags.DEFINE_integer("rounds", 100, "passes of each")
    app.run(main)
