"""Folds and shares of the training data."""

from collections import Counter

import pytest

from trainers import args, finetune, folds
from trainers.args import UsageError


@pytest.fixture
def load(data_dir):
    def run(**values):
        values = {"train_data": data_dir / "labelled.jsonl", "task": "classification", **values}
        arguments = [f"--{name}={value}" for name, value in values.items()]
        flags = args.parse(finetune.FLAGS, ["finetune", *arguments])
        return folds.load("classification", flags)

    return run


def texts(records):
    return sorted(record["text"] for record in records)


def test_each_record_is_held_out_once(load):
    every = texts(load(eval_fraction=0)[0])
    held_out = []
    for i in range(4):
        train, evaluation = load(eval_fold=f"{i}/4")
        assert sorted(texts(train) + texts(evaluation)) == every
        assert set(texts(train)).isdisjoint(texts(evaluation))
        held_out += texts(evaluation)
    assert sorted(held_out) == every
    assert texts(load(eval_fold="1/4")[1]) != texts(load(eval_fold="1/4", seed=3)[1])


def test_fewer_samples_are_among_more_and_no_label_is_missing(load):
    records = [{"text": f"text {i}", "label": "rare" if i == 77 else "ab"[i % 2], "where": ""}
               for i in range(100)]  # fmt: skip
    chosen = {n: folds.choose("classification", records, n, seed=1) for n in (3, 10, 51, 100)}
    for few, more in ((3, 10), (10, 51), (51, 100)):
        assert chosen[more][:few] == chosen[few]
    assert set(Counter(r["label"] for r in chosen[3])) == {"a", "b", "rare"}
    counts = Counter(r["label"] for r in chosen[51])
    assert (counts["a"], counts["b"]) == (25, 25)
    shuffled = folds.choose("classification", records[::-1], 10, seed=1)
    assert texts(shuffled) == texts(chosen[10])
    assert texts(folds.choose("classification", records, 10, seed=2)) != texts(chosen[10])
    train, _ = load(train_samples=6, eval_fraction=0.2)
    assert Counter(record["label"] for record in train) == {"good": 3, "bad": 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_fold": "5/5"}, "--eval_fold=5/5: give I/K"),
        ({"eval_fold": "0/1"}, "--eval_fold=0/1: give I/K"),
        ({"eval_fold": "a/b"}, "--eval_fold=a/b: give I/K"),
        ({"eval_fold": "0/5", "eval_data": "x"}, "--eval_fold or --eval_data"),
        ({"train_samples": 1000}, "--train_samples=1000: there are "),
    ],
)
def test_mistakes(load, values, message):
    with pytest.raises(UsageError, match=message):
        load(**values)


def test_an_empty_fold(load):
    taken = {folds.fold_of(text, 1000, 0) for text in texts(load(eval_fraction=0)[0])}
    empty = min(set(range(1000)) - taken)
    with pytest.raises(ValueError, match="of 40 records 0 would be held out"):
        load(eval_fold=f"{empty}/1000")
