import json

import numpy as np
import pytest

from examples import prepare_opinions
from trainers import args


@pytest.mark.parametrize(
    ("text", "topic", "rest"),
    [
        ("@JetBlue lost my bag", "airlines", "lost my bag"),
        ("Late flights, US Airways!", "airlines", "Late , !"),
        ("My iPhone6 and iTunes", "apple", "My and"),
        ("A self-driving car", "cars", "A car"),
        ("#Coachella2015 line-up", "festival", "line-up"),
        ("my iphone on my flight", None, "my on my"),
        ("pineapple", None, "pineapple"),
    ],
)
def test_topic(text, topic, rest):
    assert prepare_opinions.topic_of(text) == topic
    assert prepare_opinions.nameless(text) == rest


def test_stream_loses_no_tweet_and_only_the_topics_bad_ones_jump():
    tweets = [
        {"text": f"{topic} {mood} {i}", "topic": topic, "mood": mood}
        for topic in ("apple", "cars") for mood in ("negative", "neutral") for i in range(200)
    ]  # fmt: skip
    rows = prepare_opinions.stream(tweets, "apple", 36, np.random.default_rng(0))
    assert sorted(row["text"] for row in rows) == sorted(tweet["text"] for tweet in tweets)
    hours = np.array([row["time"] - prepare_opinions.START for row in rows]) / 3600
    assert (np.diff(hours) >= 0).all()
    assert hours.min() < 2
    assert hours.max() > 46
    inside = [row for row, hour in zip(rows, hours, strict=True) if 36 <= hour < 38]
    of = {(row["topic"], row["mood"]): 0 for row in rows}
    for row in inside:
        of[row["topic"], row["mood"]] += 1
    assert of.pop(("apple", "negative")) > 75
    assert max(of.values()) < 25


def test_files(tmp_path, capsys):
    for part in ("train", "dev", "test"):
        rows = [("my iphone", "negative"), ("nothing", "neutral")] * 9
        lines = [
            json.dumps({"text": f"{part} {i} {words}", "label": mood})
            for i, (words, mood) in enumerate(rows)
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    argv = ["prepare_opinions", f"--input={tmp_path}", f"--output_dir={tmp_path / 'out'}"]
    groups = [prepare_opinions.opinion_flags]
    assert args.exit_status(prepare_opinions.main, groups, argv) == 0
    rows = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "out").glob("*.jsonl")
    }
    assert len(rows["mood_train"]) == 18
    assert {row["label"] for row in rows["topic_train"]} == {"apple"}
    assert ["iphone" in row["text"] for row in rows["topic_train"]] == [False, True] * 4 + [False]
    assert not any("iphone" in row["text"] for row in rows["topic_dev"] + rows["topic_test"])
    assert len(rows["stream"]) == 9
    assert {row["topic"] for row in rows["stream"]} == {"apple"}
    capsys.readouterr()
    argv[1] = "--input=/none"
    assert args.exit_status(prepare_opinions.main, groups, argv) == 1
    assert "/none/train.jsonl: no such file" in capsys.readouterr().err
