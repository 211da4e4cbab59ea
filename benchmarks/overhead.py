"""What a call costs that computes next to nothing, on the local server.

    python -m benchmarks.overhead

The model is half_plus_two, one float in and one out. One client asks over gRPC, one call at a time:
the time of a call, p50 and p99, beside the session's own. Then --clients clients in two processes
ask as fast as they can, from when all are ready until the last has its last answer: calls a second.
Clients and server share the machine. With --server any server that has such a model answers
instead, the stock one too.
"""

import concurrent.futures
import contextlib
import multiprocessing
import statistics
import tempfile
import time

import grpc
from absl import flags

from benchmarks import one_float
from benchmarks.server import NAME, Server
from export import cli, protocol
from trainers.files import write_json

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


def calls(address, model, seconds, ready=lambda: None, warmup=0.5):
    """(begin, end) of each call that one client begins within so many seconds.

    Args:
      ready: called after `warmup` seconds of calls that do not count; may wait for others.

    Raises:
      ValueError: a call failed, or it is another model. `ready` is called all the same.
    """
    request, spans = one_float.request(model, 1.0), []
    with grpc.insecure_channel(address) as channel:
        stub = protocol.PredictionServiceStub(channel)

        def call():
            begin = time.monotonic()
            if (y := one_float.ask(stub, request)) != 2.5:
                raise ValueError(f"{model}: not half_plus_two, which answers 2.5 to 1.0, not {y}")
            return begin, time.monotonic()

        try:
            until = time.monotonic() + warmup
            while time.monotonic() < until:
                call()
        finally:
            ready()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            spans.append(call())
    return spans


_together = None  # a barrier for the clients of all processes; these get it when they start


def _start(barrier):
    global _together
    _together = barrier


def _share(address, model, seconds, clients):
    """`calls` of the clients in this process."""
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        asking = [
            pool.submit(calls, address, model, seconds, _together.wait) for _ in range(clients)
        ]
    return [span for client in asking for span in client.result()]


def rate(address, model, seconds, clients):
    """Calls a second of so many clients together, who all begin at once, to the end of the last.

    Raises:
      ValueError: as `calls`, of any client.
    """
    shares = [clients // PROCESSES + (i < clients % PROCESSES) for i in range(PROCESSES)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        PROCESSES, context, _start, (context.Barrier(clients),)
    ) as pool:
        asking = [pool.submit(_share, address, model, seconds, share) for share in shares if share]
    begins, ends = zip(*(span for share in asking for span in share.result()), strict=True)
    return len(ends) / (max(ends) - min(begins))  # one clock for all processes of the machine


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
        spans = calls(address, model, values.seconds)
        cuts = statistics.quantiles([end - begin for begin, end in spans], n=100)
        figures |= {"call_ms_p50": 1000 * cuts[49], "call_ms_p99": 1000 * cuts[98]}
        figures["calls_per_second"] = rate(address, model, values.seconds, values.clients)
    if "session_ms_p50" in figures:
        print(f"a run of the session alone: p50 {figures['session_ms_p50']:.3f} ms")
    print(f"1 client: a call p50 {figures['call_ms_p50']:.2f} ms, "
          f"p99 {figures['call_ms_p99']:.2f} ms")  # fmt: skip
    print(f"{values.clients} clients: {figures['calls_per_second']:.0f} calls/s")
    if values.output:
        write_json(values.output, figures | {"clients": values.clients})


if __name__ == "__main__":
    flags.DEFINE_string("server", "", "host:port of a server that runs; else one is started.")
    flags.DEFINE_string("model_name", "half_plus_two", "Name of the model on that server.")
    flags.DEFINE_integer("clients", 8, "Clients at once.", lower_bound=1)
    flags.DEFINE_float("seconds", 5, "Seconds of each measurement.", lower_bound=0.2)
    flags.DEFINE_string("output", "", "JSON file for the figures.")
    cli.run(main)
