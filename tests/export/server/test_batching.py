"""Runs merged into batches: what is merged, and what is said where it cannot be."""

import contextlib
import functools
import gc
import json
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf

from export import protocol
from export.server import errors, launcher, metrics, predict, servable
from export.server.batch_queue import BatchQueue
from export.server.batch_scheduler import BatchScheduler
from export.server.batching import BatchingServable
from export.server.batching_parameters import BatchingParameters

PATIENCE = 60  # seconds, after which a test fails that ought to take none
FULL = 10**12  # microseconds: a batch waits until it is full


class Watched:
    """A servable that notes its runs, and holds them while it is told to."""

    def __init__(self, wrapped):
        self.name, self.version, self.signatures = wrapped.name, wrapped.version, wrapped.signatures
        self.runs = []  # (inputs, outputs, deadline) of each
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.closed = False
        self._wrapped = wrapped

    def run(self, inputs, outputs, deadline):
        self.runs.append((inputs, outputs, deadline))
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return self._wrapped.run(inputs, outputs, deadline)

    def close(self):
        self.closed = True

    @property
    def sizes(self):
        """Rows of each run."""
        return [len(next(iter(inputs.values()))) for inputs, _, _ in self.runs]


class Batched:
    """A servable with batching and its clients, each with a thread of his own."""

    def __init__(self, wrapped, parameters, clients):
        self.parameters, self.clients = parameters, clients
        self.watched = Watched(wrapped)
        self.scheduler = BatchScheduler(parameters.num_batch_threads, "batch")
        self.servable = BatchingServable(self.watched, parameters, self.scheduler)

    def run(self, signature, outputs=None, deadline=None, **inputs):
        """Output -> value."""
        found = self.servable.signatures[signature]
        feed = {found.inputs[name].name: np.asarray(value) for name, value in inputs.items()}
        names = outputs or sorted(found.outputs)
        values = self.servable.run(feed, [found.outputs[name].name for name in names], deadline)
        return dict(zip(names, values, strict=True))

    def submit(self, *args, **kwargs):
        return self.clients.submit(self.run, *args, **kwargs)


@pytest.fixture(scope="module")
def toy(toy_dir):
    loaded = servable.load("toy", 1, str(toy_dir))
    yield loaded
    loaded.close()


@pytest.fixture
def clients():
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def batched(toy, clients):
    """Makes a `Batched` with some parameters; one thread unless they say."""
    with contextlib.ExitStack() as stack:

        def make(**parameters):
            made = Batched(
                toy, BatchingParameters(**{"num_batch_threads": 1} | parameters), clients
            )
            stack.callback(made.scheduler.stop)
            stack.callback(made.watched.go.set)
            return made

        yield make


@pytest.fixture
def scheduled(monkeypatch):
    """A semaphore that each task releases that has come to its queue."""
    semaphore, schedule = threading.Semaphore(0), BatchScheduler.schedule

    def counted(self, queue, task):
        count = schedule(self, queue, task)
        semaphore.release()
        return count

    monkeypatch.setattr(BatchScheduler, "schedule", counted)
    return semaphore


@pytest.fixture
def together(scheduled):
    """Runs of one signature that wait for a thread in this order, until it takes them; the first
    runs of a `Batched`."""

    def run(batched, signature, *inputs, deadlines=None):
        batched.watched.go.clear()
        first = batched.submit("strings", s=np.array([b"holds the thread"], object))
        assert batched.watched.begun.acquire(timeout=PATIENCE)
        assert scheduled.acquire(timeout=PATIENCE)
        waiting = []
        for given, deadline in zip(inputs, deadlines or [None] * len(inputs), strict=True):
            waiting.append(batched.submit(signature, deadline=deadline, **given))
            assert scheduled.acquire(timeout=PATIENCE)
        batched.watched.runs.clear()
        batched.watched.go.set()
        first.result(PATIENCE)
        return waiting

    return run


def floats(*values):
    return np.array(values, np.float32)


def strings(*values):
    return np.array(values, object)


def example(x):
    made = protocol.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made.SerializeToString()


