"""The monitor's statistics on made-up streams; and the whole of it on a tiny served model."""

import json
import threading
import time

import keras
import numpy as np
import pytest
from scipy import stats

import gpt_keras
from benchmarks.server import NAME, Server
from examples import opinions
from export import saved_model
from gpt_keras import tokenizers
from trainers import args, finetune

HOUR = 3600.0


def test_fisher_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(200):
        texts, others = rng.integers(1, 400, 2)
        negative, other = rng.integers(0, texts + 1), rng.integers(0, others + 1)
        table = [[negative, texts - negative], [other, others - other]]
        expected = stats.fisher_exact(table, "greater").pvalue
        found = opinions.fisher(negative, texts, other, others)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-300)


def feed(monitor, rng, shares, hours, rate=30, start=0):
    """Texts of all topics at these negative shares, `rate` an hour and topic; counts by window."""
    moments = np.sort(rng.uniform(start, start + hours, rate * hours * len(shares))) * HOUR
    found = []
    for moment in moments:
        i = rng.integers(len(shares))
        found += monitor.add(moment, monitor.topics[i], rng.random() < shares[i])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_jump_alerts_in_its_window_and_nothing_before(seed):
    rng = np.random.default_rng(seed)
    monitor = opinions.Monitor(["a", "b", "c"])
    before = feed(monitor, rng, [0.3, 0.6, 0.1], 48)
    after = feed(monitor, rng, [0.3, 0.6, 0.6], 3, start=48) + monitor.end()
    assert len(before) == 47 * 3
    assert not [count for count in before if count.alert]
    alerts = [count for count in after if count.alert]
    assert {count.topic for count in alerts} == {"c"}
    # The first is of the window that begins with the jump.
    assert (alerts[0].start, alerts[0].end) == (48 * HOUR, 49 * HOUR)


def test_no_more_false_alarms_than_were_allowed():
    monitor = opinions.Monitor(["a", "b"], false_alarms=0.1)
    counts = feed(monitor, np.random.default_rng(0), [0.2, 0.7], 400, rate=40)
    wrong = len({count.start for count in counts if count.alert})
    assert wrong <= stats.binom.ppf(0.999, 400, 0.1)
    assert wrong >= 8  # and the test is not one that never alerts


def test_what_enters_the_baseline():
    monitor = opinions.Monitor(["a", "b"], window=10, baseline=2, min_texts=5, false_alarms=0.05)
    for moment, negative in [(0, 0), (10, 0), (20, 1), (30, 1), (40, 1), (50, 1)]:
        ended = []
        for i in range(8):
            ended += monitor.add(moment + i, "a", bool(negative))
        if moment:
            a, b = ended
            assert (a.start, a.end, a.texts) == (moment - 10, moment, 8)
            assert (b.texts, b.p_value, b.alert) == (0, 1.0, False)
        if moment == 10:  # nothing before it
            assert (a.baseline_texts, a.p_value) == (0, 1.0)
        if moment == 30:
            assert (a.negative, a.baseline_texts, a.baseline_negative, a.alert) == (8, 16, 0, True)
        if moment == 40:  # without the window that alerted
            assert (a.baseline_texts, a.alert) == (8, True)
        if moment == 50:  # the old level has gone by
            assert (a.baseline_texts, a.alert) == (0, False)
    (a, _) = monitor.end()
    assert (a.baseline_texts, a.baseline_negative, a.alert) == (8, 8, False)
    assert monitor.add(49.9, "a", True) == []
    assert monitor.late == 1
    monitor.add(1e12, "a", True)  # far ahead: soon done, and all before has gone by
    assert monitor.end()[0].baseline_texts == 0


def test_lines_that_are_none():
    lines = [
        '{"time": 5, "text": "a"}\n', "\n", "no", "[1]", '{"time": true, "text": "b"}',
        '{"time": 1e999, "text": "c"}', '{"text": "d"}', '{"time": 1, "text": 2}',
        '{"time": "1970-01-01T00:01:00", "text": "e"}', '{"time": 2, "text": "\\ud800"}',
        '{"time": "1970-01-01T01:00:00+01:00", "text": "f", "more": 1}',
    ]  # fmt: skip
    refused = []
    found = list(opinions.read(lines, "x", lambda reason, where: refused.append(where)))
    assert found == [(5.0, "a"), (60.0, "e"), (0.0, "f")]
    assert refused == [f"x:{i}" for i in (3, 4, 5, 6, 7, 8, 10)]


def test_a_file_of_something_else_is_an_error(tmp_path, capsys):
    path = tmp_path / "tweets.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n')
    status, printed = watch("localhost:1", path, capsys)  # not even asked
    assert status == 1
    assert f"--input={path}: no line is a JSON object with a time and a text" in printed.err
    path.write_text("\n")
    assert watch("localhost:1", path, capsys) == (0, ("", ""))


