"""Nonsense over gRPC and REST: the server says no in the terms of the stock one, and lives on.

`make test` does a bounded share; `make fuzz` goes on for FUZZ_SECONDS and looks at memory too.
"""

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export import protocol

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FEW = settings(
    max_examples=150, deadline=None, derandomize=not SECONDS, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
GROWTH = 0.05  # share by which memory may grow in the second half of a long run

# What the toy model and the server may say; INTERNAL only in the words that are known.
CODES = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED",
    "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE",
}  # fmt: skip
INTERNAL = re.compile(r"Malformed request|XLA compilation disabled")
SIGNATURES = (
    "", "two", "optional", "strings", "spin", "compiled", "uneven", "classify", "regress",
    "flat_classes", "wide_regression", "echo_int8", "echo_bool", "echo_bfloat16", "none",
)  # fmt: skip
ALIASES = ("x", "a", "b", "prompts", "k", "s", "n", "inputs", "none")
OUTPUTS = ("y", "sum", "text", "s", "count", "classes", "none")


class Process:
    """The server in a process of its own, with the toy model.

    Attributes:
      calls: that were made of it.
    """

    def __init__(self, toy_dir, folder):
        self.calls = 0
        self.log = folder / "log"
        command = [sys.executable, "-m", "export.serve", f"--model_base_path={toy_dir.parent}",
                   "--model_name=toy", "--port=0", "--rest_api_port=0", "--log_requests",
                   "--rest_api_timeout_in_ms=300"]  # fmt: skip
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        words = [self.process.stdout.readline().split() for _ in range(2)]
        self.address, self.rest_address = words[0][4], words[1][3].removeprefix("at:")
        self.channel = grpc.insecure_channel(self.address)

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def call(self, service, method, data):
        """(code, message) of a call with these bytes."""
        self.calls += 1
        call = self.channel.unary_unary(f"/tensorflow.serving.{service}/{method}")
        try:
            call(data, timeout=0.3)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def exchange(self, data, that_is_all=False):
        """What comes back of bytes sent to the REST port, until the other side ends it, or waits
        for more: so it does not hang where there is to be no more."""
        self.calls += 1
        host, port = self.rest_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            found = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                connection.sendall(data)
                if that_is_all:
                    connection.shutdown(socket.SHUT_WR)
                while more := connection.recv(65536):
                    found += more
            return found

    def check(self):
        """Alive, in its right mind, and without a word about a stack."""
        assert self.process.poll() is None
        request = protocol.PredictRequest()
        request.model_spec.name = "toy"
        proto = request.inputs["x"]
        proto.dtype = protocol.DataType.DT_FLOAT
        proto.tensor_shape.dim.add(size=1)
        proto.float_val.append(1.0)
        response = protocol.PredictionServiceStub(self.channel).Predict(request, timeout=60)
        assert response.outputs["y"].float_val == [2.5]
        assert "Traceback" not in self.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def process(toy_dir, tmp_path_factory):
    running = Process(toy_dir, tmp_path_factory.mktemp("fuzz"))
    yield running
    running.channel.close()
    running.process.kill()
    running.process.wait()
    running.process.stdout.close()


def known(code, message):
    """Whether the server may say that."""
    return code in CODES or (code == "INTERNAL" and bool(INTERNAL.match(message)))


small = st.integers(-2, 5)
int32, int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)