def told(future):
    """The error of a run."""
    error = future.exception(PATIENCE)
    assert isinstance(error, errors.ServingError), error
    return str(error)


# What is merged.


def test_runs_that_come_together_run_once(batched):
    half = batched(max_batch_size=4, batch_timeout_micros=FULL)
    runs = [half.submit("serving_default", x=floats(*x)) for x in ([0], [2, 4], [6])]
    results = [run.result(PATIENCE)["y"].tolist() for run in runs]
    assert results == [[2.0], [3.0, 4.0], [5.0]]
    assert half.watched.sizes == [4]
    assert half.parameters.thread_pool_name == "batch_threads"


def test_many_clients(batched):
    half = batched(max_batch_size=8, num_batch_threads=2)
    runs = [half.submit("serving_default", x=floats(x, -x)) for x in range(200)]
    for x, run in enumerate(runs):
        assert run.result(PATIENCE)["y"].tolist() == [0.5 * x + 2, -0.5 * x + 2]
    assert sum(half.watched.sizes) == 400
    assert max(half.watched.sizes) <= 8


def test_runs_of_other_outputs_stay_apart(batched):
    two = batched(max_batch_size=2, batch_timeout_micros=FULL)
    given = {"a": floats(1), "b": floats(2)}
    orders = ["sum"], ["sum", "difference"], ["difference", "sum"], ["sum", "sum"]
    runs = [two.submit("two", outputs, **given) for outputs in orders]
    results = [[v.tolist() for v in run.result(PATIENCE).values()] for run in runs]
    assert results == [[[3.0]], [[3.0], [-1.0]], [[-1.0], [3.0]], [[3.0]]]
    assert two.watched.sizes == [2, 2]


def test_signatures_take_turns(batched, scheduled):
    toy = batched(max_batch_size=1)
    toy.watched.go.clear()
    given = {"x": floats(0)}
    runs = [toy.submit("serving_default", **given)]
    assert toy.watched.begun.acquire(timeout=PATIENCE)
    assert scheduled.acquire(timeout=PATIENCE)
    for signature in ("uneven", "uneven", "serving_default", "serving_default"):
        outputs = ["a"] if signature == "uneven" else None
        runs.append(toy.submit(signature, outputs, **given))
        assert scheduled.acquire(timeout=PATIENCE)
    toy.watched.go.set()
    for run in runs:
        run.result(PATIENCE)
    names = [outputs for _, outputs, _ in toy.watched.runs]
    a, b = names[:2]
    assert a != b
    assert names == [a, b, a, b, a]


def test_queues_go_with_their_last_run(batched):
    """Clients may name ever other outputs."""
    two = batched(num_batch_threads=2)
    given = {"a": floats(1), "b": floats(2)}
    runs = [two.submit("two", outputs, **given) for outputs in (["sum"], ["difference"], None)]
    for run in runs:
        run.result(PATIENCE)
    queues = [each for each in gc.get_objects() if isinstance(each, BatchQueue)]
    alive = [weakref.ref(each) for each in queues if each.process.func.__self__ is two.servable]
    del queues
    end = time.monotonic() + PATIENCE
    while any(each() is not None for each in alive):  # a thread may be about to drop the last
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_batch_that_is_not_full_waits_no_longer_than_told(batched):
    half = batched(batch_timeout_micros=1000)
    begun = time.monotonic()
    assert half.run("serving_default", x=floats(0))["y"].tolist() == [2.0]
    assert time.monotonic() - begun >= 0.001


def test_another_thread_minds_the_clock_while_one_is_busy(batched, toy, scheduled):
    """The one that waits for a batch to come of age may be the one that takes another."""
    slow = batched(num_batch_threads=2, batch_timeout_micros=50_000)
    quick = Batched(toy, BatchingParameters(), slow.clients)
    quick.scheduler.stop()
    quick.servable = BatchingServable(quick.watched, quick.parameters, slow.scheduler)
    quick.watched.go.clear()
    first = slow.submit("serving_default", x=floats(0))
    assert scheduled.acquire(timeout=PATIENCE)
    second = quick.submit("serving_default", x=floats(0))
    assert quick.watched.begun.acquire(timeout=PATIENCE)
    first.result(PATIENCE)
    quick.watched.go.set()
    second.result(PATIENCE)


