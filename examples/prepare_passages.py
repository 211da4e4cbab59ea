"""Makes passages with questions about them, for --task=extractive_qa. All of it is generated.

    python -m examples.prepare_passages

A passage tells of two people who do not exist, three facts of each: where and when they were born,
what they did, where they live, what they collect. The facts come in a random order, and later ones
call the person by the second name. A question asks for one fact of one person, in other words than
the passage; every fourth asks for what is not told. Names and places are put together from
syllables, and those of a passage are in no other. Writes train.jsonl, dev.jsonl and test.jsonl in
the form of SQuAD 2.0.
"""

import json
import os
import random

from absl import flags as absl_flags

from trainers import args
from trainers.files import replacing

SIZES = {"train": 300, "dev": 50, "test": 100}  # passages
QUESTIONS = 4  # of a passage; one has no answer
PEOPLE = 2
TOLD = 3  # facts of each
SYLLABLES = ["ba", "dor", "el", "fin", "gar", "ho", "il", "ka", "lo", "mir", "ne", "or", "pel",
             "qui", "ros", "sa", "tav", "ul", "ven", "wy", "zan"]  # fmt: skip
JOBS = ["baker", "bridge engineer", "clockmaker", "court painter", "dentist", "glass blower",
        "harbour pilot", "judge", "lighthouse keeper", "organ builder", "shepherd", "surgeon",
        "teacher of Latin", "translator", "weaver"]  # fmt: skip
THINGS = ["brass buttons", "old maps", "pressed flowers", "river stones", "sea shells",
          "postage stamps", "music boxes", "tin soldiers", "silver spoons", "feathers"]  # fmt: skip
# Kind of fact -> sentences with {who} and {it}, and questions.
FACTS = {
    "birthplace": (
        ["{who} was born in {it}.", "{who} came into the world in {it}.", "{who} is from {it}."],
        ["Where was {who} born?", "What is the birthplace of {who}?"],
    ),
    "year": (
        ["The year of {who}'s birth is {it}.", "{who}'s parents had the child in {it}."],
        ["When was {who} born?", "In which year was {who} born?"],
    ),
    "job": (
        ["{who} earned a living as a {it}.", "{who} became a {it} early on.", "{who} was a {it}."],
        ["What did {who} do for a living?", "What was the profession of {who}?"],
    ),
    "home": (
        ["Today {who} lives in {it}.", "{who} settled in {it}.", "The house of {who} is in {it}."],
        ["Where does {who} live?", "In which town is the home of {who}?"],
    ),
    "collection": (
        ["{who} collects {it}.", "At home {who} keeps a large number of {it}."],
        ["What does {who} collect?", "Which things does {who} gather?"],
    ),
}


def passage_flags(flags: args.FlagValues) -> None:
    """Passages."""
    absl_flags.DEFINE_string(
        "output_dir", "data/passages", "folder for the JSONL files", flag_values=flags
    )
    absl_flags.DEFINE_integer("seed", 1, "of what is drawn", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    rng, used = random.Random(flags.seed), set()
    for name, size in SIZES.items():
        path = os.path.join(flags.output_dir, f"{name}.jsonl")
        with replacing(path) as file:
            for _ in range(size):
                for record in passage(rng, used):
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{size * QUESTIONS:,} questions about {size:,} passages written to {path}")


def passage(rng: random.Random, used: set[str]) -> list[dict]:
    """Questions about a new passage, in the form of SQuAD.

    Args:
      used: names that others have; gets those of this one.
    """
    people = [(name(rng, used), name(rng, used)) for _ in range(PEOPLE)]
    facts = {
        (person, kind): value_of(kind, rng, used)
        for person in people
        for kind in rng.sample(list(FACTS), TOLD)
    }
    order = sorted(facts, key=lambda fact: rng.random())
    text, places, seen = "", {}, set()
    for person, kind in order:
        sentence = rng.choice(FACTS[kind][0])
        who = person[1] if person in seen else " ".join(person)
        seen.add(person)
        before = sentence[: sentence.index("{it}")].format(who=who)
        places[person, kind] = len(text) + len(before)
        text += sentence.format(who=who, it=facts[person, kind]) + " "
    untold = [(person, kind) for person in people for kind in FACTS if (person, kind) not in facts]
    asked = [*rng.sample(order, QUESTIONS - 1), rng.choice(untold)]
    records = []
    for person, kind in asked:
        question = rng.choice(FACTS[kind][1]).format(who=" ".join(person))
        there = (person, kind) in facts
        answers = {
            "text": [facts[person, kind]] if there else [],
            "answer_start": [places[person, kind]] if there else [],
        }
        records.append({"question": question, "context": text.strip(), "answers": answers})
    return records


def value_of(kind: str, rng: random.Random, used: set[str]) -> str:
    if kind == "year":
        return str(rng.randint(1790, 1999))
    if kind in ("job", "collection"):
        return rng.choice(JOBS if kind == "job" else THINGS)
    return name(rng, used)


def name(rng: random.Random, used: set[str]) -> str:
    """A name that is not among `used`, and is then."""
    while True:
        found = "".join(rng.sample(SYLLABLES, rng.randint(2, 3))).capitalize()
        if found not in used:
            used.add(found)
            return found


if __name__ == "__main__":
    args.run(main, [passage_flags])
