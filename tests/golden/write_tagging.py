"""Writes tests/golden/tagging.json: what seqeval says of random tags.

python tests/golden/write_tagging.py
"""

import json
import pathlib
import random

from seqeval import metrics, scheme

FILE = pathlib.Path(__file__).with_name("tagging.json")
SCHEMES = {"BIO": scheme.IOB2, "BMES": scheme.IOBES, "BIOES": scheme.IOBES}
LABELS = ("LOC", "ORG", "PER")


def rows_of(rng, tags):
    """Rows of tags, of which many are against the scheme, and others like them."""
    true = [[rng.choice(tags) for _ in range(rng.randrange(1, 9))] for _ in range(60)]
    found = [[tag if rng.random() < 0.6 else rng.choice(tags) for tag in row] for row in true]
    return true, found


def asked(rng: random.Random, name: str) -> dict:
    """Random rows of tags of a scheme of ours, and what seqeval says of them in strict mode."""
    tags = ["O", *(f"{prefix}-{label}" for label in LABELS for prefix in name if prefix != "O")]
    true, found = rows_of(rng, tags)
    # What is called M here, is I there.
    rows = [[[tag.replace("M-", "I-") for tag in row] for row in some] for some in (true, found)]
    options = {"mode": "strict", "scheme": SCHEMES[name], "zero_division": 0}
    report = metrics.classification_report(*rows, output_dict=True, **options)
    entities = scheme.Entities(rows[0], SCHEMES[name]).entities
    return {
        "true": true,
        "found": found,
        "f1": metrics.f1_score(*rows, **options),
        "precision": metrics.precision_score(*rows, **options),
        "recall": metrics.recall_score(*rows, **options),
        "accuracy": metrics.accuracy_score(*rows),
        "labels": {
            label: [float(report[label]["f1-score"]), int(report[label]["support"])]
            for label in LABELS
        },
        "spans": [[[x.start, x.end, x.tag] for x in row] for row in entities],
    }


def main() -> None:
    rng = random.Random(0)
    written = {name: asked(rng, name) for name in ("BIO", "BMES")}
    FILE.write_text(json.dumps(written, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
