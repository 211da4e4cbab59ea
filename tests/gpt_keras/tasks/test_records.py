"""Values of records."""

import pytest

from gpt_keras.tasks.records import (
    index_of,
    label_names,
    label_of,
    labels_of,
    number_of,
    text_of,
)

WHERE = {"where": "x.jsonl:2"}


@pytest.mark.parametrize(
    ("labels", "given", "expected"),
    [
        ([10, 9, 2], (), ("2", "9", "10")),
        (["10", "9", "b"], (), ("10", "9", "b")),
        ([True, False, True], (), ("False", "True")),
        (["b", "a", " b "], ["b", "c", "a"], ("b", "c", "a")),
    ],
)
def test_labels(labels, given, expected):
    found = [label_of({"label": label, **WHERE}) for label in labels]
    assert found == [str(label).strip() for label in labels]
    assert label_names(found, given) == expected


@pytest.mark.parametrize("value", [None, 0.5, " ", ["a"]])
def test_no_label(value):
    with pytest.raises(ValueError, match=r"x\.jsonl:2: label must be a name or an integer, got "):
        label_of({"label": value, **WHERE})


def test_no_text():
    assert text_of({"text": "", **WHERE}) == ""
    with pytest.raises(ValueError, match=r"x\.jsonl:2: query must be a string, got 3"):
        text_of({"query": 3, **WHERE}, "query")


def test_too_few_labels_and_unknown_ones():
    with pytest.raises(ValueError, match=r"labels a: two or more"):
        label_names(["a"])
    with pytest.raises(ValueError, match=r"labels a, b, a: .* each once"):
        label_names([], ["a", "b", "a"])
    assert index_of(WHERE, "b", {"a": 0, "b": 1}) == 1
    with pytest.raises(ValueError, match=r"x\.jsonl:2: unknown label 'c'; known are a, b"):
        index_of(WHERE, "c", {"a": 0, "b": 1})


@pytest.mark.parametrize(
    ("value", "separator", "expected"),
    [
        (["a", 2, "a"], "", ["a", "2"]),
        ([], "", []),
        ("a| b|a|", "|", ["a", "b"]),
        ("", "|", []),
        ("a|b", "", ["a|b"]),
        (3, "|", ["3"]),
    ],
)
def test_several_labels(value, separator, expected):
    assert labels_of({"label": value, **WHERE}, separator) == expected


def test_one_of_several_labels_is_none():
    with pytest.raises(ValueError, match=r"x\.jsonl:2: label must be a name .* got 0\.5"):
        labels_of({"label": ["a", 0.5], **WHERE}, "")


def test_numbers():
    assert [number_of({"score": x, **WHERE}) for x in (2, -0.5, " 1e3 ")] == [2, -0.5, 1000]
    for value in (None, "", "x", True, "nan", float("inf"), [1]):
        with pytest.raises(ValueError, match=r"x\.jsonl:2: score must be a number, got "):
            number_of({"score": value, **WHERE})
    with pytest.raises(ValueError, match=r"got 'a long text.*end'") as refused:
        number_of({"score": "a long text, to the end" * 100, **WHERE})
    assert len(str(refused.value)) < 100