@st.composite
def tensors(draw):
    """TensorProtos: sound, or with fields of the wrong kind, number or size."""
    proto = protocol.TensorProto(dtype=draw(st.sampled_from([1, 7, 3, 9, 10, 14, 6, 19, 8, 0, 99])))
    for size in draw(st.lists(small | st.sampled_from([2**31, 2**62]), max_size=3)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(st.booleans()) and draw(st.booleans())
    values = {
        "float_val": st.floats(width=32), "int_val": int32, "int64_val": int64,
        "string_val": st.binary(max_size=9), "bool_val": st.booleans(), "half_val": int32,
        "dcomplex_val": st.floats(),
    }  # fmt: skip
    for field in draw(st.sets(st.sampled_from(sorted(values)), max_size=2)):
        getattr(proto, field).extend(draw(st.lists(values[field], max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        proto.tensor_content = draw(st.binary(max_size=24))
    return proto


@st.composite
def specs(draw):
    """Of models, versions and signatures that there are, and that there are not."""
    spec = protocol.ModelSpec(
        name=draw(st.sampled_from(["toy"] * 8 + ["", "no", "../toy", "t\x00y", "ö" * 300])),
        signature_name=draw(st.sampled_from(SIGNATURES) | st.text(max_size=5)),
    )
    match draw(st.integers(0, 15)):
        case 0:
            spec.version.value = draw(st.sampled_from([0, 1, -1, 2**62]))
        case 1:
            spec.version_label = draw(st.text(max_size=4))
    return spec


# (signature, its inputs with a DataType each)
INPUTS = (
    ("", {"x": 1}), ("two", {"a": 1, "b": 1}), ("optional", {"prompts": 7, "k": 3}),
    ("strings", {"s": 7}), ("spin", {"n": 3}), ("uneven", {"x": 1}), ("classify", {"inputs": 7}),
    ("echo_int8", {"x": 6}), ("echo_bool", {"x": 10}), ("echo_bfloat16", {"x": 14}),
)  # fmt: skip


@st.composite
def nearly_right(draw):
    """Requests with all inputs of a signature, in its dtypes, of any shape."""
    name, inputs = draw(st.sampled_from(INPUTS))
    request = protocol.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", name
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))
    for alias, dtype in inputs.items():
        proto = request.inputs[alias]
        proto.dtype = dtype
        for size in shape if draw(st.integers(0, 4)) else draw(st.lists(small, max_size=2)):
            proto.tensor_shape.dim.add(size=size)
        field, values = {
            1: ("float_val", st.floats(width=32)), 7: ("string_val", st.binary(max_size=9)),
            3: ("int_val", int32), 6: ("int_val", int32), 10: ("bool_val", st.booleans()),
            14: ("half_val", st.integers(0, 65535)),
        }[dtype]  # fmt: skip
        getattr(proto, field).extend(draw(st.lists(values, max_size=3)))
    return request


@st.composite
def predict_requests(draw):
    if draw(st.booleans()):
        return draw(nearly_right())
    request = protocol.PredictRequest()
    request.model_spec.CopyFrom(draw(specs()))
    for alias in draw(st.sets(st.sampled_from(ALIASES), max_size=3)):
        request.inputs[alias].CopyFrom(draw(tensors()))
    request.output_filter.extend(draw(st.lists(st.sampled_from(OUTPUTS), max_size=2)))
    return request


@st.composite
def examples(draw):
    """Inputs of Classify and the like."""
    found = protocol.Input()
    kind = draw(st.sampled_from(["example_list", "example_list_with_context", ""]))
    for _ in range(draw(st.integers(0, 3)) if kind else 0):
        feature = getattr(found, kind).examples.add().features.feature[draw(st.text(max_size=3))]
        match draw(st.integers(0, 2)):
            case 0:
                feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=2)))
            case 1:
                feature.int64_list.value.extend(draw(st.lists(int64, max_size=2)))
            case 2:
                feature.bytes_list.value.extend(draw(st.lists(st.binary(), max_size=2)))
    return found


METHODS = [
    ("PredictionService", name)
    for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
] + [("ModelService", name) for name in ("GetModelStatus", "HandleReloadConfigRequest")]

