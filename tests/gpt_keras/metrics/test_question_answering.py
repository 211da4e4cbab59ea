"""Exact match and F1 beside SQuAD's rules, written down again from the papers."""

import collections
import string
from types import SimpleNamespace

import numpy as np
import pytest

from gpt_keras.metrics import QuestionAnsweringMetrics
from gpt_keras.metrics.question_answering import scores_of

WORDS = ["the", "A", "an", "Theory", "of", "cat,", "cat", "U.S.", "don't", "—", "1,000", "¿", "..."]


def normalized(text):
    """Lower-cased, without punctuation and articles, blanks joined."""
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    # An article is a word of its own: what stands around it is no letter, digit or underscore.
    words, word = [], ""
    for char in [*kept, " "]:
        if char.isalnum() or char == "_":
            word += char
            continue
        words += [" " if word in ("a", "an", "the") else word, char]
        word = ""
    return " ".join("".join(words).split())


def by_the_rules(found, right):
    found, right = normalized(found), normalized(right)
    if not found or not right:  # no answer: right if both are none
        return float(found == right), float(found == right)
    found, right = found.split(), right.split()
    same = sum(min(found.count(word), right.count(word)) for word in set(found))
    if not same:
        return 0.0, 0.0
    precision, recall = same / len(found), same / len(right)
    return float(found == right), 2 * precision * recall / (precision + recall)


def test_scores_of_random_answers():
    rng = np.random.default_rng(0)
    seen = collections.Counter()
    for _ in range(2000):
        texts = [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(2)]
        expected = by_the_rules(*texts)
        assert scores_of(*texts) == pytest.approx(expected), texts
        seen[expected[0], 0 < expected[1] < 1] += 1
    assert min(seen.values()) > 50
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("found", "right", "word", "character"),
    [
        ("在伦敦", "伦敦", 0, 4 / 5),
        ("伦敦。", "伦敦", 0, 1),
        ("1912年", "1912 年", 0, 1),
        ("the cat 猫", "cat", 2 / 3, 2 / 3),
    ],
)
def test_chinese_characters_can_be_words(found, right, word, character):
    assert scores_of(found, right)[1] == pytest.approx(word)
    assert scores_of(found, right, "character")[1] == pytest.approx(character)


RECORDS = [
    {"context": "Ada lives in London, near the Thames.", "right": ["London", "in London"]},
    {"context": "Grüße aus 北京 🙂.", "right": []},
    {"context": "A cat.", "right": ["The cat"]},
]


def updated(threshold=0.0, order=range(5)):
    """Windows of the records: (record, best score, answer, null score, loss)."""
    windows = [
        (0, 1.0, "near", 0.0, 0.5),
        (0, 3.0, "in London", 5.0, 0.25),  # the better answer, of a window that has rather none
        (1, 1.0, "北京", 2.0, 0.0),
        (2, 4.0, "cat", 1.0, 1.0),
        (2, -2e9, "", 9.0, 0.0),
    ]
    examples = SimpleNamespace(records=RECORDS, record_ids=np.array([w[0] for w in windows]))
    answers = lambda record: [(text, 0, 0) for text in record["right"]]  # noqa: E731
    metrics = QuestionAnsweringMetrics(examples, answers, threshold)
    outputs = []
    for record, score, text, null, _ in windows:
        context = RECORDS[record]["context"].encode()
        start = context.find(text.encode())
        outputs.append([score, start, start + len(text.encode()), null])
    for i in order:
        loss = SimpleNamespace(
            outputs=np.array([outputs[i], [0, 0, 0, 0]], np.float32),
            rows=np.array([[windows[i][4], 1], [9, 0]], np.float32),
        )
        metrics.update({"sample_id": np.array([i, -1])}, loss)  # the second only fills
    return metrics


def test_the_best_window_of_a_question_answers_it():
    metrics = updated()
    assert metrics.num_samples == 3
    assert metrics.result() == pytest.approx({"loss": 1.75 / 5, "exact_match": 1, "f1": 1})
    details = metrics.details()
    assert details["answerable"]["questions"] == 2
    assert details["unanswerable"]["questions"] == 1
    assert "1 unanswerable: exact match 1.000" in metrics.report()
    assert updated(order=[4, 2, 0, 3, 1]).result() == pytest.approx(metrics.result())


@pytest.mark.parametrize(("threshold", "exact"), [(-3.5, 1 / 3), (-2.5, 1), (0.5, 1), (1.5, 2 / 3)])
def test_threshold(threshold, exact):
    assert updated(threshold).result()["exact_match"] == pytest.approx(exact)


def test_any_choice_of_questions():
    metrics = updated(1.5)
    assert [metrics.score(np.array([i]))["exact_match"] for i in range(3)] == [1, 0, 1]
    assert metrics.score(np.array([1, 1, 2]))["f1"] == pytest.approx(1 / 3)
