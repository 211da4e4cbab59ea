"""What a server counts, and the page that Prometheus reads it from, with the stock server's names.

Sources: servables/tensorflow/util.cc, saved_model_warmup_util.cc; batching/batching_session.cc,
batching_util.h; util/prometheus_exporter.cc. The
metrics of TensorFlow itself, which the stock page has too, cannot be read from Python.
"""

import bisect
import itertools
import re
import threading
import time
from collections.abc import Container, Iterable, Sequence

PATH = "/monitoring/prometheus/metrics"
_MOST_STRANGERS = 1_000  # names of models that there are not: clients send them
_LONGEST_STRANGER = 128  # characters
_strangers, _strangers_lock = set(), threading.Lock()


class _Metric:
    """Values for each combination of labels. Thread-safe."""

    kind = ""

    def __init__(self, name: str, labels: Sequence[str]):
        self.name, self._labels = name, labels
        self._cells, self._lock = {}, threading.Lock()

    def add(self, *values: str, by: float = 1) -> None:
        """Counts: a value for each label, and how much."""
        with self._lock:
            cell = self._cells.get(values)
            if cell is None:
                cell = self._cells[values] = self._new()
            self._count(cell, by)

    def first(self) -> int:
        """The count of the first combination of labels; 0 where what is counted is no number."""
        return 0

    def lines(self) -> list[str]:
        """For the page."""
        name = re.sub("[^a-zA-Z0-9_]", ":", self.name)
        with self._lock:
            cells = sorted((values, list(cell)) for values, cell in self._cells.items())
        lines = [f"# TYPE {name} {self.kind}"]
        for values, cell in cells:
            pairs = zip(self._labels, values, strict=True)
            lines += self._of_cell(name, ",".join(f'{k}="{_escaped(v)}"' for k, v in pairs), cell)
        return lines


class Counter(_Metric):
    """A number that grows."""

    kind = "counter"

    def first(self):
        with self._lock:
            return self._cells[min(self._cells)][0] if self._cells else 0

    def _new(self):
        return [0]

    def _count(self, cell, by):
        cell[0] += by

    def _of_cell(self, name, labels, cell):
        return [f"{name}{{{labels}}} {cell[0]:d}"]


class Histogram(_Metric):
    """How often values were in which of `buckets` buckets; the first ends at `scale`, each next
    one at `growth` times as much, the last nowhere."""

    kind = "histogram"

    def __init__(self, name, labels, scale, growth, buckets):
        super().__init__(name, labels)
        limits = [scale]
        while len(limits) < buckets:
            limits.append(limits[-1] * growth)
        self._limits = limits

    def _new(self):
        return [0] * (len(self._limits) + 1) + [0.0]  # of each bucket; the sum of all values

    def _count(self, cell, by):
        cell[bisect.bisect_right(self._limits, by)] += 1
        cell[-1] += by

    def _of_cell(self, name, labels, cell):
        counts = list(itertools.accumulate(cell[:-1]))
        comma = "," if labels else ""
        ends = [*(f"{limit:g}" for limit in self._limits), "+Inf"]
        lines = [
            f'{name}_bucket{{{labels}{comma}le="{end}"}} {count}'
            for end, count in zip(ends, counts, strict=True)
        ]
        return [
            *lines,
            f"{name}_sum{{{labels}}} {cell[-1]:g}",
            f"{name}_count{{{labels}}} {counts[-1]}",
        ]


def _escaped(value: str) -> str:
    """As the stock page, but that a line break does not break the page."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_LATENCY = {"scale": 10, "growth": 1.8, "buckets": 33}  # microseconds, up to 20 minutes
_ROWS = {"scale": 1, "growth": 2, "buckets": 14}
_PREFIX = "/tensorflow/serving/"
_BATCHING = _PREFIX + "batching_session/"

REQUEST_COUNT = Counter(_PREFIX + "request_count", ["model_name", "status"])
REQUEST_LATENCY = Histogram(
    _PREFIX + "request_latency", ["model_name", "API", "entrypoint"], **_LATENCY
)
RUNTIME_LATENCY = Histogram(
    _PREFIX + "runtime_latency", ["model_name", "API", "runtime"], **_LATENCY
)
REQUEST_EXAMPLE_COUNTS = Histogram(_PREFIX + "request_example_counts", ["model"], 1, 2, 15)
REQUEST_EXAMPLE_COUNT_TOTAL = Counter(_PREFIX + "request_example_count_total", ["model"])
MODEL_WARMUP_LATENCY = Histogram(
    _PREFIX + "model_warmup_latency", ["model_path", "status"], **_LATENCY
)
MODEL_WARMUP_RECORDS_READ = Counter(_PREFIX + "model_warmup_records_read", ["model_path", "status"])
BATCH_QUEUING_LATENCY = Histogram(_BATCHING + "queuing_latency", ["thread_pool_name"], 100, 1.2, 52)
BATCH_INPUT_SIZE = Histogram(_BATCHING + "input_batch_size", [], **_ROWS)
BATCH_PROCESSED_SIZE = Histogram(_BATCHING + "processed_batch_size", [], **_ROWS)
BATCH_PADDING_SIZE = Histogram(_BATCHING + "padding_size", ["execution_batch_size"], **_ROWS)
BATCH_RUN_COUNT = Counter(_BATCHING + "wrapped_run_count", [])
ALL = {metric.name: metric for metric in list(globals().values()) if isinstance(metric, _Metric)}


def model_label(name: str, known: Container[str]) -> str:
    """The name of a model as a label: one of those known, or one that a client made up, of which
    only so many are told apart, by their beginnings."""
    if name in known:
        return name
    name = name[:_LONGEST_STRANGER]
    with _strangers_lock:
        if len(_strangers) < _MOST_STRANGERS:
            _strangers.add(name)
        return name if name in _strangers else ""


def micros_since(begun: float) -> float:
    """Microseconds, since a time on the clock of `time.monotonic`."""
    return 1e6 * (time.monotonic() - begun)


def page() -> str:
    """All of them, for Prometheus."""
    lines = itertools.chain.from_iterable(ALL[name].lines() for name in sorted(ALL))
    return "\n".join(lines) + "\n"


def counts(names: Iterable[str]) -> dict[str, int]:
    """What HandleReloadConfigRequest tells of metrics: see `first`; 0 for one that there is not."""
    return {name: ALL[name].first() if name in ALL else 0 for name in names}