scalars = st.none() | st.booleans() | int64 | st.floats() | st.text(max_size=6)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*ALIASES, "b64"]) | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)
numbers = st.integers(-5, 5) | st.floats() | st.text(max_size=2)
KEYS = ("instances", "inputs", "signature_name", "examples", "context")
bodies = (
    st.fixed_dictionaries({"instances": st.lists(numbers, min_size=1, max_size=4)}).map(json.dumps)
    | st.fixed_dictionaries(
        {
            "signature_name": st.sampled_from(SIGNATURES),
            "inputs": numbers | st.dictionaries(st.sampled_from(ALIASES), st.lists(numbers)),
        }
    ).map(json.dumps)
    | st.fixed_dictionaries(
        {
            "signature_name": st.sampled_from(("classify", "regress")),
            "examples": st.lists(
                st.dictionaries(st.sampled_from(("x", "bias")), numbers), max_size=3
            ),
        }
    ).map(json.dumps)
    | st.dictionaries(st.sampled_from(KEYS), documents | st.sampled_from(SIGNATURES)).map(
        json.dumps
    )
    | documents.map(json.dumps)
    | st.text(max_size=40)
)
paths = st.sampled_from(
    [f"/v1/models/toy:{method}" for method in ("predict", "classify", "regress", "x")] * 3
    + ["/v1/models/toy", "/v1/models/toy/metadata", "/v1/models/toy/versions/1:predict",
       "/v1/models/toy/versions/99999999999999999999", "/v1/models/..%2f..", "/v1/models/%zz",
       "/v1/models/toy/labels/a:predict", "/v1/", "/", "*"]
)  # fmt: skip
verbs = st.sampled_from(["POST"] * 6 + ["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "X"])
headers = st.just([]) | st.lists(
    st.sampled_from(
        ["Content-Encoding: gzip", "Expect: 100-continue", "Origin: http://x", "A: \xff",
         "X-Request-Id: a b", "Transfer-Encoding: chunked", "Content-Length: -1", "no colon"]
    ),
    max_size=2,
)  # fmt: skip


def fuzz_bytes(process):
    @FEW
    @given(st.sampled_from(METHODS), st.binary(max_size=60))
    def run(method, data):
        assert known(*process.call(*method, data))

    run()


def fuzz_predict(process):
    @FEW
    @given(predict_requests())
    def run(request):
        assert known(*process.call("PredictionService", "Predict", request.SerializeToString()))

    run()


def fuzz_examples(process):
    @FEW
    @given(specs(), examples(), st.sampled_from(["Classify", "Regress", "MultiInference"]))
    def run(spec, found, method):
        if method == "MultiInference":
            request = protocol.MultiInferenceRequest(input=found)
            for name in ("tensorflow/serving/classify", "tensorflow/serving/regress"):
                request.tasks.add(model_spec=spec, method_name=name)
        else:
            request = protocol.ClassificationRequest(model_spec=spec, input=found)
        assert known(*process.call("PredictionService", method, request.SerializeToString()))

    run()


def fuzz_rest(process):
    @FEW
    @given(verbs, paths, headers, bodies)
    def run(verb, path, more, body):
        data = body.encode("utf-8", "surrogatepass")
        lines = [f"{verb} {path} HTTP/1.1", "Host: x", "Connection: close", *more]
        if not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in more):
            lines.append(f"Content-Length: {len(data)}")
        found = process.exchange("\r\n".join([*lines, "", ""]).encode("latin-1") + data)
        if not found:
            return  # nothing that is HTTP
        status = int(re.match(rb"HTTP/1.1 (\d{3}) ", found)[1])
        head, _, rest = found.partition(b"\r\n\r\n")
        explained = status == 500 and INTERNAL.search(rest.decode("utf-8", "replace"))
        assert status < 500 or status in (501, 504) or explained, found
        if status >= 400 and b"application/json" in head and rest:
            assert isinstance(json.loads(rest)["error"], str)

    run()


def fuzz_http(process):
    @FEW
    @given(st.binary(max_size=200))
    def run(data):
        process.exchange(data, that_is_all=True)

    run()


FUZZERS = (fuzz_bytes, fuzz_predict, fuzz_examples, fuzz_rest, fuzz_http)


@pytest.mark.parametrize("fuzz", FUZZERS)
def test_fuzz(process, fuzz):
    fuzz(process)
    process.check()


@pytest.mark.skipif(not SECONDS, reason="make fuzz")
def test_for_long(process):
    begun, memory = time.monotonic(), []
    while time.monotonic() < begun + SECONDS:
        for fuzz in FUZZERS:
            fuzz(process)
        process.check()
        memory.append(process.resident() / 1e6)
    half = memory[len(memory) // 2 :]
    first, last = statistics.median(half[:5]), statistics.median(half[-5:])
    print(f"{process.calls} calls, {first:.1f} MB at half time, {last:.1f} MB at the end")
    assert last < first * (1 + GROWTH), memory
