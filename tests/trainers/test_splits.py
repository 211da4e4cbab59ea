import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.splits import (
    count_overlap,
    deduplicate,
    hash_fraction,
    label_table,
    normalize,
    order_by_hash,
    split_by_hash,
)

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


def records(texts, labels=None):
    return [
        {"text": text, "label": label, "where": f"x:{i}"}
        for i, (text, label) in enumerate(zip(texts, labels or "a" * len(texts), strict=True))
    ]


def test_fraction_is_uniform_and_fixed():
    values = np.array([hash_fraction(f"text {i}", "salt") for i in range(20_000)])
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert counts.sum() == 20_000
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
    # Splits that users made must not change under them.
    assert hash_fraction("To be, or not to be", "s") == pytest.approx(
        0.46913831819578644, abs=1e-15
    )


@given(st.lists(UNICODE, min_size=1, max_size=30), st.floats(0.01, 0.99), st.integers(0, 29))
def test_side_of_a_text_depends_on_nothing_but_the_text(texts, fraction, index):
    data = records(texts)
    kept, held_out = split_by_hash(data, fraction, "salt")
    assert sorted(r["where"] for r in kept + held_out) == sorted(r["where"] for r in data)
    assert count_overlap(held_out, kept) == 0
    one = data[index % len(data)]
    alone = {**one, "text": f"  {one['text']} "}
    assert bool(split_by_hash([alone], fraction, "salt")[1]) == (one in held_out)


def test_share_and_salt():
    data = records([f"text {i}" for i in range(5000)])
    _, first = split_by_hash(data, 0.1, "a")
    _, second = split_by_hash(data, 0.1, "b")
    assert abs(len(first) - 500) < 100
    assert count_overlap(first, second) < 100
    for fraction in (0, 1, -0.5, 10):
        with pytest.raises(ValueError, match=f"fraction={fraction}"):
            split_by_hash(data, fraction)


def test_order_depends_on_the_texts_alone():
    data = records([f"text {i}" for i in range(50)])
    ordered = order_by_hash(data)
    assert order_by_hash(data[::-1]) == ordered
    assert ordered != data
    # What is taken away leaves the others in their order.
    assert order_by_hash(data[:30]) == [r for r in ordered if r in data[:30]]


def test_copies_and_contradictions():
    data = records(
        ["Good", "good ", "bad", "GOOD", "BAD", "so\n so"], ["pos", "pos", "neg", "pos", "pos", "x"]
    )
    kept, copies, conflicting = deduplicate(data)
    assert [r["where"] for r in kept] == ["x:0", "x:5"]
    assert (copies, conflicting) == (2, 2)
    assert deduplicate([{"text": "a"}, {"text": "A"}]) == ([{"text": "a"}], 1, 0)
    assert deduplicate(data, key=str)[1:] == (0, 0)


def test_normalize():
    assert normalize(" Ärger\t\nIS  Straße ") == "ärger is strasse"


def test_label_table():
    table = label_table({"train": records("abc", ["pos", "neg", "pos"]), "test": records("a", [7])})
    assert table.splitlines() == [
        "       7  neg  pos  all",
        "train  0    1    2    3",
        "test   1    0    0    1",
    ]
