"""Makes tagged words out of what examples.fetch_data brings: one JSON object a sentence.

    python -m examples.fetch_data msra brown
    python -m examples.prepare_tagging

Writes `data/msra/{train,dev,test}.jsonl`, Chinese characters with BMES tags of persons, places and
organisations, and `data/brown/{train,dev,test}.jsonl`, English words with their parts of speech:
the first part of Brown's tags, `nn` of `nn-tl` or `nn+bez`, and `x` for the rare ones. Small files
beside them have the first sentences of those. `data/msra/{train,dev}.txt` are texts without tags, a
sentence a line, for an encoder to learn the language from.
"""

import collections
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import app, flags

DATA = Path("data")
RARE = 1000  # words of a tag, below which it becomes `x`
SMALL = {"train": 4000, "dev": 500, "test": 1000}
_TAG = re.compile(r"[-+]")  # what comes behind is a title, a headline, or a second word


def msra(lines: Iterable[str]) -> Iterator[dict]:
    """Sentences of lines with a character and its tag, and blank lines between them."""
    tokens, tags = [], []
    for line in [*lines, ""]:
        parts = line.split()
        if len(parts) == 2:
            tokens.append(parts[0])
            tags.append(parts[1])
        elif tokens:
            yield {"tokens": tokens, "tags": tags}
            tokens, tags = [], []


def brown(text: str) -> Iterator[dict]:
    """Sentences of lines of word/tag."""
    for line in text.splitlines():
        pairs = [pair.rpartition("/") for pair in line.split()]
        pairs = [(word, _plain(tag)) for word, _, tag in pairs if word and tag]
        if pairs:
            tokens, tags = zip(*pairs, strict=True)
            yield {"tokens": list(tokens), "tags": list(tags)}


def _plain(tag: str) -> str:
    """Without what a tag says of titles and headlines; punctuation is tagged with itself."""
    return _TAG.split(tag.removeprefix("fw-"))[0] or tag


def part_of(record: dict) -> str:
    """Which of the parts a sentence is in, by a hash of it: 80, 10 and 10 of a hundred."""
    digest = hashlib.sha256(" ".join(record["tokens"]).encode()).digest()
    return ("dev", "test", *["train"] * 8)[digest[0] % 10]


def write(folder: Path, parts: dict[str, list[dict]]) -> None:
    """Files of the parts, and small ones; says how many sentences each has."""
    for part, records in parts.items():
        for name, some in ((part, records), (f"{part}_small", records[: SMALL[part]])):
            lines = (json.dumps(record, ensure_ascii=False) for record in some)
            folder.joinpath(f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(f"{folder / name}.jsonl: {len(some):,} sentences")


def write_texts(folder: Path, parts: dict[str, list[dict]]) -> None:
    """The words alone, without blanks between them, a line a sentence."""
    for part, records in parts.items():
        lines = ("".join(record["tokens"]) for record in records)
        folder.joinpath(f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv):
    del argv
    root = Path(flags.FLAGS.data_dir)
    folder = root / "msra"
    train = list(msra(_lines(folder / "msra_train.txt")))
    parts = {"train": [], "dev": [], "test": list(msra(_lines(folder / "msra_test.txt")))}
    for record in train:
        parts["dev" if part_of(record) == "dev" else "train"].append(record)
    write(folder, parts)
    write_texts(folder, {part: parts[part] for part in ("train", "dev")})
    folder = root / "brown"
    parts = {"train": [], "dev": [], "test": []}
    for path in sorted(folder.glob("c[a-r][0-9][0-9]")):
        for record in brown(path.read_text(encoding="latin-1")):
            parts[part_of(record)].append(record)
    counts = collections.Counter(tag for record in parts["train"] for tag in record["tags"])
    for record in (record for records in parts.values() for record in records):
        record["tags"] = [tag if counts[tag] >= RARE else "x" for tag in record["tags"]]
    # By turns from all genres, for the small files.
    write(folder, {part: sorted(records, key=_order) for part, records in parts.items()})


def _order(record):
    return hashlib.sha256(" ".join(record["tokens"]).encode()).digest()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", str(DATA), "where examples.fetch_data has put them")
    app.run(main)
