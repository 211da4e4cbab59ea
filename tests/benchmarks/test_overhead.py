"""What a call costs: the figures, from real servers, and what is refused."""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import subprocess
import sys
import time

import grpc
import pytest

from benchmarks import overhead
from export import protocol

DELAY = 0.05  # seconds that a call to `serving` takes


def run(*args):
    command = [sys.executable, "-m", "benchmarks.overhead", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_figures(tmp_path):
    file = tmp_path / "deep" / "figures.json"
    done = run("--seconds=0.3", "--clients=3", f"--output={file}")
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert 0 < figures["session_ms_p50"] < figures["call_ms_p50"] <= figures["call_ms_p99"]
    assert figures["calls_per_second"] > 10
    assert f"3 clients: {figures['calls_per_second']:.0f} calls/s" in done.stdout


@contextlib.contextmanager
def serving(half_plus_two):
    """host:port of a server that answers (x, process of clients, its number of calls, from 1)."""
    calls = collections.defaultdict(lambda: itertools.count(1))

    def predict(request, context):
        process = context.peer()  # the clients of one share a connection
        call = next(calls[process])
        time.sleep(DELAY)
        response = protocol.PredictResponse()
        y = half_plus_two(request.inputs["x"].float_val[0], process, call)
        response.outputs["y"].float_val.append(y)
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        predict, protocol.PredictRequest.FromString, protocol.PredictResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": handler}
    )
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, [service])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_all_begin_at_once_and_the_clock_stops_with_the_last():
    slow = []

    def half_plus_two(x, process, call):
        if call == 1 and not slow:
            slow.append(process)
            time.sleep(2)  # the others are to wait for the first client of this process
        return 0.5 * x + 2.0

    with serving(half_plus_two) as address:
        found = overhead.rate(address, "m", 0.52, 4)
    # 11 calls of each client, the last of which ends later: 11 / 0.52 s would be too many.
    assert 0.6 * 4 / DELAY < found <= 4 / DELAY


def test_a_client_that_fails_before_all_are_ready():
    wrong = []

    def half_plus_two(x, process, call):
        if call == 3 and not wrong:
            wrong.append(process)
            return 0.0
        return 0.5 * x + 2.0

    with (
        serving(half_plus_two) as address,
        pytest.raises(ValueError, match=r"m: not half_plus_two, which answers 2.5 to 1.0, not 0.0"),
    ):
        overhead.rate(address, "m", 0.2, 4)


def test_no_server():
    with pytest.raises(ValueError, match="UNAVAILABLE: failed to connect to all addresses"):
        overhead.rate("127.0.0.1:1", "m", 0.2, 2)


def test_misuse():
    done = run("--clients=0")
    assert done.returncode == 2
    assert "flag --clients=0" in done.stderr
