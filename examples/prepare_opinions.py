"""Makes the tweets into two tasks, topic and mood, and into a stream with a jump of bad opinions.

    python -m examples.fetch_data tweets
    python -m examples.prepare_tweets
    python -m examples.prepare_opinions

Writes topic_*.jsonl, mood_*.jsonl and stream.jsonl into data/opinions. The mood is what people said
of the tweet. The topic is made here: the tweets were collected by such words as `JetBlue`, `iPhone`
or `#deflategate`, and a tweet with words of one topic alone has that topic. Because the words would
give the answer away, every second tweet to learn from and all to evaluate on lack them.

The stream is the held-out tweets that have a topic, at even odds anywhere in 48 hours from
2015-03-01, each with its true topic and mood for comparison. The jump is made too: half of the
negative tweets about `--jump_topic` are taken out, and come within the two hours from
`--jump_hour` on.
"""

import json
import os
import re

import numpy as np
from absl import flags as absl_flags

from trainers import args
from trainers.files import replacing
from trainers.records import read_records
from trainers.splits import hash_fraction

TOPICS = {
    "airlines": r"united|us ?airways|american ?air|south ?west(air)?|jet ?blue|virgin ?america"
    r"|delta|airlines?|flights?",
    "apple": r"apple|aapl|iphone\w*|ipad\w*|ios|itunes|macbook\w*",
    "cars": r"self[- ]?driving|driver-?less( ?cars?)?|autonomous|google ?cars?",
    "festival": r"\w*coachella\w*",
    "football": r"\w*deflate ?gate\w*|patriots|tom ?brady|brady|nfl|super ?bowl|belichick|seahawks",
    "medicine": r"claritin|advil|tylenol|allerg\w+|antihistamines?",
}
_WORDS = {name: re.compile(rf"[@#]?\b({words})\b", re.IGNORECASE) for name, words in TOPICS.items()}
SMALL = {"train": 3000, "dev": 300, "test": 500}
START = 1425168000.0  # 2015-03-01 00:00 UTC, in seconds
HOURS, JUMP_HOURS = 48, 2
NEGATIVE = "negative"


def opinion_flags(flags: args.FlagValues) -> None:
    """Opinions."""
    define = {"flag_values": flags}
    absl_flags.DEFINE_string("input", "data/tweets", "folder that prepare_tweets wrote", **define)
    absl_flags.DEFINE_string("output_dir", "data/opinions", "folder for the files", **define)
    absl_flags.DEFINE_enum("jump_topic", "apple", list(TOPICS), "what the jump is about", **define)
    absl_flags.DEFINE_float("jump_hour", 36, "hours from the start to the jump", **define)
    absl_flags.DEFINE_integer("seed", 0, "draws the times", **define)


def main(flags: args.FlagValues) -> None:
    os.makedirs(flags.output_dir, exist_ok=True)
    for part, count in SMALL.items():
        tweets = _tweets(flags.input, part)
        told = [tweet for tweet in tweets if tweet["topic"]]
        topics = [
            {"text": text, "label": tweet["topic"]}
            for i, tweet in enumerate(told)
            if (text := tweet["text"] if part == "train" and i % 2 else nameless(tweet["text"]))
        ]
        moods = [{"text": tweet["text"], "label": tweet["mood"]} for tweet in tweets]
        _write(flags.output_dir, f"topic_{part}", topics[:count])
        _write(flags.output_dir, f"mood_{part}", moods[:count])
    told = [tweet for tweet in _tweets(flags.input, "test") if tweet["topic"]]
    rng = np.random.default_rng(flags.seed)
    _write(flags.output_dir, "stream", stream(told, flags.jump_topic, flags.jump_hour, rng))


def _tweets(folder: str, part: str) -> list[dict]:
    columns = {"text": "text", "label": "label"}
    return [
        {"text": record["text"], "topic": topic_of(record["text"]), "mood": record["label"]}
        for record in read_records(os.path.join(folder, f"{part}.jsonl"), columns)
    ]


def _write(folder: str, name: str, rows: list[dict]) -> None:
    path = os.path.join(folder, f"{name}.jsonl")
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows):,} records")


def topic_of(text: str) -> str | None:
    """The one topic whose words are in the text; None of several or none."""
    found = [name for name, words in _WORDS.items() if words.search(text)]
    return found[0] if len(found) == 1 else None


def nameless(text: str) -> str:
    """The text without the words that tell its topic."""
    for words in _WORDS.values():
        text = words.sub(" ", text)
    return " ".join(text.split())


def stream(tweets: list[dict], topic: str, hour: float, rng: np.random.Generator) -> list[dict]:
    """Tweets in the order of their times, half of the topic's negative ones after the jump.

    Args:
      tweets: with `text`, `topic` and `mood`.
      topic: of the jump.
      hour: from the start, of the jump.
      rng: draws the times; which tweets jump depends on their texts alone.

    Returns:
      The tweets with `time`, seconds since 1970.
    """
    rows = []
    for tweet in tweets:
        jumps = (
            tweet["topic"] == topic
            and tweet["mood"] == NEGATIVE
            and hash_fraction(tweet["text"], "jump") < 0.5
        )
        hours = hour + rng.uniform(0, JUMP_HOURS) if jumps else rng.uniform(0, HOURS)
        rows.append({"time": round(START + 3600 * hours, 3), **tweet})
    return sorted(rows, key=lambda row: row["time"])


if __name__ == "__main__":
    args.run(main, [opinion_flags])
