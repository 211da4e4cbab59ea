"""Data for a search out of package descriptions, and its baselines."""

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from examples import prepare_search, search_baseline
from trainers import args

LINES = """Package: a
Description-md5: 0
Description-en: file archiver
 Packs files.
 .
 It is
 fast.

Package: b
Description-en: another archiver
 Packs  files.

Package: c
Description-en: mail reader
 Reads mail: all of it.
""".splitlines()


def test_records_of_descriptions():
    found = list(prepare_search.records(prepare_search.descriptions(LINES)))
    assert found == [
        {"query": "file archiver", "positive": "Packs files. It is fast."},
        {"query": "mail reader", "positive": "Reads mail: all of it."},
    ]


def test_split_by_the_query():
    rows = [{"query": f"q{i}", "positive": str(i)} for i in range(1000)]
    parts = prepare_search.split(rows)
    assert sorted(row["positive"] for part in parts.values() for row in part) == sorted(
        row["positive"] for row in rows
    )
    assert abs(len(parts["dev"]) - 50) < 25
    assert abs(len(parts["test"]) - 150) < 45
    assert prepare_search.split(rows[::-1]) == parts


def test_bm25_by_hand():
    documents = ["red cat cat", "blue dog", "red dog and a blue dog"]
    scores = search_baseline.bm25(["red dog", "nothing"], documents)
    mean = (3 + 2 + 5) / 3  # words of two letters and more

    def weight(count, length, has):
        idf = np.log(1 + (3 - has + 0.5) / (has + 0.5))
        return idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))

    expected = [
        weight(1, 3, 2), weight(1, 2, 2), weight(1, 5, 2) + weight(2, 5, 2)
    ]  # fmt: skip
    np.testing.assert_allclose(scores, [expected, [0, 0, 0]])


def test_the_table(tmp_path, capsys):
    rows = [
        {"query": "red cat", "positive": "a red cat"}, {"query": "blue dog", "positive": "dogs"},
        {"query": "dogs", "positive": "blue dog"},
    ]  # fmt: skip
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["baseline", f"--eval_data={path}"]
    flags = [search_baseline.baseline_flags]
    assert args.exit_status(search_baseline.main, flags, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["mrr", "recall@1", "recall@5", "recall@10", "ndcg@10"]
    # The second and the third query find each other's document first, and a tie behind it.
    gains = ndcg_score([[1, 0, 0], [0, 0, 1], [0, 0, 1]], [[3, 1, 1], [0, 9, -1], [0, 9, -1]])
    for line in lines[1:]:
        numbers = [float(number) for number in line.split()[1:]]
        assert numbers == pytest.approx([(1 + 2 / 3) / 3, 1 / 3, 1, 1, gains], abs=6e-4)
