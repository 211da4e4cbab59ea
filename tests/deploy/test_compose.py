"""docker-compose.yml, against the schema of the Compose Specification and what is asked of it."""

import importlib.resources
import json
import re

import jsonschema
import pytest
import yaml


def test_schema(compose):
    folder = importlib.resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((folder / "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


@pytest.fixture(params=["serving", "prometheus", "grafana"])
def service(compose, request):
    assert set(compose["services"]) == {"serving", "prometheus", "grafana"}
    return compose["services"][request.param]


def test_images_are_pinned(service):
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


def test_ports_are_of_this_machine_alone(service):
    assert service["ports"]
    for port in service["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_hardened(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "privileged" not in service


def test_mounted_files_exist_and_stay_as_they_are(compose, deploy, service):
    for volume in service["volumes"]:
        source, *_, last = volume.split(":")
        if source.startswith("./"):
            assert (deploy / source).exists(), volume
            assert last == "ro", volume
        elif not source.startswith("${MODELS"):
            assert source in compose["volumes"]


def test_monitoring_only_where_it_is_asked_for(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {"serving": None, "prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_health_check_asks_the_port_of_grpc(compose, arguments):
    *_, command = compose["services"]["serving"]["healthcheck"]["test"]
    assert command.endswith(f"/127.0.0.1/{arguments['compose']['port']}")


def test_as_many_threads_as_cpus(compose, arguments):
    limits = compose["services"]["serving"]["deploy"]["resources"]["limits"]
    assert limits["cpus"] == arguments["compose"]["tensorflow_session_parallelism"]


def test_grafana_finds_prometheus_and_the_dashboard(compose, deploy):
    provisioning = deploy / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert compose["services"]["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gpt-keras.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/gpt-keras.json"].startswith(provider["options"]["path"] + "/")
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
