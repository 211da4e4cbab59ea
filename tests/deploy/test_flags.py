"""The server's flags, the same wherever it runs."""

import re

import pytest

HERE_ALONE = {  # place -> flags that only it has
    "compose": {"model_config_file_poll_wait_seconds"},  # in a cluster new pods come instead
    "kubernetes": {"enable_grpc_healthcheck_service", "grpc_channel_arguments"},
}
OWN_VALUES = {"tensorflow_session_parallelism"}


def test_stock_server_has_them(arguments, stock_server):
    for flags in arguments.values():
        assert flags.keys() <= set(stock_server["flags"])


def test_local_server_has_them(arguments, root):
    source = (root / "export" / "serve.py").read_text()
    known = set(re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source))
    for flags in arguments.values():
        assert flags.keys() <= known


def test_places_agree(arguments):
    shared = {
        place: {
            flag: value
            for flag, value in flags.items()
            if flag not in HERE_ALONE[place] | OWN_VALUES
        }
        for place, flags in arguments.items()
    }
    assert shared["compose"] == shared["kubernetes"]
    for place, flags in HERE_ALONE.items():
        assert flags <= arguments[place].keys()


def test_no_batching_of_the_servers_own(arguments):
    for flags in arguments.values():
        assert not [flag for flag in flags if "batching" in flag]


def test_one_image(compose, container):
    assert compose["services"]["serving"]["image"] == container["image"]
    assert compose["services"]["serving"]["entrypoint"] == container["command"]


def test_files_are_where_they_are_mounted(arguments, compose, container, deploy):
    assert "./config:/config:ro" in compose["services"]["serving"]["volumes"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["config"] == "/config"
    for flags in arguments.values():
        for name in ("model_config_file", "monitoring_config_file"):
            folder, file = flags[name].rsplit("/", 1)
            assert folder == "/config"
            assert (deploy / "config" / file).exists()


@pytest.mark.parametrize("word", ["latest", "hostPath", "privileged: true"])
def test_never(deploy, word):
    for path in deploy.rglob("*.y*ml"):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if re.search(rf"\b{word}\b", line)], path
