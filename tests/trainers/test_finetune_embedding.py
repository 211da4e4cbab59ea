"""Fine-tuning an embedder of texts, from data to report."""

import json

import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras.pooling import SentenceEmbedding
from trainers import args, evaluate, finetune

# What is asked, and what answers it: no word in common.
ANSWERS = {"cat": "mat", "dog": "hat", "fast": "slow", "good": "bad"}


@pytest.fixture
def command(model_dir, tmp_path, capsys):
    """Function that runs the program; gives its exit status and what it printed."""

    def run(program=finetune, **values):
        values = {"model": model_dir, "xla": False, "task": "embedding", **values}
        if program is finetune:
            values = {"output_dir": tmp_path / "run", "max_length": 24, **values}
        else:
            values.pop("xla")
        arguments = [f"--{name}={value}" for name, value in values.items()]
        status = args.exit_status(program.main, program.FLAGS, ["program", *arguments])
        return status, capsys.readouterr()

    return run


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"query": f"{before} {asked}", "positive": f"{answer} on a {before}"}
        for asked, answer in ANSWERS.items()
        for before in ("the", "a")
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_pairs_to_a_search(command, pairs, tmp_path):
    status, printed = command(
        task="ranking", train_data=pairs, eval_data=pairs, global_batch_size=16, num_epochs=40,
        learning_rate=1e-2, pooling="last", bootstrap=20, eval_steps=20,
    )  # fmt: skip
    assert status == 0, printed.err
    assert "8 queries, each against 8 documents" in printed.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert report["recall@1"] >= 0.5
    model = gpt_keras.TextEmbedder.from_pretrained(tmp_path / "run" / "model")
    assert model.embedding == SentenceEmbedding("last")
    scores = model.rank(tf.constant(["the dog"] * 2), tf.constant(["hat on a the", "bad on a a"]))
    assert scores[0] > scores[1]

    status, printed = command(
        evaluate, task="embedding", model=tmp_path / "run" / "model", eval_data=pairs,
        output=tmp_path / "scores.json", batch_size=3, bootstrap=0,
    )  # fmt: skip
    assert status == 0, printed.err
    scores = json.loads((tmp_path / "scores.json").read_text())
    for name in ("mrr", "recall@1", "ndcg@10"):  # whatever the batches were
        assert scores[name] == pytest.approx(report[name])


def test_scored_pairs(command, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"the {a},a {b},{float(a == c)}\n" for a, b in ANSWERS.items() for c in ANSWERS]
    path.write_text("text,text_pair,score\n" + "".join(rows))
    status, printed = command(
        train_data=path, eval_data=path, global_batch_size=8, max_steps=2, bootstrap=5
    )
    assert status == 0, printed.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert {"mse", "spearman"} <= set(report)


def test_groups_are_not_cut(command, pairs):
    for options, message in [
        ({"global_batch_size": 12, "gradient_accumulation_steps": 4}, "give a multiple of 8"),
        ({"global_batch_size": 5}, "--global_batch_size=5: 2 rows of this data belong together"),
    ]:
        status, printed = command(train_data=pairs, eval_fraction=0, **options)
        assert (status, message in printed.err) == (2, True), printed.err
        assert printed.err.count("\n") == 1
