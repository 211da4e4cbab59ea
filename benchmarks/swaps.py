"""New versions under load: does any request fail while one version takes over from another?

    python -m benchmarks.swaps --swaps=200

A server process serves a small model. Clients ask without a pause, over gRPC and REST; meanwhile
one version after the other is put into the model's folder, in whole and by rename, each adding its
own number, and the one before it is deleted once its successor is available. Every request must be
answered, by the version that was available when it was asked or by one published since. A swap
takes from the rename until the server says that the version is available.

Exit status 0: all were. 1: some were not; the last line says which.
"""

import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import grpc
from absl import flags

from benchmarks import one_float
from benchmarks.server import NAME, Server
from export import cli, protocol


def save(directory, number):
    """A model that adds a number."""
    import tensorflow as tf

    class Adder(tf.Module):
        def __init__(self):
            self.number = tf.Variable(float(number))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def add(self, x):
            return {"y": x + self.number}

    adder = Adder()
    tf.saved_model.save(adder, directory, {"serving_default": adder.add})


class Clients:
    """Threads that ask until they are told to stop.

    Args:
      address, rest_address: host:port of a server's gRPC and REST.
      number: of threads.
      available: the newest version that is known to be; an attribute, to be kept up to date.
      published: the newest version that is in the model's folder or will be at once; likewise.

    Attributes:
      answered: requests that were.
      wrong: in words, those that were not, or not by a version that was there.
    """

    def __init__(self, address, rest_address, number, available=1, published=1):
        self.available, self.published = available, published
        self.answered, self.wrong = 0, []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._channel = grpc.insecure_channel(address)
        self._stub = protocol.PredictionServiceStub(self._channel)
        self._url = f"http://{rest_address}/v1/models/{NAME}:predict"
        asks = [self._over_grpc, self._over_rest]
        self._threads = [
            threading.Thread(target=self._run, args=(asks[i % 2],)) for i in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _run(self, ask):
        while not self._stop.is_set():
            before, problem = self.available, ""
            try:
                number = ask()
                after = self.published
                if not before <= number <= after:
                    problem = f"version {number} answered, of {before} to {after} that could"
            except Exception as error:  # a thread that ends would ask no more
                problem = f"beside version {before}: {error}"
            with self._lock:
                self.answered += 1
                if problem:
                    self.wrong.append(problem)

    def _over_grpc(self):
        return round(one_float.ask(self._stub, one_float.request(NAME, 0.0)))

    def _over_rest(self):
        with urllib.request.urlopen(self._url, b'{"instances": [0]}', timeout=60) as response:
            return round(json.load(response)["predictions"][0])


def wait_until_available(stub, version, seconds=60):
    request = protocol.GetModelStatusRequest(model_spec=protocol.ModelSpec(name=NAME))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for entry in stub.GetModelStatus(request, timeout=60).model_version_status:
            if entry.version == version and entry.state == protocol.ModelVersionStatus.AVAILABLE:
                return
        time.sleep(0.01)
    raise ValueError(f"version {version} was not available within {seconds} s")


def main():
    values = flags.FLAGS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(folder / "1", 1)
        flags_ = {"rest_api_port": 0, "file_system_poll_wait_seconds": 0.05}
        with (
            Server(folder, grpc_max_threads=64, **flags_) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub, seconds = protocol.ModelServiceStub(channel), []
            clients = Clients(server.address, server.rest_address(), values.clients)
            try:
                for number in range(2, values.swaps + 2):
                    hidden = folder / f".{number}"
                    save(hidden, number)
                    clients.published = number
                    begun = time.monotonic()
                    os.rename(hidden, folder / str(number))
                    wait_until_available(stub, number)
                    seconds.append(time.monotonic() - begun)
                    clients.available = number
                    shutil.rmtree(folder / str(number - 1))
            finally:
                clients.stop()
    print(f"{values.swaps} swaps, each {statistics.median(seconds):.2f} s (median); "
          f"{clients.answered} requests, {len(clients.wrong)} of them failed")  # fmt: skip
    if not clients.answered:
        raise ValueError("nobody asked")
    if clients.wrong:
        raise ValueError(" ".join(clients.wrong[0].split()))


if __name__ == "__main__":
    flags.DEFINE_integer("swaps", 200, "Versions that take over.", lower_bound=1)
    flags.DEFINE_integer("clients", 4, "Clients at once, half of them over REST.", lower_bound=1)
    cli.run(main)