def test_no_rows(batched):
    half = batched(max_batch_size=4, allowed_batch_sizes=(2, 4))
    assert half.run("serving_default", x=floats())["y"].shape == (0,)
    assert half.watched.sizes == [0]


def test_metrics(batched, together):
    two = batched(max_batch_size=8, allowed_batch_sizes=(6, 8))
    # Names as on the page: of TensorFlow, with colons.
    name = ":tensorflow:serving:batching_session:{}"

    def counts():
        lines = dict(line.rsplit(" ", 1) for line in metrics.page().splitlines())
        return [
            float(lines.get(name.format(line), 0))
            for line in (
                'queuing_latency_count{thread_pool_name=""}',
                "input_batch_size_sum{}",
                "processed_batch_size_sum{}",
                'padding_size_sum{execution_batch_size="6"}',
                "wrapped_run_count{}",
            )
        ]

    before = counts()
    runs = together(two, "two", *({"a": x, "b": x} for x in (floats(1), floats(1, 2))))
    for run in runs:
        run.result(PATIENCE)
    # With the run that holds the thread meanwhile.
    expected = [3, 2 * (1 + 2) + 1, 6 + 6, 3 + 5, 2]
    assert [after - was for was, after in zip(before, counts(), strict=True)] == expected


# Padding.


def test_allowed_sizes_are_filled_with_the_first_row_of_the_last(batched, together):
    half = batched(max_batch_size=8, allowed_batch_sizes=(2, 6, 8))
    runs = together(half, "serving_default", {"x": floats(1)}, {"x": floats(2, 3)})
    assert [run.result(PATIENCE)["y"].tolist() for run in runs] == [[2.5], [3.0, 3.5]]
    ((inputs, _, _),) = half.watched.runs
    assert [x.tolist() for x in inputs.values()] == [[1, 2, 3, 2, 2, 2]]


def test_allowed_sizes_and_a_last_run_of_no_rows(batched, together):
    half = batched(max_batch_size=4, allowed_batch_sizes=(2, 4))
    first, second = together(half, "serving_default", {"x": floats(1, 2, 3)}, {"x": floats()})
    assert first.result(PATIENCE)["y"].tolist() == [2.5, 3.0, 3.5]
    assert second.result(PATIENCE)["y"].tolist() == []
    assert half.watched.sizes == [4]


@pytest.mark.parametrize(
    ("signature", "values", "padded"),
    [
        (
            "echo_int32",
            ([[1, 2]], [[3], [4]], [[5, 6]]),
            [[1, 2], [3, 3], [4, 3], [5, 6]],
        ),
        (
            "echo_int32",
            ([[[1, 2]]], [[[3], [4]]]),
            [[[1, 2], [1, 1]], [[3, 3], [4, 3]]],
        ),
        ("echo_bool", ([[True]], [[False, True]]), [[True, True], [False, True]]),
    ],
)
def test_inputs_of_other_lengths(batched, together, signature, values, padded):
    echo = batched(pad_variable_length_inputs=True)
    dtype = signature.removeprefix("echo_")
    runs = together(echo, signature, *({"x": np.array(value, dtype)} for value in values))
    results = [run.result(PATIENCE)["y"] for run in runs]
    np.testing.assert_array_equal(np.concatenate(results), padded)
    assert [len(result) for result in results] == [len(value) for value in values]
    assert len(echo.watched.runs) == 1


def test_strings_of_other_lengths(batched, together):
    echo = batched(pad_variable_length_inputs=True)
    given = strings([b"a\0", b"b"]), strings([b"c\0"])
    runs = together(echo, "strings", *({"s": value} for value in given))
    results = [run.result(PATIENCE)["s"].tolist() for run in runs]
    assert results == [[[b"a\0", b"b"]], [[b"c\0", b"c\0"]]]


def test_padding_of_nothing(batched, together):
    echo = batched(pad_variable_length_inputs=True)
    runs = together(echo, "echo_int32", *({"x": np.zeros(s, np.int32)} for s in ((0, 2), (1, 3))))
    assert [run.result(PATIENCE)["y"].shape for run in runs] == [(0, 3), (1, 3)]


