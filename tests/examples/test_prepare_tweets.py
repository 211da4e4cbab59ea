import csv
import json

import pytest

from examples.prepare_tweets import main, repair, tweet_flags, tweet_key
from trainers import args


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("can‰Ûªt ‰ÛÏwait‰Ûù‰Û_", "can’t “wait”…"),
        ("Google’¢_äŒ_Ü¢s cars", "Google’s cars"),
        ("Q&amp;A &gt;\r\n here ", "Q&A > here"),
        ("_Ù÷â plain", "_Ù÷â plain"),
    ],
)
def test_repair(broken, whole):
    assert repair(broken) == whole
    assert repair(whole) == whole


def test_retweets_and_copies_with_another_link_are_the_same_text():
    original = tweet_key("Our fleet's on fleek. http://t.co/b5t #jet")
    assert original == tweet_key("RT @JetBlue: our FLEET's on fleek http://t.co/xyz! #jet")
    assert original == tweet_key("“@JetBlue: Our fleet's on fleek. #jet htt…”")
    assert original != tweet_key("Our fleet's on fleek. jet")


def write_table(path, rows):
    with path.open("w", encoding="mac_roman", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentiment", "confidence", "text"])
        writer.writerows(rows)


def prepare(tmp_path, rows):
    write_table(tmp_path / "table.csv", rows)
    out = tmp_path / "out"
    argv = ["prepare_tweets", f"--input={tmp_path}", f"--output_dir={out}"]
    status = args.exit_status(main, [tweet_flags], argv)
    parts = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in out.glob("*.jsonl")
    }
    return status, parts


def test_parts_share_no_text_and_do_not_depend_on_the_order(tmp_path, capsys):
    rows = [("positive", "1", f"tweet number {i} ‰Ûª") for i in range(400)]
    rows += [("positive", "1", "RT @a: tweet number 7 ‰Ûª"), ("neutral", "", "twice @b")]
    rows += [("negative", "0.5", "twice")]
    status, parts = prepare(tmp_path, rows)
    assert status == 0
    assert "403 tweets, of which 1 copies and 2 of contradictory labels" in capsys.readouterr().out
    texts = [row["text"] for name in ("train", "dev", "test") for row in parts[name]]
    assert sorted(texts) == sorted(f"tweet number {i} ’" for i in range(400))
    assert 20 < len(parts["test"]) < 70
    assert 5 < len(parts["dev"]) < 40
    for name in ("train", "dev", "test"):
        small = parts[f"{name}_small"]
        assert small == parts[name][: len(small)]
    assert prepare(tmp_path, rows[::-1])[1].keys() == parts.keys()
    again = prepare(tmp_path, rows[:400][::-1])[1]
    assert again == parts


def test_no_table(tmp_path, capsys):
    argv = ["prepare_tweets", f"--input={tmp_path}"]
    assert args.exit_status(main, [tweet_flags], argv) == 1
    assert "*.csv: no file matches" in capsys.readouterr().err
