"""Public opinion, watched: a stream of texts in, an alert where a topic's share of bad ones jumps.

    python -m examples.opinions --server=localhost:8500 --model_name=opinions \\
        --input=data/opinions/stream.jsonl
    tail -f texts.jsonl | python -m examples.opinions --input=-

Reads lines of JSON with `time` (seconds since 1970, or ISO 8601) and `text`, asks a served model of
the two tasks topic and mood (examples/opinions.yaml) in batches over gRPC, and counts the texts and
the negative ones of each topic in windows of event time. An alert is a line of JSON.

The test. When a window ends, its negative share of each topic is held against that of the trailing
`--baseline` windows by Fisher's exact test, one-sided: the chance that of all these texts, so many
negative ones or more fall into the window if which do is chance alone. Below `--false_alarms`,
divided by the number of topics (Bonferroni), it alerts: where texts are independent and the share
stands still, at most so many windows alert wrongly. Copies of one text are not independent, and a
share that has its hours of the day does not stand still: leave out the ones, and take a baseline
of whole days for the other. A window that alerts never enters its topic's baseline, so a jump that
stays alerts until the baseline has gone by, and is then what others are held against.
"""

import collections
import datetime
import json
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags as absl_flags

from export.client import Client, ServerError
from trainers import args


class Count(NamedTuple):
    """What a window says of a topic.

    Attributes:
      topic: its name.
      start, end: seconds since 1970 from and until which the window goes.
      texts, negative: in the window.
      baseline_texts, baseline_negative: in the windows before it.
      p_value: of the test; 1 where there were too few texts for it.
      alert: whether the share has jumped.
    """

    topic: str
    start: float
    end: float
    texts: int
    negative: int
    baseline_texts: int
    baseline_negative: int
    p_value: float
    alert: bool


class Monitor:
    """Counts by topic and window, tested window by window.

    Args:
      topics: their names.
      window: seconds.
      baseline: trailing windows that a window is held against.
      min_texts: of a topic, in the window and in the baseline, for a test.
      false_alarms: chance of a wrong alert in a window, all topics together.

    Attributes:
      late: texts left out because their window had ended.
    """

    def __init__(
        self,
        topics: Sequence[str],
        window: float = 3600,
        baseline: int = 24,
        min_texts: int = 10,
        false_alarms: float = 1e-4,
    ):
        self.topics, self.window, self.min_texts = tuple(topics), window, min_texts
        self.level = false_alarms / len(self.topics)
        self.late = 0
        self._open: int | None = None  # number of the window
        self._counts = self._nothing()
        self._past = collections.deque(maxlen=baseline)  # counts of windows, without alerts

    def add(self, moment: float, topic: str, negative: bool) -> list[Count]:
        """Takes a text; what it says of the window that it ends, if it does."""
        number = math.floor(moment / self.window)
        if self._open is None:
            self._open = number
        if number < self._open:
            self.late += 1
            return []
        ended = []
        if number > self._open:
            ended = self.end()
            for _ in range(min(number - self._open - 1, self._past.maxlen)):
                self._past.append(self._nothing())
            self._open = number
        self._counts[self.topics.index(topic)] += (1, negative)
        return ended

    def end(self) -> list[Count]:
        """Ends the open window."""
        if self._open is None:
            return []
        before = sum(self._past, self._nothing())  # (topics, 2)
        found = []
        for i, topic in enumerate(self.topics):
            (texts, negative), (all_texts, all_negative) = self._counts[i], before[i]
            p_value = 1.0
            if min(texts, all_texts) >= self.min_texts:
                p_value = fisher(negative, texts, all_negative, all_texts)
            count = Count(
                topic, self._open * self.window, (self._open + 1) * self.window, int(texts),
                int(negative), int(all_texts), int(all_negative), p_value, p_value < self.level,
            )  # fmt: skip
            if count.alert:
                self._counts[i] = 0
            found.append(count)
        self._past.append(self._counts)
        self._counts = self._nothing()
        return found

    def _nothing(self) -> np.ndarray:
        """Texts and negative ones of each topic: (topics, 2)."""
        return np.zeros((len(self.topics), 2), np.int64)


def fisher(negative: int, texts: int, other_negative: int, other_texts: int) -> float:
    """Fisher's exact test that a share is no greater than another, one-sided.

    The chance of `negative` or more among `texts` drawn without return from all, of which
    `negative + other_negative` are negative (hypergeometric).
    """
    total, bad = texts + other_texts, negative + other_negative
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])  # log n!

    def choose(n, k):
        return logs[n] - logs[k] - logs[n - k]

    k = np.arange(negative, min(texts, bad) + 1)
    chances = np.exp(choose(bad, k) + choose(total - bad, texts - k) - choose(total, texts))
    return min(1.0, float(chances.sum()))


