"""`python -m export.serve` as a user runs it: a process with flags, ports and signals."""

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import pytest
import tensorflow as tf
import trustme
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from export import protocol
from export.server import text_messages


class HalfPlusTwo(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def half_plus_two(self, x):
        return {"y": 0.5 * x + 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def compiled(self, x):
        return {"y": tf.function(lambda x: 2.0 * x, jit_compile=True)(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, n):
        count = tf.while_loop(lambda i: i < n[0], lambda i: [i + 1], [tf.constant(0)])
        return {"count": count[0]}


@pytest.fixture(scope="session")
def base_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("half_plus_two")
    toy = HalfPlusTwo()
    signatures = {name: getattr(toy, name) for name in ("compiled", "spin")}
    tf.saved_model.save(toy, str(path / "1"), {"serving_default": toy.half_plus_two, **signatures})
    return path


class Program:
    """The server in a process of its own."""

    def __init__(self, folder, *args):
        folder.mkdir(exist_ok=True)
        self._out, self._log = folder / "out", folder / "log"
        with open(self._out, "w") as out, open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "export.serve", *args], stdout=out, stderr=log
            )

    def ports(self, timeout=60):
        """Of gRPC and REST, once they are open."""
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            grpc_port = re.search(
                r"^Running gRPC ModelServer at .*:(\d+) \.\.\.$", self.out(), re.M
            )
            rest = re.search(r"^Exporting HTTP/REST API at:.*:(\d+) \.\.\.$", self.out(), re.M)
            if grpc_port and rest:
                return int(grpc_port[1]), int(rest[1])
            time.sleep(0.05)
        raise AssertionError(f"no ports:\n{self.out()}\n{self.log()}")

    def out(self):
        return self._out.read_text()

    def log(self):
        return self._log.read_text()

    def errors(self):
        return [line for line in self.log().splitlines() if line.startswith("error: ")]

    def wait(self, timeout=60):
        return self.process.wait(timeout)


@contextlib.contextmanager
def program(folder, *args):
    running = Program(folder, *args)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


ANY_PORTS = ("--port=0", "--rest_api_port=0")


def predict(port, values=(1.0,), signature="", model="m", timeout=30):
    request = protocol.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    name, dtype = ("n", tf.int32) if signature == "spin" else ("x", tf.float32)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(list(values), dtype))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        response = protocol.PredictionServiceStub(channel).Predict(request, timeout=timeout)
    (proto,) = response.outputs.values()
    return tf.make_ndarray(proto).tolist()


def test_two_models_compiler_off_and_graceful_end(base_path, tmp_path):
    config = tmp_path / "models.config"
    models = "".join(
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" }} '
        for name in ("m", "other")
    )
    config.write_text(f"model_config_list {{ {models} }}")
    with program(tmp_path, f"--model_config_file={config}", *ANY_PORTS) as server:
        port, rest_port = server.ports()
        assert predict(port) == predict(port, model="other") == [2.5]
        with pytest.raises(grpc.RpcError) as caught:
            predict(port, signature="compiled")
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert caught.value.details().startswith("XLA compilation disabled\n\t [[")
        url = f"http://127.0.0.1:{rest_port}/v1/models/other:predict"
        with urllib.request.urlopen(url, b'{"instances": [4]}') as response:
            assert json.load(response) == {"predictions": [4.0]}
        # A request that runs may finish; the next one is not taken.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = protocol.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "m", "spin"
            request.inputs["n"].CopyFrom(tf.make_tensor_proto([300_000], tf.int32))
            call = protocol.PredictionServiceStub(channel).Predict.future(request, timeout=60)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert call.result().outputs["count"].int_val == [300_000]
        assert server.wait() == 0
        assert "Traceback" not in server.log()
        with pytest.raises(grpc.RpcError):
            predict(port)


@pytest.fixture(scope="session")
def cold_path(base_path, tmp_path_factory):
    """The same model with a warm-up request that fails."""
    path = tmp_path_factory.mktemp("cold") / "models"
    shutil.copytree(base_path, path)
    file = path / "1" / protocol.WARMUP_FILE
    file.parent.mkdir()
    record = protocol.PredictionLog()
    record.predict_log.request.model_spec.signature_name = "none"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(record.SerializeToString())
    return path