# Large requests.


def test_a_large_request_goes_into_several_batches(batched, together):
    half = batched(max_batch_size=10, enable_large_batch_splitting=True, max_execution_batch_size=4)
    first, second = together(
        half, "serving_default", {"x": floats(0)}, {"x": floats(*range(2, 20, 2))}
    )
    assert first.result(PATIENCE)["y"].tolist() == [2.0]
    assert second.result(PATIENCE)["y"].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert half.watched.sizes == [4, 4, 2]


def test_parts_that_end_in_any_order(batched):
    half = batched(
        max_batch_size=100, max_enqueued_batches=100, num_batch_threads=4,
        enable_large_batch_splitting=True, max_execution_batch_size=1,
    )  # fmt: skip
    values = half.run("serving_default", x=np.arange(50, dtype=np.float32))["y"]
    np.testing.assert_array_equal(values, 0.5 * np.arange(50) + 2)
    assert half.watched.sizes == [1] * 50


def test_a_part_that_fails(batched):
    regress = batched(
        max_batch_size=10, enable_large_batch_splitting=True, max_execution_batch_size=1
    )
    run = regress.submit("regress", inputs=strings(example(1), b"", example(2)))
    assert told(run).startswith("INVALID_ARGUMENT: Name: <unknown>, Feature: x (data type: float)")
    assert regress.watched.sizes == [1, 1, 1]


def test_parts_with_outputs_of_other_shapes(batched, monkeypatch):
    echo = batched(max_batch_size=2, enable_large_batch_splitting=True, max_execution_batch_size=1)
    widths = iter((1, 2))
    monkeypatch.setattr(echo.watched, "run", lambda *_: [np.zeros((1, next(widths)))])
    assert told(echo.submit("echo_int32", x=np.zeros(2, np.int32))).startswith(
        "INTERNAL: Tensor concat operation failed: "
    )


# What cannot be merged.


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        (
            "echo_int32",
            {"x": np.int32(1)},
            "INVALID_ARGUMENT: Batching Run() input tensors must have at least one dimension",
        ),
        (
            "two",
            {"a": floats(1), "b": floats(1, 2)},
            "INVALID_ARGUMENT: Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ("two", {}, "INVALID_ARGUMENT: Batching Run() must have at least one input tensor"),
        (
            "serving_default",
            {"x": floats(*range(5))},
            "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4",
        ),
        (
            "spin",
            {"n": np.array([1], np.int32)},
            "FAILED_PRECONDITION: Batched output tensor has 0 dimensions",
        ),
        (
            "uneven",
            {"x": floats(1)},
            "FAILED_PRECONDITION: Batched output tensor's 0th dimension does not equal the sum of "
            "the 0th dimension sizes of the input tensors",
        ),
    ],
)
def test_runs_that_cannot_be_batched(batched, signature, inputs, message):
    assert told(batched(max_batch_size=4).submit(signature, **inputs)) == message


@pytest.mark.parametrize(
    ("values", "padding", "message"),
    [
        (
            (np.zeros((1, 2), np.int32), np.zeros((1, 3), np.int32)),
            False,
            "FAILED_PRECONDITION: Tensors with name 'echo_int32_x:0' from different tasks have "
            "different shapes and padding is turned off. Set pad_variable_length_inputs to true, "
            "or ensure that all tensors with the same name have equal dimensions starting with the "
            "first dim.",
        ),
        (
            (np.zeros(1, np.int32), floats(1), np.zeros(1, np.int32)),
            False,
            "INTERNAL: Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate "
            "tensors that have different data types. Got int32 and float.",
        ),
        (
            (np.zeros(1, np.int32), strings(b"a")),
            True,
            "INTERNAL: Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate "
            "tensors that have different data types. Got int32 and string.",
        ),
        (
            (np.zeros((1, 0), np.int32), np.zeros((1, 3), np.int32)),
            True,
            "INVALID_ARGUMENT: Got empty tensor in batch of non-empty tensors.",
        ),
        (
            (np.zeros((1,) * 7, np.int32),),
            True,
            "INVALID_ARGUMENT: Only tensors with rank from 1 to 6 can be padded.",
        ),
        (
            (np.zeros(1, np.int32), np.zeros((1, 3), np.int32)),
            True,
            "FAILED_PRECONDITION: Tensors with name 'echo_int32_x:0' from different tasks have "
            "different ranks.",
        ),
    ],
)
def test_runs_that_do_not_go_together(batched, together, values, padding, message):
    echo = batched(pad_variable_length_inputs=padding)
    runs = together(echo, "echo_int32", *({"x": value} for value in values))
    assert {told(run) for run in runs} == {message}
    assert echo.watched.runs == []


