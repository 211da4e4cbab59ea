"""A SavedModel with many signatures, small ones that differ, and a server in this process.

Tests that only talk to the server are the conformance suite: with CONFORMANCE_TARGET and
CONFORMANCE_REST_TARGET, host:port of gRPC and REST, they ask a server that runs elsewhere, such as
the stock one, and that has the model which `python conftest.py FOLDER` writes, by the name "toy".
"""

import contextlib
import dataclasses
import http.client
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request

import grpc
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import method_name_updater

from export import protocol
from export.server import model_config, servable
from export.server.configuration import Configuration
from export.server.manager import ModelManager
from export.server.model_server import ModelServer
from export.server.options import Options

FLOATS = tf.TensorSpec([None], tf.float32)
STRINGS = tf.TensorSpec([None], tf.string)
DTYPES = (
    "float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "bool",
    "float16", "bfloat16", "complex64",
)  # fmt: skip


class Toy(tf.Module):
    """Signatures for every behaviour of a server."""

    def __init__(self, plus=2.0):
        self.plus = tf.Variable(plus)

    @tf.function(input_signature=[FLOATS])
    def half_plus(self, x):
        return {"y": 0.5 * x + self.plus}

    @tf.function(input_signature=[FLOATS, FLOATS])
    def two(self, a, b):
        return {"sum": a + b, "difference": a - b}

    @tf.function(input_signature=[STRINGS, tf.TensorSpec([None], tf.int32)])
    def optional(self, prompts, k=tf.constant([40])):  # noqa: B008
        k = tf.broadcast_to(k, tf.shape(prompts))
        return {"text": prompts + tf.strings.as_string(k)}

    @tf.function(input_signature=[STRINGS])
    def strings(self, s):
        return {"s": s, "s_bytes": tf.identity(s)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, n):
        """Counts to n, or as long as it may."""
        count = tf.while_loop(lambda i: i < n[0], lambda i: [i + 1], [tf.constant(0)])
        return {"count": count[0]}

    @tf.function(input_signature=[FLOATS])
    def compiled(self, x):
        @tf.function(jit_compile=True)
        def double(x):
            return 2.0 * x

        return {"y": double(x)}

    @tf.function(input_signature=[FLOATS])
    def uneven(self, x):
        return {"a": x, "b": tf.concat([x, x], 0)}

    @tf.function(input_signature=[STRINGS])
    def classify(self, inputs):
        features = tf.io.parse_example(
            inputs,
            {
                "x": tf.io.FixedLenFeature([], tf.float32),
                "bias": tf.io.FixedLenFeature([], tf.float32, 0.0),
            },
        )
        score = features["x"] + features["bias"]
        classes = tf.tile([["low", "high"]], [tf.shape(inputs)[0], 1])
        return {"classes": classes, "scores": tf.stack([score, -score], 1)}

    @tf.function(input_signature=[STRINGS])
    def regress(self, inputs):
        return {"outputs": self.classify(inputs)["scores"][:, 0]}

    @tf.function(input_signature=[STRINGS])
    def flat_classes(self, inputs):
        return {"scores": self.classify(inputs)["scores"][:, 0]}

    @tf.function(input_signature=[STRINGS])
    def wide_regression(self, inputs):
        return {"outputs": self.classify(inputs)["scores"]}


def echo(dtype):
    @tf.function(input_signature=[tf.TensorSpec(None, dtype)])
    def function(x):
        return {"y": tf.identity(x)}

    return function


def save(directory, plus=2.0):
    """Writes the toy model."""
    toy = Toy(plus)
    toy.echoes = {dtype: echo(dtype) for dtype in DTYPES}
    names = ("two", "optional", "strings", "spin", "compiled", "uneven", "classify", "regress",
             "flat_classes", "wide_regression")  # fmt: skip
    signatures = {name: getattr(toy, name) for name in names}
    signatures |= {f"echo_{dtype}": function for dtype, function in toy.echoes.items()}
    tf.saved_model.save(toy, str(directory), {"serving_default": toy.half_plus, **signatures})
    updater = method_name_updater.MethodNameUpdater(str(directory))
    updater.replace_method_name("classify", "tensorflow/serving/classify")
    updater.replace_method_name("regress", "tensorflow/serving/regress")
    updater.save()


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory):
    """A version directory of the toy model; copy it, do not write to it."""
    directory = tmp_path_factory.mktemp("toy") / "1"
    save(directory)
    return directory


