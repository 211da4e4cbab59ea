import pytest

from examples.prepare_syllogisms import split


def drawn(yes, no):
    rows = [{"question": f"q{i}", "answer": "Yes"} for i in range(yes)]
    return rows + [{"question": f"r{i}", "answer": "No"} for i in range(no)] + rows


def test_parts_are_balanced_and_share_no_question():
    parts = split(drawn(7, 5), {"train": 6, "test": 4})
    questions = [row["question"] for rows in parts.values() for row in rows]
    assert len(questions) == len(set(questions)) == 10
    for rows in parts.values():
        assert [row["answer"] for row in rows] == ["Yes", "No"] * (len(rows) // 2)
        for row in rows:
            assert row["question"].startswith("q" if row["answer"] == "Yes" else "r")
            assert row["choices"] == ["Yes", "No"]


def test_too_few():
    with pytest.raises(ValueError, match="10 different questions: too few"):
        split(drawn(9, 5), {"train": 6, "test": 6})