def test_end_does_not_wait_for_ever(cold_path, tmp_path):
    args = (f"--model_base_path={cold_path}", "--model_name=m", "--noenable_model_warmup",
            "--shutdown_grace_seconds=0.5", "--xla_cpu_compilation_enabled")  # fmt: skip
    with program(tmp_path, *args, *ANY_PORTS) as server:
        port, _ = server.ports()
        assert predict(port, signature="compiled") == [2.0]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = protocol.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "m", "spin"
            request.inputs["n"].CopyFrom(tf.make_tensor_proto([2**31 - 1], tf.int32))
            call = protocol.PredictionServiceStub(channel).Predict.future(request)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            assert call.exception(timeout=30) is not None
        assert server.wait(30) == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "error: Both --model_base_path and --model_config_file are empty!"),
        (["--nonsense=1"], 2, "error: Unknown command line flag 'nonsense'"),
        (["--port=70000", "--model_base_path=/m"], 2, "error: flag --port=70000: "),
        (
            ["--model_base_path=/no/such"], 1,
            "error: Failed to start server. Error: INVALID_ARGUMENT: Could not find base path "
            "/no/such for servable default with error ",
        ),
        (
            ["--model_base_path=/tmp", "--allowed_root=/usr"], 1,
            "error: Failed to start server. Error: PERMISSION_DENIED: base path /tmp of model ",
        ),
        (
            ["--model_base_path=/tmp", "--grpc_channel_arguments=grpc.x"], 2,
            "error: --grpc_channel_arguments: expected key=value pairs with commas, got 'grpc.x'",
        ),
        (["--model_base_path=/tmp", "--ssl_config_file=/no/ssl"], 1, "error: [Errno 2] No such"),
        (["--model_base_path=/tmp", f"--ssl_config_file={__file__}"], 1, f"error: {__file__}:1:1"),
        (
            ["--model_base_path=/tmp", f"--monitoring_config_file={__file__}"], 1,
            f"error: {__file__}:1:1",
        ),
        (
            ["--model_base_path=/tmp", "--ssl_config_file=/dev/null"], 1,
            "error: --ssl_config_file=/dev/null: it has no server_key, text in PEM form",
        ),
        (["--model_config_file=/no/such"], 1, "error: [Errno 2] No such file or directory: "),
        (
            ["--model_base_path=/tmp", "--batching_parameters_file=/no/such"], 2,
            "error: --batching_parameters_file is set without setting --enable_batching to true.",
        ),
        (
            ["--model_base_path=/tmp", "--enable_batching", "--batching_parameters_file=/no/such"],
            1, "error: [Errno 2] No such file or directory: '/no/such'",
        ),
        (
            ["--model_base_path=/tmp", "--tensorflow_session_parallelism=1",
             "--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=1"],
            2, "error: Either configure --tensorflow_session_parallelism or (",
        ),
    ],
)  # fmt: skip
def test_misuse(tmp_path, args, status, message):
    with program(tmp_path, *args) as server:
        assert server.wait() == status
        (line,) = server.errors()
        assert line.startswith(message)
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("max_batch_size: 8", [], "error: {file}:1:17 : 'max_batch_size: 8': Expected "),
        (
            "max_batch_size { value: 0 }", [],
            "error: Failed to start server. Error: INVALID_ARGUMENT: max_batch_size must be "
            "positive; was 0",
        ),
        (
            # Of this file the threads count alone.
            "max_batch_size { value: 0 } num_batch_threads { value: 0 }",
            ["--enable_per_model_batching_parameters"],
            "error: Failed to start server. Error: INVALID_ARGUMENT: num_batch_threads must be "
            "positive; was 0",
        ),
    ],
)  # fmt: skip
def test_batching_that_cannot_be(tmp_path, text, flags, message):
    file = tmp_path / "batching.pbtxt"
    file.write_text(text)
    args = ("--model_base_path=/tmp", "--enable_batching", f"--batching_parameters_file={file}")
    with program(tmp_path, *args, *flags) as server:
        assert server.wait() == 1
        (line,) = server.errors()
        assert line.startswith(message.format(file=file))


