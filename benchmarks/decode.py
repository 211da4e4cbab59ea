"""Decoding speed of SmolLM2-135M beside Hugging Face torch and KerasHub, in one run.

    python -m benchmarks.decode --output=bench/decode.json

Each peer lives in a process of its own and waits while another is measured; the rounds go round
robin, so that a drift of the machine's speed hits all alike. The figure is new tokens a second
after the prompt: the time of a long answer less that of a short one. Weights are random (the speed
does not depend on them), greedy, float32, prompt of 64 tokens, 48 decoded.
"""

import os
import statistics
import subprocess
import sys
import time

from absl import app, flags

from trainers.files import write_json

PROMPT, SHORT, LONG = 64, 2, 50
SHAPE = {
    "vocab": 49152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "ff": 1536,
    "theta": 100000.0,
}  # fmt: skip
PEERS = ("gpt_keras", "hf_torch", "keras_hub")


def ours():
    import tensorflow as tf

    import gpt_keras
    from export import saved_model
    from gpt_keras.generation import GenerationOptions, generate_tokens

    config = gpt_keras.GPTConfig(
        vocab_size=SHAPE["vocab"], hidden_size=SHAPE["width"], num_layers=SHAPE["layers"],
        num_heads=SHAPE["heads"], num_kv_heads=SHAPE["kv_heads"], intermediate_size=SHAPE["ff"],
        max_position_embeddings=2048, rotary=gpt_keras.RotaryConfig(SHAPE["theta"]),
    )  # fmt: skip
    model = gpt_keras.CausalLM(config)
    model.backbone.lay_out(saved_model.kernels_here())  # as it would be served

    @tf.function(reduce_retracing=True)
    def generate(token_ids, lengths, limit):
        options = GenerationOptions.make(tf.shape(lengths)[0], max_new_tokens=limit)
        return generate_tokens(model, token_ids, lengths, options).tokens

    def run(token_ids, limit):
        lengths = tf.fill([len(token_ids)], PROMPT)
        return generate(tf.constant(token_ids), lengths, tf.constant(limit)).numpy()

    return run


def hf_torch():
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=SHAPE["vocab"], hidden_size=SHAPE["width"], num_hidden_layers=SHAPE["layers"],
        num_attention_heads=SHAPE["heads"], num_key_value_heads=SHAPE["kv_heads"],
        intermediate_size=SHAPE["ff"], max_position_embeddings=2048, tie_word_embeddings=True,
        rope_theta=SHAPE["theta"], eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()

    @torch.no_grad()
    def run(token_ids, limit):
        ids = torch.tensor(token_ids, dtype=torch.long)
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit,
                              min_new_tokens=limit, do_sample=False, pad_token_id=0)  # fmt: skip

    return run


def keras_hub():
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub as hub
    import numpy as np

    backbone = hub.models.LlamaBackbone(
        vocabulary_size=SHAPE["vocab"], num_layers=SHAPE["layers"],
        num_query_heads=SHAPE["heads"], num_key_value_heads=SHAPE["kv_heads"],
        hidden_dim=SHAPE["width"], intermediate_dim=SHAPE["ff"],
        rope_max_wavelength=SHAPE["theta"], tie_word_embeddings=True,
    )  # fmt: skip
    model = hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")

    def run(token_ids, limit):
        room = np.zeros((len(token_ids), limit), token_ids.dtype)
        inputs = {
            "token_ids": np.concatenate([token_ids, room], axis=1),
            "padding_mask": np.concatenate([np.ones_like(token_ids), room], axis=1).astype(bool),
        }
        return model.generate(inputs, stop_token_ids=None)

    return run


def work(peer):
    """Serves measurements: a line with the number of rows in, a line with tokens/s out."""
    import numpy as np

    run = {"gpt_keras": ours, "hf_torch": hf_torch, "keras_hub": keras_hub}[peer]()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    seen = set()
    for line in sys.stdin:
        rows = int(line)
        token_ids = np.random.default_rng(0).integers(1, SHAPE["vocab"], (rows, PROMPT), "int32")
        if rows not in seen:  # traces and compiles
            run(token_ids, SHORT)
            run(token_ids, LONG)
            seen.add(rows)
        seconds = []
        for limit in (SHORT, LONG):
            start = time.perf_counter()
            run(token_ids, limit)
            seconds.append(time.perf_counter() - start)
        rate = rows * (LONG - SHORT) / (seconds[1] - seconds[0])
        answer.write(f"{rate}\n")
        answer.flush()


def measure(rows_list, rounds):
    """{rows: {peer: [tokens/s of each round]}}"""
    command = [sys.executable, "-m", "benchmarks.decode", "--worker"]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    workers = {
        peer: subprocess.Popen([*command, peer], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, env=quiet)
        for peer in PEERS
    }  # fmt: skip

    def ask(peer, rows):
        workers[peer].stdin.write(f"{rows}\n")
        workers[peer].stdin.flush()
        line = workers[peer].stdout.readline()
        if not line:
            raise ValueError(f"{peer}: the worker ended with status {workers[peer].wait()}")
        return float(line)

    try:
        figures = {}
        for rows in rows_list:
            for peer in PEERS:
                ask(peer, rows)  # warms up
            figures[rows] = {peer: [] for peer in PEERS}
            for _ in range(rounds):
                for peer in PEERS:
                    figures[rows][peer].append(ask(peer, rows))
        return figures
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def main(_):
    if flags.FLAGS.worker:
        work(flags.FLAGS.worker)
        return
    figures = measure([int(rows) for rows in flags.FLAGS.rows], flags.FLAGS.rounds)
    print(f"{'tokens/s, median':18s}" + "".join(f"{peer:>12s}" for peer in PEERS)
          + "   ours / torch   ours / KerasHub")  # fmt: skip
    table = []
    for rows, by_peer in figures.items():
        ratios = {
            peer: statistics.median(a / b for a, b in zip(by_peer["gpt_keras"], by_peer[peer],
                                                          strict=True))
            for peer in PEERS[1:]
        }  # fmt: skip
        medians = {peer: statistics.median(rates) for peer, rates in by_peer.items()}
        table.append({"rows": rows, "tokens_per_second": medians, "ratio": ratios, "all": by_peer})
        print(f"rows {rows:<13d}" + "".join(f"{medians[peer]:12.1f}" for peer in PEERS)
              + f"{ratios['hf_torch']:15.2f}{ratios['keras_hub']:18.2f}")  # fmt: skip
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, {"shape": SHAPE, "prompt": PROMPT, "figures": table})


if __name__ == "__main__":
    flags.DEFINE_list("rows", ["1", "4", "8"], "batch sizes to measure")
    flags.DEFINE_integer("rounds", 3, "measurements of each peer and batch size")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_string("worker", "", "peer to serve measurements of (used by the program itself)")
    app.run(main)