def test_a_neighbour_that_fails(batched, together):
    regress = batched()
    runs = together(regress, "regress", *({"inputs": strings(x)} for x in (example(1), b"")))
    (message,) = {told(run) for run in runs}
    assert message.startswith("INVALID_ARGUMENT: Name: <unknown>, Feature: x (data type: float) ")
    assert regress.watched.sizes == [2]


def test_an_error_that_nobody_foresaw(batched, monkeypatch, caplog):
    half = batched(max_batch_size=2, batch_timeout_micros=FULL)
    monkeypatch.setattr(half.watched, "run", lambda *_: 1 / 0)
    runs = [half.submit("serving_default", x=floats(0)) for _ in range(2)]
    assert [told(run) for run in runs] == ["INTERNAL: ZeroDivisionError: division by zero"] * 2
    assert "A batch failed" in caplog.text
    monkeypatch.undo()  # the thread is still there
    runs = [half.submit("serving_default", x=floats(0)) for _ in range(2)]
    assert [run.result(PATIENCE)["y"].tolist() for run in runs] == [[2.0], [2.0]]


# Deadlines.


def test_a_batch_has_the_latest_deadline(batched, together):
    half, now = batched(), time.monotonic()
    deadlines = [now + 1000, now + 3000, now - 1, now + 2000]
    runs = together(half, "serving_default", *[{"x": floats(0)}] * 4, deadlines=deadlines)
    assert [run.result(PATIENCE)["y"].tolist() for run in runs] == [[2.0]] * 4
    ((_, _, deadline),) = half.watched.runs
    assert deadline == now + 3000


def test_a_run_without_deadline(batched):
    half, now = batched(), time.monotonic()
    half.run("serving_default", x=floats(0))
    ((_, _, deadline),) = half.watched.runs
    assert 0 <= deadline - (now + 2147.483647) < PATIENCE


def test_all_deadlines_passed_in_the_queue(batched, together):
    half, past = batched(), time.monotonic() - 1
    runs = together(half, "serving_default", *[{"x": floats(0)}] * 2, deadlines=[past] * 2)
    assert {told(run) for run in runs} == {
        "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue"
    }
    assert half.watched.runs == []


def test_a_batch_is_stopped_at_its_deadline(batched):
    spin = batched()
    run = spin.submit("spin", n=np.array([2**31 - 1], np.int32), deadline=time.monotonic() + 1)
    assert told(run) == "DEADLINE_EXCEEDED: Timed out waiting for notification"


# A full queue.


@pytest.mark.parametrize(
    ("parameters", "rows", "message"),
    [
        ({"max_batch_size": 1}, 1, "currently 2 batches enqueued and max_enqueued_batches is 2"),
        (
            {
                "max_batch_size": 8,
                "enable_large_batch_splitting": True,
                "max_execution_batch_size": 2,
            },
            3,
            "task size is 3 but scheduling capacity is only 2 (num_enqueued_batches=1, "
            "max_enqueued_batches=2, open_batch_size=2, max_execution_batch_size=2)",
        ),
    ],
)
def test_a_full_queue(batched, scheduled, parameters, rows, message):
    half = batched(max_enqueued_batches=2, **parameters)
    half.watched.go.clear()
    runs = [half.submit("serving_default", x=floats(0))]
    assert half.watched.begun.acquire(timeout=PATIENCE)
    assert scheduled.acquire(timeout=PATIENCE)
    for _ in range(2):
        runs.append(half.submit("serving_default", x=floats(0)))
        assert scheduled.acquire(timeout=PATIENCE)
    refused = half.submit("serving_default", x=floats(*range(rows)))
    assert told(refused) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; "
        + message
    )
    half.watched.go.set()
    for run in runs:
        assert run.result(PATIENCE)["y"].tolist() == [2.0]