@pytest.fixture(scope="session")
def small_dirs(tmp_path_factory):
    """Two SavedModels that load fast and answer 0.5 * x + 2 and + 3."""
    directories = []
    for plus in (2.0, 3.0):
        toy = Toy(plus)
        directories.append(tmp_path_factory.mktemp("small") / "1")
        tf.saved_model.save(toy, str(directories[-1]), {"serving_default": toy.half_plus})
    return directories


@pytest.fixture(scope="session")
def publish():
    """Puts a version into a model's folder at one stroke, as it ought to be done."""

    def run(source, base_path, name):
        shutil.copytree(source, base_path / f".{name}")
        os.rename(base_path / f".{name}", base_path / name)

    return run


@dataclasses.dataclass
class Server:
    """Addresses of a server, and calls to it; its manager, if it runs in this process."""

    address: str
    rest_address: str
    manager: ModelManager | None = None
    channel: grpc.Channel = dataclasses.field(init=False)

    def __post_init__(self):
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(self.address, options=unlimited)
        self.predictions = protocol.PredictionServiceStub(self.channel)
        self.models = protocol.ModelServiceStub(self.channel)

    def respond(self, verb, path, body=b""):
        """(status, body) of an HTTP request with this very path."""
        connection = http.client.HTTPConnection(self.rest_address, timeout=60)
        with contextlib.closing(connection):
            connection.request(verb, path, body)
            response = connection.getresponse()
            return response.status, response.read()

    def exchange(self, head, body=b""):
        """(status, body) of an HTTP request that begins with these lines, whatever they are."""
        lines = [*head, b"Host: x", b"Content-Length: %d" % len(body), b"Connection: close"]
        address = self.rest_address.rsplit(":", 1)
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(b"\r\n".join([*lines, b"", body]))
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def http(self, verb, path, body=None, headers=None):
        """(status, body, headers) of an HTTP request."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(
            f"http://{self.rest_address}{path}", data, headers or {}, method=verb
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def predict(self, signature="", timeout=60, model="toy", output_filter=(), **inputs):
        request = protocol.PredictRequest(output_filter=output_filter)
        request.model_spec.name, request.model_spec.signature_name = model, signature
        for name, value in inputs.items():
            proto = (
                value if isinstance(value, protocol.TensorProto) else tf.make_tensor_proto(value)
            )
            request.inputs[name].CopyFrom(proto)
        response = self.predictions.Predict(request, timeout=timeout)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def pytest_collection_modifyitems(items):
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "server" in names and "inside" not in names:
            item.add_marker(pytest.mark.conformance)


@pytest.fixture
def inside(server):
    """The manager of the server, for a test that looks into it."""
    if server.manager is None:
        pytest.skip("looks into the server's process")
    return server.manager


@pytest.fixture(scope="session")
def server(request):
    """A server with the toy model; see above. In this process XLA compilation is on."""
    target, rest_target = (
        os.environ.get(f"CONFORMANCE_{name}") for name in ("TARGET", "REST_TARGET")
    )
    if target:
        yield Server(target, rest_target)
        return
    with serving(servable.load, request.getfixturevalue("toy_dir").parent) as server:
        yield server


@pytest.fixture
def server_of():
    """Makes a server of its own; see `serving`."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(serving(*args, **options))


@contextlib.contextmanager
def serving(load, base_path, **options):
    """A server in this process, with one model by the name "toy", which `load` loads."""
    manager = ModelManager(load)
    manager.start()
    configuration = Configuration(manager)
    configuration.start(model_config.of_one_model("toy", str(base_path)))
    assert manager.wait(timeout=60)
    options = Options(port=0, rest_api_port=0, metrics_path="/metrics", **options)
    running = ModelServer(configuration, options)
    server = Server(f"127.0.0.1:{running.port}", f"127.0.0.1:{running.rest_api_port}", manager)
    yield server
    server.channel.close()
    running.stop()
    manager.stop()


if __name__ == "__main__":
    save(os.path.join(sys.argv[1], "1"))