def monitor_flags(flags: args.FlagValues) -> None:
    """Monitor."""
    define = {"flag_values": flags}
    text, whole, real = absl_flags.DEFINE_string, absl_flags.DEFINE_integer, absl_flags.DEFINE_float
    text("input", "-", "file of JSON lines with time and text; - is standard input", **define)
    text("server", "localhost:8500", "host:port of the server's gRPC", **define)
    text("model_name", "opinions", "name of the model", **define)
    text("topic_signature", "classify_topic", "signature that says the topic", **define)
    text("mood_signature", "classify_mood", "signature that says the mood", **define)
    text("negative", "negative", "the label of a bad mood", **define)
    real("min_score", 0.5, "score of a topic below which a text has none", 0, 1, **define)
    real("window", 3600, "seconds that are counted together", 1e-3, **define)
    whole("baseline", 24, "windows before it that a window is held against", 1, **define)
    whole("min_texts", 10, "of a topic in window and baseline, for a test", 1, **define)
    real("false_alarms", 1e-4, "chance that a window alerts wrongly, all topics together", 0, 1,
         **define)  # fmt: skip
    whole("batch_size", 32, "texts in a request", 1, **define)
    real("max_wait", 1.0, "seconds that a text waits for others, at most", 0, **define)
    absl_flags.DEFINE_bool("counts", False, "print the windows that do not alert too", **define)


def main(flags: args.FlagValues) -> None:
    try:
        with Client(flags.server, flags.model_name) as client:
            if flags.input == "-":
                watch(client, sys.stdin, "stdin", flags)
            else:
                with open(flags.input, encoding="utf-8") as lines:
                    watch(client, lines, flags.input, flags)
    except ServerError as error:
        raise ValueError(f"--server={flags.server}: {error}") from error


def watch(client: Client, lines: Iterable[str], name: str, flags: args.FlagValues) -> None:
    """Asks, counts and prints until the stream ends."""
    monitor = None
    left_out = collections.Counter()

    def refuse(reason: str, where: str) -> None:
        left_out[reason] += 1
        print(f"{where}: left out: {reason}", file=sys.stderr)

    for batch in batches(read(lines, name, refuse), flags.batch_size, flags.max_wait):
        texts = {"texts": [text for _, text in batch]}
        topics = client.predict(texts, flags.topic_signature)
        moods = client.predict(texts, flags.mood_signature)
        if monitor is None:
            names = sorted(label.decode() for label in topics["labels"][0])
            known = sorted(label.decode() for label in moods["labels"][0])
            if flags.negative not in known:
                raise ValueError(f"--negative={flags.negative}: the model's are {', '.join(known)}")
            monitor = Monitor(
                names, flags.window, flags.baseline, flags.min_texts, flags.false_alarms
            )
        for i, (moment, _) in enumerate(batch):
            if topics["scores"][i][0] < flags.min_score:
                left_out["no topic is likely enough"] += 1
                continue
            negative = moods["labels"][i][0].decode() == flags.negative
            _print(monitor.add(moment, topics["labels"][i][0].decode(), negative), flags.counts)
    if monitor is not None:
        _print(monitor.end(), flags.counts)
        left_out["its window had ended"] += monitor.late
    for reason, count in sorted(left_out.items()):
        if count:
            print(f"{name}: {count:,} left out: {reason}", file=sys.stderr)
    if monitor is None and left_out:
        raise ValueError(
            f"--input={flags.input}: no line is a JSON object with a time and a text, such as "
            '{"time": "2015-03-01T12:00:00", "text": "..."}'
        )


def read(
    lines: Iterable[str], name: str, refuse: Callable[[str, str], Any]
) -> Iterator[tuple[float, str]]:
    """(seconds since 1970, text) of each line; what is none is told to `refuse` with its place."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            moment, text = row["time"], row["text"]
            if isinstance(moment, str):
                moment = datetime.datetime.fromisoformat(moment)
                if moment.tzinfo is None:
                    moment = moment.replace(tzinfo=datetime.UTC)
                moment = moment.timestamp()
            if not isinstance(text, str) or isinstance(moment, bool) or not math.isfinite(moment):
                raise TypeError
            text.encode()
        except (ValueError, TypeError, KeyError, OverflowError):
            refuse("no JSON object with a time and a text", f"{name}:{number}")
            continue
        yield float(moment), text


def batches(items: Iterable, size: int, wait: float) -> Iterator[list]:
    """Lists of up to `size` items; what came is passed on after `wait` seconds at the latest."""
    waiting = queue.Queue(2 * size)
    end = object()

    def fill():
        try:
            for item in items:
                waiting.put(item)
            waiting.put(end)
        except BaseException as error:  # raised again where the items are wanted
            waiting.put(error)

    threading.Thread(target=fill, daemon=True).start()
    item = waiting.get()
    while item is not end:
        batch, until = [], time.monotonic() + wait
        while item is not end:
            if isinstance(item, BaseException):
                raise item
            batch.append(item)
            if len(batch) == size:
                break
            try:
                item = waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
        yield batch
        if item is not end:
            item = waiting.get()


def _print(counts: list[Count], quiet_too: bool) -> None:
    for count in counts:
        if count.alert or (quiet_too and count.texts):
            times = {
                name: datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat()
                for name, value in (("start", count.start), ("end", count.end))
            }
            line = count._asdict() | times | {"p_value": float(f"{count.p_value:.3g}")}
            print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    args.run(main, [monitor_flags])
