"""What a call costs that computes next to nothing, on the local server.

    python -m benchmarks.overhead

The model is half_plus_two, one float in and one out. One client asks over gRPC, one call at a time:
the time of a call, p50 and p99, beside the session's own. Then --clients clients in two processes
ask as fast as they can: calls a second. Clients and server share the machine. With --server any
server that has such a model answers instead, the stock one too.
"""

import contextlib
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path

import grpc
from absl import flags

from benchmarks.server import NAME, Server
from export import cli, protocol

PROCESSES = 2  # a client in Python needs a core before the server does


def save(directory):
    """The model that every guide to TensorFlow Serving begins with."""
    import tensorflow as tf

    class HalfPlusTwo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def half_plus_two(self, x):
            return {"y": 0.5 * x + 2.0}

    module = HalfPlusTwo()
    tf.saved_model.save(module, directory, {"serving_default": module.half_plus_two})


def request_of(model):
    """x = [1]."""
    request = protocol.PredictRequest()
    request.model_spec.name = model
    proto = request.inputs["x"]
    proto.dtype = protocol.DataType.DT_FLOAT
    proto.tensor_shape.dim.add(size=1)
    proto.float_val.append(1.0)
    return request


def times(address, model, seconds, warmup=0.5):
    """Seconds of each call of one client."""
    request, found = request_of(model), []
    with grpc.insecure_channel(address) as channel:
        stub = protocol.PredictionServiceStub(channel)
        begun = time.monotonic()
        while time.monotonic() < begun + warmup + seconds:
            at = time.monotonic()
            response = stub.Predict(request, timeout=60)
            if response.outputs["y"].float_val[0] != 2.5:
                raise ValueError(f"{model}: not half_plus_two, it answered {response}")
            if at > begun + warmup:
                found.append(time.monotonic() - at)
    return found


def _client(address, model, seconds, threads, results):
    counts = [0] * threads

    def ask(i):
        counts[i] = len(times(address, model, seconds))

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put(sum(counts))


def rate(address, model, seconds, clients):
    """Calls a second of so many clients together."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    shares = [clients // PROCESSES + (i < clients % PROCESSES) for i in range(PROCESSES)]
    workers = [
        context.Process(target=_client, args=(address, model, seconds, share, results))
        for share in shares
        if share
    ]
    for worker in workers:
        worker.start()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / seconds


def session_times(directory, seconds):
    """Seconds of each run of the session, without a server."""
    import numpy as np

    from export.server import servable

    loaded = servable.load(NAME, 1, directory)
    signature = loaded.signatures["serving_default"]
    feed = {signature.inputs["x"].name: np.ones([1], np.float32)}
    fetch, found = [signature.outputs["y"].name], []
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        at = time.monotonic()
        loaded.run(feed, fetch)
        found.append(time.monotonic() - at)
    loaded.close()
    return found


@contextlib.contextmanager
def _server(values):
    """(address, name of the model, figures of the session)."""
    if values.server:
        yield values.server, values.model_name, {}
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = f"{folder}/1"
        save(directory)
        alone = session_times(directory, values.seconds / 2)
        figures = {"session_ms_p50": 1000 * statistics.median(alone)}
        with Server(folder, grpc_max_threads=2 * values.clients) as server:
            yield server.address, NAME, figures


def main():
    values = flags.FLAGS
    with _server(values) as (address, model, figures):
        calls = times(address, model, values.seconds)
        cuts = statistics.quantiles(calls, n=100)
        figures |= {"call_ms_p50": 1000 * cuts[49], "call_ms_p99": 1000 * cuts[98]}
        figures["calls_per_second"] = rate(address, model, values.seconds, values.clients)
    if "session_ms_p50" in figures:
        print(f"a run of the session alone: p50 {figures['session_ms_p50']:.3f} ms")
    print(f"1 client: a call p50 {figures['call_ms_p50']:.2f} ms, "
          f"p99 {figures['call_ms_p99']:.2f} ms")  # fmt: skip
    print(f"{values.clients} clients: {figures['calls_per_second']:.0f} calls/s")
    if values.output:
        path = Path(values.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures | {"clients": values.clients}, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("server", "", "host:port of a server that runs; else one is started.")
    flags.DEFINE_string("model_name", "half_plus_two", "Name of the model on that server.")
    flags.DEFINE_integer("clients", 8, "Clients at once.", lower_bound=1)
    flags.DEFINE_float("seconds", 5, "Seconds of each measurement.", lower_bound=0.2)
    flags.DEFINE_string("output", "", "JSON file for the figures.")
    cli.run(main)
