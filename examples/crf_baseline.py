"""What a tagger has to beat: a linear-chain CRF on the words around each word.

    pip install -e '.[baselines]'
    python -m examples.crf_baseline \\
        --train_data=data/msra/train_small.jsonl --eval_data=data/msra/test_small.jsonl

CRFsuite (https://www.chokkan.org/software/crfsuite/) learns weights of the word, its neighbours,
pairs of them, beginnings, endings and shape. Records have `tokens` and `tags`; the scores are those
of `trainers.evaluate --task=token_classification`.
"""

import os
import tempfile

import numpy as np
from absl import flags as absl_flags

from gpt_keras import tagging
from gpt_keras.losses import Loss
from gpt_keras.metrics import TaggingMetrics
from trainers import args
from trainers.records import read_records


def baseline_flags(flags: args.FlagValues) -> None:
    """Baseline."""
    absl_flags.DEFINE_string("train_data", None, "files to train on", flag_values=flags)
    absl_flags.DEFINE_string("eval_data", None, "files to evaluate on", flag_values=flags)
    absl_flags.DEFINE_integer("max_iterations", 60, "of L-BFGS", 1, flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if not flags.train_data or not flags.eval_data:
        raise args.UsageError("--train_data and --eval_data: give both")
    train, evaluation = (
        read_records(files, {"tokens": "tokens", "tags": "tags"})
        for files in (flags.train_data, flags.eval_data)
    )
    found = crf_tags(train, [record["tokens"] for record in evaluation], flags.max_iterations)
    names = sorted({tag for record in (*train, *evaluation) for tag in record["tags"]})
    metrics = TaggingMetrics(names, tagging.scheme_of(names))
    index = {name: i for i, name in enumerate(names)}
    for i, (record, tags) in enumerate(zip(evaluation, found, strict=True)):
        true, ours = ([index[tag] for tag in some] for some in (record["tags"], tags))
        batch = {"tag": np.array([true]) + 1, "sample_id": np.array([i])}
        metrics.update(batch, Loss(0.0, 0.0, np.array([ours]), np.zeros((1, 2))))
    print(f"CRF trained on {len(train):,} records\n{metrics.report()}")


def crf_tags(train, texts, max_iterations: int = 60) -> list[list[str]]:
    """Tags of texts, lists of words, by a CRF that is trained on records."""
    try:
        import pycrfsuite
    except ImportError as error:
        raise ValueError("python-crfsuite is missing: pip install -e '.[baselines]'") from error

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": 0.05, "c2": 0.05, "max_iterations": max_iterations})
    for record in train:
        trainer.append(features(record["tokens"]), record["tags"])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "crf")
        trainer.train(path)
        tagger = pycrfsuite.Tagger()
        tagger.open(path)
        found = [tagger.tag(features(words)) for words in texts]
        tagger.close()
    return found


def features(words: list[str]) -> list[list[str]]:
    """What the CRF knows of each word."""
    padded = ["<", "<", *words, ">", ">"]
    rows = []
    for i, word in enumerate(words, 2):
        before, after = padded[i - 1], padded[i + 1]
        rows.append([
            f"w={word.lower()}", f"-1={before}", f"+1={after}", f"-2={padded[i - 2]}",
            f"+2={padded[i + 2]}", f"-1w={before} {word}", f"w+1={word} {after}",
            f"-1+1={before} {after}", f"begin={word[:2]}", f"end={word[-3:]}", f"end2={word[-2:]}",
            f"title={word.istitle()}", f"digit={any(char.isdigit() for char in word)}",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    args.run(main, [baseline_flags])
