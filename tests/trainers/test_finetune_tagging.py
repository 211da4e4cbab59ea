"""Fine-tuning a tagger: from data to report, model and spans."""

import json

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from trainers import args, evaluate, finetune

FLAGS = {"xla": False, "global_batch_size": 8, "learning_rate": 1e-2, "max_length": 24}
UNSEEN = {"tokens": ["the", "x"], "tags": ["B-FOO", "I-FOO"]}
LABELS = {"cat": "PET", "dog": "PET", "mat": "THING"}


def run(program, *arguments):
    return args.exit_status(program.main, program.FLAGS, ["program", *arguments])


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A file in which the word alone says the tag, and "the" before it belongs to it."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(40):
        tokens, tags = [], []
        for _ in range(rng.integers(1, 4)):
            word = str(rng.choice(list(LABELS)))
            tokens += ["the", word, "ran"]
            tags += [f"B-{LABELS[word]}", f"I-{LABELS[word]}", "O"]
        rows.append({"tokens": tokens, "tags": tags})
    path = tmp_path_factory.mktemp("tagged") / "tagged.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {"tokens": ["a"], "tags": []}])))
    return path


@pytest.mark.parametrize("crf", [False, True])
def test_from_data_to_report(model_dir, tagged, tmp_path, capsys, crf):
    folder = tmp_path / "run"
    arguments = {
        "model": model_dir, "output_dir": folder, "task": "token_classification", "crf": crf,
        "train_data": tagged, "eval_data": tagged, "num_epochs": 12, "eval_steps": 20, **FLAGS,
    }  # fmt: skip
    assert run(finetune, *(f"--{k}={v}" for k, v in arguments.items())) == 0
    printed = capsys.readouterr().out
    assert "1 of 41 training samples left out: another number of tags than of tokens" in printed
    assert f"first {tagged}:41" in printed
    report = json.loads((folder / "report.json").read_text())["eval"]
    assert report["labels"]["PET"]["support"] > 10
    # What stands before a noun is all that a decoder sees of it: "the" alone does not say which.
    assert report["accuracy"] > 0.6
    model = gpt_keras.TokenClassifier.from_pretrained(folder / "model")
    assert model.config.id2label == ("O", "B-PET", "I-PET", "B-THING", "I-THING")
    assert (model.crf is not None) is crf
    spans = model.tag(tf.constant(["the cat ran the mat ran"]))
    assert spans["num_spans"].numpy()[0] >= 1
    output, more = tmp_path / "scores.json", tmp_path / "more.jsonl"
    more.write_text(json.dumps(UNSEEN) + "\n" + tagged.read_text())
    arguments = {
        "model": folder / "model", "task": "token_classification", "eval_data": more,
        "output": output,
    }  # fmt: skip
    assert run(evaluate, *(f"--{k}={v}" for k, v in arguments.items())) == 0
    printed = capsys.readouterr().out
    assert "precision" in printed
    assert "1 of 42 samples left out: a label that training has not seen (B-FOO, I-FOO)" in printed
    assert f"first {more}:1" in printed
    scores = json.loads(output.read_text())
    assert scores["f1"] == pytest.approx(report["f1"])
    assert scores["confidence"]["f1"][0] <= scores["f1"] <= scores["confidence"]["f1"][1]


def test_unknown_tags_alone_are_nothing_to_evaluate_on(model_dir, tagged, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(UNSEEN))
    arguments = {
        "model": model_dir, "output_dir": tmp_path / "run", "task": "token_classification",
        "train_data": tagged, "eval_data": other, **FLAGS,
    }  # fmt: skip
    assert run(finetune, *(f"--{k}={v}" for k, v in arguments.items())) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "other.jsonl:1: nothing is left of 1 records: all have a label that training " in message
    assert "has not seen (B-FOO, I-FOO); known are O, B-PET, " in message
