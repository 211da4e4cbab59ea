"""The local server with the flags and the configuration of deploy/: it starts, rolls out, tells."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc

MODEL = "/v1/models/smollm2"
ANY = {"port": "0", "rest_api_port": "0", "file_system_poll_wait_seconds": "0.1"}


class Doubled(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def double(self, x):
        return {"y": 2.0 * x}


@pytest.fixture
def folder(tmp_path, deploy):
    """/config and /models of a container."""
    shutil.copytree(deploy / "config", tmp_path / "config")
    config = tmp_path / "config" / "models.config"
    config.write_text(config.read_text().replace('"/models/', f'"{tmp_path}/models/'))
    toy = Doubled()
    tf.saved_model.save(toy, str(tmp_path / "models/smollm2/1"), toy.double)
    return tmp_path


@pytest.fixture
def start(folder, arguments):
    """Starts it with the flags of a place; gives the ports of gRPC and REST."""
    processes = []

    def run(place, **others):
        flags = {**arguments[place], **ANY, "tensorflow_session_parallelism": "2", **others}
        flags = [f"--{name}={value}" for name, value in flags.items()]
        flags = [flag.replace("=/config/", f"={folder}/config/") for flag in flags]
        out = folder / "out"
        with open(out, "w") as stream, open(folder / "log", "w") as log:
            command = [sys.executable, "-m", "export.serve", *flags]
            processes.append(subprocess.Popen(command, stdout=stream, stderr=log))

        def ports():
            return [int(n) for n in re.findall(r":(\d+) \.\.\.$", out.read_text(), re.M)]

        _within(120, lambda: len(ports()) == 2)
        return ports()

    yield run
    for process in processes:
        process.kill()
        process.wait()


def _within(seconds, is_so):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def _get(port, path, data=None):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data) as response:
            return response.read().decode()
    except urllib.error.HTTPError:
        return ""


def _available(port, version):
    answer = json.loads(_get(port, f"{MODEL}/versions/{version}") or "{}")
    return [v for v in answer.get("model_version_status", []) if v["state"] == "AVAILABLE"]


def _version_of(port, label):
    """The version that answers to a label, as [text]; [] for none."""
    return re.findall(r'"version": "(\d+)"', _get(port, f"{MODEL}/labels/{label}/metadata"))


def _change(config, versions, labels):
    lines = "".join(f"        versions: {version}\n" for version in versions)
    text = re.sub(r"( +versions: \d\n)+", lines, config.read_text())
    for label, version in labels.items():
        text = re.sub(rf'(key: "{label}" value: )\d', rf"\g<1>{version}", text)
    config.write_text(text)


def test_rolls_out_as_the_readme_says(start, folder, readme_steps):
    _, port = start("compose", model_config_file_poll_wait_seconds="0.2")
    growing = folder / "models/smollm2/incomplete-2"
    shutil.copytree(folder / "models/smollm2/1", growing)
    growing.rename(folder / "models/smollm2/2")
    for versions, labels in readme_steps:
        _change(folder / "config/models.config", versions, labels)
        for version in versions:
            _within(60, lambda version=version: _available(port, version))
        for label, version in labels.items():
            _within(60, lambda a=label, b=version: _version_of(port, a) == [str(b)])
            body = b'{"instances": [3.0]}'
            assert "6.0" in _get(port, f"{MODEL}/labels/{label}:predict", body)
    _within(60, lambda: not _available(port, 1))
    assert "was not reloaded" not in (folder / "log").read_text()


def test_labels_do_not_move_to_what_is_not_loaded(start, folder):
    _, port = start("compose", model_config_file_poll_wait_seconds="0.2")
    shutil.copytree(folder / "models/smollm2/1", folder / "models/smollm2/2")
    _change(folder / "config/models.config", [1, 2], {"stable": 2})
    _within(60, lambda: "currently available for inference" in (folder / "log").read_text())
    assert not _available(port, 2)
    assert _version_of(port, "stable") == ["1"]


def test_probes_and_metrics(start, arguments, container, stock_server):
    grpc_port, port = start("kubernetes")
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            service = container[name]["grpc"].get("service", "")
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert _get(port, f"{MODEL}:predict", b'{"instances": [3.0]}')
    page = _get(port, "/monitoring/prometheus/metrics")
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", page, re.M))
    for name, metric in stock_server["metrics"].items():
        if name.startswith(":tensorflow:serving:"):  # the local server has none of TensorFlow's own
            assert kinds[name] == metric["kind"]
    samples = re.findall(r"^(:\S+?)(?:_sum)?{(.*)} \S+$", page, re.M)
    found = {name: re.findall(r'(\w+)="', labels) for name, labels in samples}
    for name in (":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"):
        assert found[name] == stock_server["metrics"][name]["labels"]