def test_batching(base_path, tmp_path):
    file = tmp_path / "batching.pbtxt"
    file.write_text("max_batch_size { value: 2 } batch_timeout_micros { value: 1000000000000 }")
    args = (f"--model_base_path={base_path}", "--model_name=m", "--enable_batching",
            f"--batching_parameters_file={file}", "--shutdown_grace_seconds=0.1",
            "--xla_gpu_compilation_enabled")  # fmt: skip
    with program(tmp_path, *args, *ANY_PORTS) as server:
        port, _ = server.ports()
        with futures.ThreadPoolExecutor(2) as clients:  # neither gets an answer without the other
            assert list(clients.map(lambda x: predict(port, [x]), [2.0, 4.0])) == [[3.0], [4.0]]
        assert predict(port, [2.0, 4.0], "compiled") == [4.0, 8.0]
        with pytest.raises(grpc.RpcError) as caught:
            predict(port, [0.0] * 3)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        # One that waits for others does not hold the end up.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = protocol.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
            call = protocol.PredictionServiceStub(channel).Predict.future(request)
            server.process.send_signal(signal.SIGTERM)
            assert call.exception(timeout=60) is not None
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@dataclasses.dataclass
class Certificates:
    """PEM texts: of an authority, and the key and certificate of a server and of a client."""

    authority: str
    server: tuple[str, str]
    client: tuple[str, str]


@pytest.fixture(scope="session")
def certificates():
    authority = trustme.CA()

    def pair(*names):
        made = authority.issue_cert(*names)
        (chain,) = made.cert_chain_pems
        return made.private_key_pem.bytes().decode(), chain.bytes().decode()

    return Certificates(
        authority.cert_pem.bytes().decode(), pair("localhost", "127.0.0.1"), pair("a@client.org")
    )


def ssl_config(folder, key, certificate, authority="", client_verify=False):
    """A file with an SSLConfig."""
    message = text_messages.SSLConfig(
        server_key=key, server_cert=certificate, custom_ca=authority, client_verify=client_verify
    )
    file = folder / "ssl.config"
    file.write_text(text_format.MessageToString(message))
    return file


def test_all_ways_in(base_path, certificates, tmp_path):
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    session = tmp_path / "session.config"
    session.write_text("isolate_session_state: true")
    socket_path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as ended:  # and left its file behind
        ended.bind(str(socket_path))
    ssl_file = ssl_config(tmp_path, *certificates.server, certificates.authority, True)
    args = (f"--model_base_path={base_path}", "--model_name=m", f"--ssl_config_file={ssl_file}",
            f"--grpc_socket_path={socket_path}", "--enable_grpc_healthcheck_service",
            f"--monitoring_config_file={monitoring}", f"--tensorflow_session_config_file={session}",
            "--grpc_channel_arguments=grpc.max_connection_age_ms=600000,a=b", "--log_requests",
            "--log_format=json", "--num_load_threads=2", "--noenable_profiler",
            "--enable_serialization_as_tensor_content")  # fmt: skip
    with program(tmp_path, *args, *ANY_PORTS) as server:
        port, rest_port = server.ports()
        assert f"Running gRPC ModelServer at UNIX socket {socket_path} ...\n" in server.out()
        client = [text.encode() for text in certificates.client]
        known = grpc.ssl_channel_credentials(certificates.authority.encode(), *client)
        options = [("grpc.ssl_target_name_override", "localhost")]
        request = protocol.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        for target in (f"127.0.0.1:{port}", f"unix:{socket_path}"):
            with grpc.secure_channel(target, known, options) as channel:
                response = protocol.PredictionServiceStub(channel).Predict(request, timeout=30)
                assert response.outputs["y"].tensor_content == b"\0\0\x20@"  # 2.5
                health = health_pb2_grpc.HealthStub(channel)
                for name in ("", "ModelService", "PredictionService"):
                    asked = health_pb2.HealthCheckRequest(service=name)
                    assert health.Check(asked, timeout=30).status == 1  # SERVING
                database = ProtoReflectionDescriptorDatabase(channel)
                assert set(database.get_services()) == {
                    "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService",
                    "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
                }  # fmt: skip
        files = {"ca": certificates.authority, "key": client[0], "cert": client[1]}
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        asked = [f"--{name}_file={tmp_path / name}" for name in files]
        command = [sys.executable, "-m", "export.client", "status", "--model_name=m", *asked]
        command.append(f"--server=localhost:{port}")
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told.stdout == "version 1: AVAILABLE\n", told.stderr
        strangers = grpc.ssl_channel_credentials(certificates.authority.encode())
        for credentials in (strangers, None):
            target = f"127.0.0.1:{port}"
            with (
                grpc.secure_channel(target, credentials, options)
                if credentials
                else grpc.insecure_channel(target)
            ) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    protocol.PredictionServiceStub(channel).Predict(request, timeout=30)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}/metrics") as page:
            assert b':tensorflow:serving:request_count{model_name="m",status="OK"} 2' in page.read()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log()
        entries = [json.loads(line) for line in server.log().splitlines() if line[0] == "{"]
        calls = [(e["call"], e["code"]) for e in entries if "request_id" in e]
        assert calls == [("Predict", "OK")] * 2 + [("GetModelStatus", "OK")]


