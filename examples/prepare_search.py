"""Makes data for a search out of Debian's package descriptions.

    python -m examples.prepare_search

What a package is called in a line is what is searched for, its description what is to be found.
Fetches the package lists of this Debian's sources into `data/debian` with apt-get, without touching
those of the system; licences are those of the packages. Of packages whose descriptions begin alike,
as those of one source do, the first one counts. Writes train.jsonl, dev.jsonl and test.jsonl (80, 5
and 15 %, by a hash of the query) and of each a small one of 2,000, 200 and 500.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import app

from trainers.files import replacing
from trainers.splits import hash_fraction, normalize

FOLDER = Path("data/debian")
SMALL = {"train": 2000, "dev": 200, "test": 500}
SHARES = {"dev": 0.05, "test": 0.2}  # where each ends, by the hash; the rest is to train on


def descriptions(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The line and the paragraphs of each package, out of a file Translation-en of apt."""
    title, paragraphs = "", [[]]
    for line in [*lines, ""]:
        if line.startswith("Description-en:"):
            title, paragraphs = line.partition(":")[2].strip(), [[]]
        elif line.startswith(" .") and title:
            paragraphs.append([])
        elif line.startswith(" ") and title:
            paragraphs[-1] += line.split()
        elif title:
            yield title, [" ".join(words) for words in paragraphs if words]
            title = ""


def records(found: Iterable[tuple[str, list[str]]]) -> Iterator[dict]:
    """Records `query`, `positive` of descriptions, each query and first paragraph once."""
    seen = set()
    for title, paragraphs in found:
        keys = {normalize(title), normalize(paragraphs[0])} if paragraphs else set()
        if keys and not keys & seen:
            seen |= keys
            yield {"query": title, "positive": " ".join(paragraphs)}


def split(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Rows by the part they fall into, in an order that depends on the queries alone."""
    parts = {"train": [], "dev": [], "test": []}
    for row in sorted(rows, key=_place):
        parts[next((n for n, end in SHARES.items() if _place(row)[0] < end), "train")].append(row)
    return parts


def _place(row):
    return hash_fraction(normalize(row["query"]), "search"), row["query"]


def fetch(folder: Path) -> list[str]:
    """Lines of the descriptions of all packages that apt knows of.

    Raises:
      ValueError: apt-get fails, or its sources have no descriptions.
    """
    lists, cache = folder.absolute() / "lists", folder.absolute() / "cache"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    cache.mkdir(exist_ok=True)
    if not list(lists.glob("*Translation-en*")):
        options = ["Acquire::Languages=en", f"Dir::State::Lists={lists}", f"Dir::Cache={cache}"]
        command = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
        _run([*command, "update"])
    files = sorted(map(str, lists.glob("*Translation-en*")))
    if not files:
        raise ValueError(f"{lists}: apt-get has fetched no Translation-en; is this a Debian?")
    return _run(["/usr/lib/apt/apt-helper", "cat-file", *files]).splitlines()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(f"{command[0]}: not found; this needs a Debian or Ubuntu") from error
    if done.returncode:
        raise ValueError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def main(_: list[str]) -> None:
    parts = split(records(descriptions(fetch(FOLDER))))
    for name, rows in parts.items():
        for kind, some in ((name, rows), (f"{name}_small", rows[: SMALL[name]])):
            with replacing(os.fspath(FOLDER / f"{kind}.jsonl"), "w") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
            print(f"{FOLDER / kind}.jsonl: {len(some):,} records")


if __name__ == "__main__":
    try:
        app.run(main)
    except ValueError as error:
        sys.exit(str(error))
