"""Tagging schemes and their metrics, against seqeval."""

import collections
import json
import pathlib
import random

import numpy as np
import pytest

from gpt_keras import tagging
from gpt_keras.losses import Loss
from gpt_keras.metrics import TaggingMetrics
from gpt_keras.tagging import SCHEMES, Span, legal, names, spans_of, tags_of

LABELS = ("LOC", "ORG", "PER")
WITH_SPANS = ["BIO", "BMES", "BIOES"]


def random_spans(rng):
    """Spans of 12 words, none over another."""
    edges = sorted(rng.sample(range(13), rng.choice([0, 2, 4, 6])))
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [Span(start, end, rng.choice(LABELS)) for start, end in pairs]


@pytest.mark.parametrize("scheme", WITH_SPANS)
def test_spans_and_tags_and_back(scheme):
    rng = random.Random(0)
    for _ in range(200):
        spans = random_spans(rng)
        assert spans_of(tags_of(spans, 12, SCHEMES[scheme]), SCHEMES[scheme]) == spans


def test_tags_as_people_write_them():
    spans = [Span(0, 1, "PER"), Span(2, 5, "LOC"), Span(5, 7, "LOC")]
    expected = {
        "BIO": "B-PER O B-LOC I-LOC I-LOC B-LOC I-LOC",
        "BMES": "S-PER O B-LOC M-LOC E-LOC B-LOC E-LOC",
        "BIOES": "S-PER O B-LOC I-LOC E-LOC B-LOC E-LOC",
    }
    for scheme, tags in expected.items():
        assert " ".join(tags_of(spans, 7, SCHEMES[scheme])) == tags
    assert names(["b", "a", "b"], None) == ("a", "b")
    assert names(["x"], SCHEMES["BIO"]) == ("O", "B-x", "I-x")


def test_the_scheme_that_tags_are_of():
    for name, scheme in SCHEMES.items():
        assert tagging.scheme_of(names(LABELS, scheme)) == scheme, name
    assert tagging.scheme_of(["O", "B-PER"]) == SCHEMES["BIO"]
    assert tagging.scheme_of(["NN", "NN-HL", "O"]) is None


@pytest.mark.parametrize("tag", ["PER", "X-PER", "B-", "M-PER", "b-PER", ""])
def test_no_tag_of_the_scheme(tag):
    with pytest.raises(ValueError, match=f"tag {tag!r}: expected O, or one of B, I with -LABEL"):
        spans_of(["O", tag], SCHEMES["BIO"])


@pytest.mark.parametrize("scheme", WITH_SPANS)
def test_what_is_legal_is_what_spans_give(scheme):
    """All that spans give, and nothing else, by trying all short sequences."""
    tags = names(LABELS[:2], SCHEMES[scheme])
    rules = legal(tags, SCHEMES[scheme])
    given = {()}
    for _ in range(4):
        given |= {(*row, tag) for row in given for tag in tags}
    for row in given - {()}:
        i = [tags.index(tag) for tag in row]
        is_legal = rules.first[i[0]] and rules.last[i[-1]] and rules.moves[i[:-1], i[1:]].all()
        spans = spans_of(row, SCHEMES[scheme])
        assert is_legal == (tags_of(spans, len(row), SCHEMES[scheme]) == list(row)), row
    assert rules.labels == LABELS[:2]
    assert [rules.begins[tags.index(tag)] for tag in ("O", "B-LOC")] == [False, True]
    assert not rules.inside[0]
    assert rules.inside[1:].all()


def collected(scheme, true, found):
    """The metrics of rows of tags, in two batches of which one has a filler row."""
    tags = names(LABELS, SCHEMES[scheme])
    metrics = TaggingMetrics(tags, SCHEMES[scheme])
    ids = [[[tags.index(tag) for tag in row] for row in rows] for rows in (true, found)]
    for at in (slice(0, 3), slice(3, None)):
        rows = list(zip(*(some[at] for some in ids), range(len(true))[at], strict=True))
        T = max(len(row) for row, *_ in rows) + 4
        tag, outputs = np.zeros((len(rows) + 1, T), np.int32), np.zeros((len(rows) + 1, T))
        for i, (gold, ours, _) in enumerate(rows):
            tag[i, 2 : 2 + len(gold)] = np.array(gold) + 1  # wherever they stand
            outputs[i, : len(ours)] = ours
        tag[-1], sample_id = 1, np.array([*(row[-1] for row in rows), -1])
        loss = Loss(0.0, 0.0, outputs, np.ones((len(rows) + 1, 2)))
        metrics.update({"tag": tag, "sample_id": sample_id}, loss)
    return metrics


GOLDEN = json.loads(
    pathlib.Path(__file__).parents[1].joinpath("golden/tagging.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("scheme", GOLDEN)
def test_scores_are_those_of_seqeval(scheme):
    """In strict mode; tests/golden/write_tagging.py asked it."""
    compare(scheme, GOLDEN[scheme])


@pytest.mark.oracle
@pytest.mark.parametrize("scheme", WITH_SPANS)
@pytest.mark.parametrize("seed", range(1, 5))
def test_scores_are_those_of_seqeval_live(scheme, seed):
    """Of other rows than the golden file has."""
    pytest.importorskip("seqeval")
    from tests.golden import write_tagging

    compare(scheme, write_tagging.asked(random.Random(seed), scheme))


def compare(scheme, expected):
    """Our scores and spans of rows of tags with theirs."""
    metrics = collected(scheme, expected["true"], expected["found"])
    result = metrics.result()
    assert result["loss"] == 1.0
    for name in ("f1", "precision", "recall", "accuracy"):
        assert result[name] == pytest.approx(expected[name], abs=1e-9)
    labels = metrics.details()["labels"]
    assert {label: row["support"] for label, row in labels.items()} == {
        label: support for label, (_, support) in expected["labels"].items()
    }
    for label, (f1, _) in expected["labels"].items():
        assert labels[label]["f1"] == pytest.approx(f1, abs=1e-9)
    assert "precision" in metrics.report()
    for row, spans in zip(expected["true"], expected["spans"], strict=True):
        assert spans_of(row, SCHEMES[scheme]) == [Span(*span) for span in spans], row


def test_scores_of_a_choice_of_samples():
    true, found = (GOLDEN["BIO"][name] for name in ("true", "found"))
    some = [5, 5, 7, 40]
    part = collected("BIO", [true[i] for i in some], [found[i] for i in some]).result()
    assert collected("BIO", true, found).score(np.array(some)) == pytest.approx(part)


def test_of_plain_tags_f1_is_accuracy():
    metrics = TaggingMetrics(LABELS, None)
    tag = np.array([[1, 0, 2, 3, 3]], np.int32)
    loss = Loss(0.0, 0.0, np.array([[0, 1, 1, 2, 0]], float), np.array([[3.0, 4.0]]))
    metrics.update({"tag": tag, "sample_id": np.array([0])}, loss)
    result = metrics.result()
    assert (result["accuracy"], result["f1"], result["loss"]) == (0.75, 0.75, 0.75)
    supports = {label: row["support"] for label, row in metrics.details()["labels"].items()}
    assert supports == collections.Counter(["LOC", "ORG", "PER", "PER"])


def test_spans_of_plain_tags():
    assert spans_of(["N", "V"], None) == [Span(0, 1, "N"), Span(1, 2, "V")]
    assert tagging.legal(["N", "V"], None).moves.all()