def test_version_flag(tmp_path):
    with program(tmp_path, "--version") as server:
        assert server.wait() == 0
        assert re.fullmatch("gpt-keras: .+\nTensorFlow Library: 2.+\n", server.out())


def test_tls_that_cannot_be(base_path, certificates, tmp_path):
    key, certificate = certificates.server
    for fields, message in (
        ((certificates.client[0], certificate), "cannot be used together: .*MISMATCH"),
        (("no key", certificate), "cannot be used together: "),
        ((key, "no certificate"), "cannot be used together: "),
        ((key, certificate, "no authority"), "cannot be used together: "),
        ((key, certificate, "", True), "client_verify needs custom_ca"),
    ):
        file = ssl_config(tmp_path, *fields)
        args = (f"--model_base_path={base_path}", f"--ssl_config_file={file}", *ANY_PORTS)
        with program(tmp_path, *args) as server:
            assert server.wait() == 1
            (line,) = server.errors()
            assert re.match(f"error: --ssl_config_file={re.escape(str(file))}: .*{message}", line)


def answers(port, model):
    """Whether there is such a model."""
    try:
        return predict(port, model=model) == [2.5]
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return False


def test_other_models_while_it_runs(base_path, tmp_path):
    config = tmp_path / "models.config"
    one = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    config.write_text("model_config_list { " + one.format("m", base_path) + " }")
    args = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=0.2")
    with program(tmp_path, *args, *ANY_PORTS) as server:
        port, _ = server.ports()
        config.write_text("model_config_list { " + one.format("n", base_path) + " }")
        end = time.monotonic() + 60
        while not answers(port, "n"):
            assert time.monotonic() < end
            time.sleep(0.1)
        while answers(port, "m"):
            assert time.monotonic() < end
            time.sleep(0.1)


def test_version_that_does_not_warm_up(cold_path, tmp_path):
    args = (f"--model_base_path={cold_path}", "--model_name=m", *ANY_PORTS)
    with program(tmp_path, *args) as server:
        assert server.wait() == 1
        assert server.errors() == [
            "error: Failed to start server. Error: UNKNOWN: 1 servable(s) did not become "
            "available: {{{name: m version: 1} due to error: FAILED_PRECONDITION: Serving "
            'signature key "none" not found.}, }'
        ]
        assert "Traceback" not in server.log()


def test_ports_in_use(base_path, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags in (
            (f"--port={port}", "--rest_api_port=0"),
            ("--port=0", f"--rest_api_port={port}"),
        ):
            with program(tmp_path, f"--model_base_path={base_path}", *flags) as server:
                assert server.wait() == 1
                (line,) = server.errors()
                assert re.fullmatch(
                    rf"error: --(rest_api_)?port={port}: cannot listen at 127.0.0.1:{port}, "
                    "Address already in use; give another port, or 0 for any free one",
                    line,
                )


def test_unix_socket_in_use(base_path, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        args = (f"--model_base_path={base_path}", f"--grpc_socket_path={path}", *ANY_PORTS)
        with program(tmp_path / "second", *args) as server:
            assert server.wait() == 1
            assert server.errors() == [
                f"error: --grpc_socket_path={path}: cannot listen there, Address already in use; "
                "end the server that listens there, or give another path"
            ]
        assert path.exists()


def test_signal_while_it_waits_for_a_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with program(tmp_path, f"--model_base_path={tmp_path / 'empty'}", *ANY_PORTS) as server:
        end = time.monotonic() + 60
        while "No versions of servable default found" not in server.log():
            assert time.monotonic() < end, server.log()
            time.sleep(0.05)
        assert server.out() == ""
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
