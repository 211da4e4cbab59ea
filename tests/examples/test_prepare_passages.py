import random

from examples.overlap_baseline import answer, inverse_frequencies
from examples.prepare_passages import FACTS, QUESTIONS, passage
from gpt_keras.tasks.question_answerer import answers_of


def test_answers_stand_where_they_are_said_to():
    rng, used = random.Random(3), set()
    records = [record for _ in range(30) for record in passage(rng, used)]
    answers = [answers_of({**record, "where": "x:1"}) for record in records]
    assert None not in answers
    for i, found in enumerate(answers):
        assert len(found) == (i % QUESTIONS < QUESTIONS - 1)
    for record in records:  # what is asked for is told of that person, or not at all
        who = next(word for word in record["question"].split()[::-1] if word[0].isupper())
        assert who.strip("?") in record["context"]
    assert {text for found in answers for text, *_ in found}
    assert len({record["context"] for record in records}) == 30
    assert len(FACTS) == 5


def test_no_name_is_in_two_passages():
    rng, used = random.Random(4), set()
    first, before = passage(rng, used), set(used)
    second = passage(rng, used)
    new = used - before
    assert before
    assert new
    assert not any(name in first[0]["context"].split() for name in new)
    assert not any(name in second[0]["context"].split() for name in before)


def test_overlap():
    context = "Ada Lo lives in Gar. Bo Mir lives in Tavel, and is a court painter. Ada was happy."
    weights = inverse_frequencies([context, "He lives in Rome."])
    assert answer("What is Bo Mir?", context, weights) in ("Tavel", "court painter")
    assert answer("Where does Ada Lo live?", context, weights) in ("lives", "Gar")
