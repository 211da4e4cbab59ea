"""New versions under load: does any request fail while one version takes over from another?

    python -m benchmarks.swaps --swaps=200

A server process serves a small model. Clients ask without a pause, over gRPC and REST; meanwhile
one version after the other is put into the model's folder, in whole and by rename, each adding its
own number, and the one before it is deleted once its successor is available. Every request must be
answered, by a version that was there when it was asked or has come since.

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


def publish(source, folder, number):
    """Puts a version that adds `number` beside the others, in one stroke."""
    import numpy as np
    import tensorflow as tf

    hidden = folder / f".{number}"
    shutil.copytree(source, hidden)
    module = tf.saved_model.load(str(source))
    module.number.assign(np.float32(number))
    tf.train.Checkpoint(number=module.number).write(str(hidden / "variables" / "variables"))
    os.rename(hidden, folder / str(number))


class Clients:
    """Threads that ask until they are told to stop.

    Attributes:
      answered: requests that were.
      wrong: in words, those that were not, or not by a version that was there.
    """

    def __init__(self, server, rest_address, number):
        self.newest = 1  # a version that is available by now
        self.answered, self.wrong = 0, []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._channel = grpc.insecure_channel(server.address)
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
            before = self.newest
            try:
                number = ask()
                problem = "" if number >= before else f"version {number} after {before} was there"
            except Exception as error:  # a thread that ends would ask no more
                problem = f"beside version {before}: {error}"
            with self._lock:
                self.answered += 1
                if problem:
                    self.wrong.append(problem)

    def _over_grpc(self):
        request = protocol.PredictRequest()
        request.model_spec.name = NAME
        proto = request.inputs["x"]
        proto.dtype = protocol.DataType.DT_FLOAT
        proto.tensor_shape.dim.add(size=1)
        proto.float_val.append(0.0)
        return round(self._stub.Predict(request, timeout=60).outputs["y"].float_val[0])

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
        source, folder = f"{scratch}/source", Path(scratch) / "versions"
        save(source, 1)
        folder.mkdir()
        publish(source, folder, 1)
        flags_ = {"rest_api_port": 0, "file_system_poll_wait_seconds": 0.05}
        with (
            Server(folder, grpc_max_threads=64, **flags_) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub, seconds = protocol.ModelServiceStub(channel), []
            clients = Clients(server, server.rest_address(), values.clients)
            try:
                for number in range(2, values.swaps + 2):
                    begun = time.monotonic()
                    publish(source, folder, number)
                    wait_until_available(stub, number)
                    clients.newest = number
                    seconds.append(time.monotonic() - begun)
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