def test_batches_are_full_or_waited_for():
    assert list(opinions.batches(range(7), 3, 60)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(opinions.batches([], 3, 60)) == []
    more = threading.Event()

    def slow():
        yield 1
        assert more.wait(60)
        yield 2
        raise OSError("gone")

    found = opinions.batches(slow(), 3, 0.05)
    started = time.monotonic()
    assert next(found) == [1]  # though nothing follows
    assert time.monotonic() - started < 30
    more.set()
    with pytest.raises(OSError, match="gone"):
        list(found)


THINGS = {"apple": ["phone", "screen"], "airlines": ["plane", "seat"]}
MOODS = {"negative": ["bad", "awful"], "neutral": ["same", "plain"]}


def texts(rng, count, topic=None, bad=0.3):
    """(text, topic, mood) of a word each."""
    for _ in range(count):
        thing = topic or str(rng.choice(list(THINGS)))
        mood = "negative" if rng.random() < bad else "neutral"
        yield f"{rng.choice(THINGS[thing])} {rng.choice(MOODS[mood])}", thing, mood


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """host:port of a server with a tiny model that has learned both tasks."""
    folder, rng = tmp_path_factory.mktemp("opinions"), np.random.default_rng(0)
    keras.utils.set_random_seed(1)
    spoken = [
        " ".join(word for some in (THINGS, MOODS) for words in some.values() for word in words)
    ] * 3
    tokenizer = tokenizers.train_byte_level_bpe(spoken, 300, ("<|endoftext|>",))
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_layers=1, num_heads=4, num_kv_heads=2,
        intermediate_size=40, max_position_embeddings=16,
    )  # fmt: skip
    gpt_keras.CausalLM(config, tokenizer).save_pretrained(folder / "tiny")
    rows = list(texts(rng, 200, bad=0.5))
    for name, place in (("topic", 1), ("mood", 2)):
        lines = [json.dumps({"text": row[0], "label": row[place]}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    data = ",".join(f"{name}={folder}/{name}.jsonl" for name in ("topic", "mood"))
    argv = [
        "finetune", f"--model={folder / 'tiny'}", f"--output_dir={folder / 'run'}",
        "--task=topic:classification,mood:classification", f"--train_data={data}",
        f"--eval_data={data}", "--num_epochs=5", "--global_batch_size=20", "--learning_rate=0.02",
        "--max_length=8", "--length_buckets=1", "--bootstrap=0", "--noxla",
    ]  # fmt: skip
    assert args.exit_status(finetune.main, finetune.FLAGS, argv) == 0
    report = json.loads((folder / "run" / "report.json").read_text())["eval"]
    assert min(report["topic/accuracy"], report["mood/accuracy"]) > 0.95
    model = gpt_keras.tasks.MultiTask.from_pretrained(folder / "run" / "model")
    quick = {"with_warmup": False, "with_verification": False}
    saved_model.export(model, folder / "versions", **quick)
    with Server(folder / "versions") as server:
        yield server.address


def watch(server, path, capsys, **flags):
    given = {"server": server, "model_name": NAME, "input": path, **flags}
    argv = ["opinions", *(f"--{key}={value}" for key, value in given.items())]
    status = args.exit_status(opinions.main, [opinions.monitor_flags], argv)
    return status, capsys.readouterr()


@pytest.mark.slow
def test_end_to_end(served, tmp_path, capsys):
    rng = np.random.default_rng(5)
    stream = [(hour, *row) for hour in range(8) for row in texts(rng, 60)]
    jump = [(6, *row) for row in texts(rng, 30, "apple", bad=1.0)]
    stream = sorted(stream + jump, key=lambda row: row[0])
    path = tmp_path / "stream.jsonl"
    lines = [
        json.dumps({"time": HOUR * (row[0] + i / len(stream)), "text": row[1]})
        for i, row in enumerate(stream)
    ]
    path.write_text("\n".join([*lines, "nonsense"]))
    status, printed = watch(served, path, capsys)
    assert status == 0, printed.err
    assert f"{path}:{len(lines) + 1}: left out: no JSON object" in printed.err
    (alert,) = [json.loads(line) for line in printed.out.splitlines()]
    assert (alert["topic"], alert["start"]) == ("apple", "1970-01-01T06:00:00+00:00")
    truth = [row for row in stream if row[0] == 6 and row[2] == "apple"]
    assert alert["texts"] == len(truth)
    assert alert["negative"] == sum(row[3] == "negative" for row in truth)

    status, printed = watch(served, path, capsys, counts=True)
    counts = [json.loads(line) for line in printed.out.splitlines()]
    assert sum(count["texts"] for count in counts) == len(stream)
    assert [count["alert"] for count in counts].count(True) == 1

    for flags, message in [
        ({"negative": "bad"}, "--negative=bad: the model's are negative, neutral"),
        ({"mood_signature": "x"}, "the model has no signature 'x'; it has classify_mood"),
        ({"server": "localhost:1"}, "--server=localhost:1: UNAVAILABLE"),
        ({"path": "/none"}, "/none: No such file"),
    ]:
        status, printed = watch(**{"server": served, "path": path, **flags}, capsys=capsys)
        assert (status, message in printed.err) == (1, True), printed.err