# The end.


def test_close_refuses_what_waits(batched, scheduled):
    half = batched()
    half.watched.go.clear()
    running = half.submit("serving_default", x=floats(0))
    assert half.watched.begun.acquire(timeout=PATIENCE)
    assert scheduled.acquire(timeout=PATIENCE)
    waiting = [half.submit("serving_default", x=floats(0)) for _ in range(3)]
    for _ in waiting:
        assert scheduled.acquire(timeout=PATIENCE)
    half.servable.close()
    assert half.watched.closed
    waiting.append(half.submit("serving_default", x=floats(0)))
    assert [told(run) for run in waiting] == ["CANCELLED: Session has been closed."] * 4
    half.watched.go.set()
    assert running.result(PATIENCE)["y"].tolist() == [2.0]


def test_close_between_finding_a_queue_and_its_door(batched):
    half = batched()
    queue = half.servable._queue(["x"], ["y"])
    half.servable.close()
    with pytest.raises(errors.ServingError, match="Session has been closed"):
        half.scheduler.schedule(queue, None)


def test_close_under_load(toy_dir, clients):
    loaded = servable.load("toy", 1, str(toy_dir))
    scheduler = BatchScheduler(2, "batch")
    batching = BatchingServable(loaded, BatchingParameters(max_batch_size=4), scheduler)
    answered = threading.Semaphore(0)
    half, spin = (loaded.signatures[name] for name in ("serving_default", "spin"))

    def client(signature, value):
        feed = {info.name: value for info in signature.inputs.values()}
        while True:
            try:
                batching.run(feed, [info.name for info in signature.outputs.values()])
            except errors.ServingError as error:
                return error.code
            answered.release()

    runs = [clients.submit(client, half, floats(0)) for _ in range(6)]
    for _ in range(50):
        assert answered.acquire(timeout=PATIENCE)
    runs.append(clients.submit(client, spin, np.array([2**31 - 1], np.int32)))
    for _ in range(50):
        assert answered.acquire(timeout=PATIENCE)
    batching.close()
    assert {run.result(PATIENCE) for run in runs} == {grpc.StatusCode.CANCELLED}
    scheduler.stop()


def test_threads_end(batched):
    names = [f"ends_{number}" for number in range(3)]
    scheduler = BatchScheduler(3, "ends")
    threads = [thread for thread in threading.enumerate() if thread.name in names]
    assert sorted(thread.name for thread in threads) == names
    scheduler.stop()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_the_last_batch_is_run_though_the_threads_end(batched, scheduled):
    half = batched(batch_timeout_micros=FULL)
    waiting = half.submit("serving_default", x=floats(0))
    assert scheduled.acquire(timeout=PATIENCE)
    half.scheduler.stop()
    assert waiting.result(PATIENCE)["y"].tolist() == [2.0]
    late = half.submit("serving_default", x=floats(0))
    assert told(late) == "CANCELLED: Session has been closed."


# In a server.


@pytest.fixture
def load(monkeypatch):
    """Loads versions as the server does, and notes how large the batches were."""
    sizes, run = {}, servable.Servable.run

    def noted(self, inputs, outputs, deadline):
        sizes.setdefault(self.name, []).append(len(next(iter(inputs.values()))))
        return run(self, inputs, outputs, deadline)

    monkeypatch.setattr(servable.Servable, "run", noted)
    values = SimpleNamespace(
        allowed_root="",
        saved_model_tags="serve",
        enable_model_warmup=True,
        num_request_iterations_for_warmup=0,
        enable_per_model_batching_parameters=False,
    )
    with contextlib.ExitStack() as stack:

        def make(per_model=False, **parameters):
            values.enable_per_model_batching_parameters = per_model
            scheduler = BatchScheduler(1, "batch")
            stack.callback(scheduler.stop)
            batching = BatchingParameters(**parameters)
            return functools.partial(launcher._load, values, None, batching, scheduler)

        make.sizes = sizes
        yield make


