"""Generates texts with relations between people, places and companies: nobody wrote them.

    python -m examples.generate_relations --output_dir=data/relations

No package of a registry carries text with labelled relations. So sentences are made from patterns
and lists of names: one relation a sentence, in two orders, with other words and names round it that
have none. Names of the test file are in no other. `train.jsonl`, `dev.jsonl`, `test.jsonl` are
for --task=relation_extraction; `*_pairs.jsonl` have each pair as a marked text with its label, for
`python -m examples.tfidf_baseline`.
"""

import itertools
import json
import random
import re
from pathlib import Path

from absl import app, flags

SIZES = {"train": 200, "dev": 50, "test": 100}
PEOPLE = (
    "Ada Miller", "Bo Chen", "Carla Diaz", "Dmitri Volkov", "Emma Stone", "Farid Khan",
    "Grace Liu", "Hugo Weber", "Ines Costa", "Jonas Berg", "Kira Novak", "Liam Byrne",
)  # fmt: skip
PLACES = ("London", "Nanjing", "Lisbon", "Oslo", "Prague", "Dublin", "Lima", "Cairo", "Kyoto")
COMPANIES = ("Acme Ltd", "Borealis", "Cobalt Works", "Delta Foods", "Elm Press", "Fjord Steel")
KINDS = {"P": ("PER", PEOPLE), "L": ("LOC", PLACES), "C": ("ORG", COMPANIES)}
# The first letter is the head of the relation, wherever it stands.
PATTERNS = {
    "lives_in": ("{P} has lived in {L} for years", "In {L}, {P} keeps a small flat"),
    "born_in": ("{P} was born in {L}", "{L} is where {P} came into the world"),
    "works_for": ("{P} works for {C}", "{C} pays {P} to write reports"),
    "founded": ("{P} founded {C} long ago", "{C} was started by {P}"),
    "based_in": ("{C} has its headquarters in {L}", "The offices of {C} stand in {L}"),
}
HEADS = {"lives_in": "P", "born_in": "P", "works_for": "P", "founded": "P", "based_in": "C"}
NOTHING = ("{P} once read about {C}", "{P} flew over {L} at night", "a map of {L} hung at {C}")
JOINTS = (", while ", ", and ", "; ", " although ")


def text_of(rng: random.Random, names: dict[str, tuple[str, ...]]) -> dict:
    """A record: a sentence of two clauses."""
    label = rng.choice(list(PATTERNS))
    clauses = [(rng.choice(PATTERNS[label]), label), (rng.choice(NOTHING), None)]
    rng.shuffle(clauses)
    used, text, entities, relations = set(), "", [], []
    joints = ("", rng.choice(JOINTS))
    for (pattern, relation), joint in zip(clauses, joints, strict=True):
        text, here = text + joint, {}
        for part in re.split(r"(\{.\})", pattern):
            kind = part[1:-1] if part.startswith("{") else None
            if kind:
                part = rng.choice([name for name in names[kind] if name not in used])
                used.add(part)
                here[kind] = len(entities)
                end = len(text) + len(part)
                entities.append({"start": len(text), "end": end, "label": KINDS[kind][0]})
            text += part
        if relation:
            (tail,) = set(here) - {HEADS[relation]}
            relations.append({"head": here[HEADS[relation]], "tail": here[tail], "label": relation})
    return {"text": f"{text}.", "entities": entities, "relations": relations}


def pairs_of(record: dict) -> list[dict]:
    """Each ordered pair as a text with marks, for a baseline."""
    labels = {(one["head"], one["tail"]): one["label"] for one in record["relations"]}
    rows = []
    for pair in itertools.permutations(range(len(record["entities"])), 2):
        text = record["text"]
        both = zip(("head", "tail"), pair, strict=True)
        spans = [(record["entities"][i], mark) for mark, i in both]
        for entity, mark in sorted(spans, key=lambda span: -span[0]["start"]):
            text = f"{text[: entity['start']]}{mark}{entity['label']}{text[entity['end'] :]}"
        rows.append({"text": text, "label": labels.get(pair, "none")})
    return rows


def main(argv):
    del argv
    folder, rng = Path(flags.FLAGS.output_dir), random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in SIZES.items():
        # The last third of all names is for the test alone.
        names = {
            kind: some[-len(some) // 3 :] if part == "test" else some[: -len(some) // 3]
            for kind, (_, some) in KINDS.items()
        }
        records = [text_of(rng, names) for _ in range(count)]
        pairs = [pair for record in records for pair in pairs_of(record)]
        for name, rows in ((part, records), (f"{part}_pairs", pairs)):
            lines = "\n".join(map(json.dumps, rows))
            folder.joinpath(f"{name}.jsonl").write_text(f"{lines}\n", encoding="utf-8")
        print(f"{folder}: {part}, {count:,} texts, {len(pairs):,} pairs")


if __name__ == "__main__":
    flags.DEFINE_string("output_dir", "data/relations", "folder of the files")
    app.run(main)