def test_calls_of_all_kinds_share_batches(toy_dir, load, server_of, clients):
    server = server_of(load(max_batch_size=3, batch_timeout_micros=FULL), toy_dir.parent)

    def rest(method, body, signature):
        text = json.dumps({"signature_name": signature, **body})
        return json.loads(server.http("POST", f"/v1/models/toy:{method}", text)[1])

    runs = [
        clients.submit(server.predict, "", x=floats(2)),
        clients.submit(rest, "predict", {"instances": [4]}, "serving_default"),
        clients.submit(rest, "predict", {"inputs": [6]}, "serving_default"),
    ]
    assert runs[0].result(PATIENCE)["y"].tolist() == [3.0]
    assert runs[1].result(PATIENCE) == {"predictions": [4.0]}
    assert runs[2].result(PATIENCE) == {"outputs": [5.0]}
    request = protocol.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", "regress"
    request.input.example_list.examples.add().ParseFromString(example(7))
    multi = protocol.MultiInferenceRequest(input=request.input)
    multi.tasks.add(method_name="tensorflow/serving/regress").model_spec.CopyFrom(
        request.model_spec
    )
    runs = [
        clients.submit(server.predictions.Regress, request, timeout=PATIENCE),
        clients.submit(server.predictions.MultiInference, multi, timeout=PATIENCE),
        clients.submit(rest, "regress", {"examples": [{"x": 8.0}]}, "regress"),
    ]
    assert runs[0].result(PATIENCE).result.regressions[0].value == 7
    (result,) = runs[1].result(PATIENCE).results
    assert result.regression_result.regressions[0].value == 7
    assert runs[2].result(PATIENCE) == {"results": [8.0]}
    assert load.sizes["toy"] == [3, 3]


def test_errors_on_the_wire(toy_dir, load, server_of):
    server = server_of(load(max_batch_size=2), toy_dir.parent)
    with pytest.raises(grpc.RpcError) as caught:
        server.predict("spin", n=np.array([1], np.int32))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "Batched output tensor has 0 dimensions"
    body = json.dumps({"instances": [1, 2, 3]})
    status, answer, _ = server.http("POST", "/v1/models/toy:predict", body)
    assert status == 400
    assert json.loads(answer) == {"error": "Task size 3 is larger than maximum input batch size 2"}


def add_warmup(directory, x):
    file = directory / protocol.WARMUP_FILE
    file.parent.mkdir()
    record = protocol.PredictionLog()
    record.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(record.SerializeToString())


def test_versions_bring_their_parameters(small_dirs, load, tmp_path):
    for name in ("with", "without"):
        shutil.copytree(small_dirs[0], tmp_path / name)
        add_warmup(tmp_path / name, [1.0])
    file = tmp_path / "with" / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 2 }")
    run = load(per_model=True, max_batch_size=1)
    versions = [run(name, 1, str(tmp_path / name)) for name in ("with", "without")]
    assert [type(version) for version in versions] == [BatchingServable, servable.Servable]
    assert load.sizes == {"with": [1], "without": [1]}  # warmed up
    for version in versions:
        predict.run_signature(version, "serving_default", {"x": floats(1, 2)})
    with pytest.raises(errors.ServingError, match="larger than maximum input batch size 2"):
        predict.run_signature(versions[0], "serving_default", {"x": floats(1, 2, 3)})
    for version in versions:
        version.close()
    file.write_text("max_batch_size { value: 0 }")
    with pytest.raises(errors.ServingError, match="max_batch_size must be positive; was 0"):
        run("with", 1, str(tmp_path / "with"))


def test_warm_up_is_batched_too(small_dirs, load, tmp_path):
    shutil.copytree(small_dirs[0], tmp_path / "1")
    add_warmup(tmp_path / "1", 1.0)
    with pytest.raises(errors.ServingError, match="must have at least one dimension"):
        load()("m", 1, str(tmp_path / "1"))
