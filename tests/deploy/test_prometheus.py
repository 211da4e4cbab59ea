"""prometheus/: what is scraped, and the alerts."""

import re
import shutil
import subprocess

import pytest
import yaml

from export.server import text_messages


@pytest.fixture(scope="module")
def folder(deploy):
    return deploy / "prometheus"


@pytest.fixture(scope="module")
def rules(folder):
    (group,) = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    return group["rules"]


def test_scrapes_the_server(folder, deploy, compose, arguments, manifests):
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    (targets,) = (each["targets"] for each in scrape["static_configs"])
    assert targets == [f"serving:{arguments['compose']['rest_api_port']}"]
    assert "serving" in compose["services"]
    file = str(deploy / "config" / "monitoring.config")
    path = text_messages.read(file, text_messages.MonitoringConfig).prometheus_config.path
    template = manifests["deployment.yaml"]["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert scrape["metrics_path"] == annotations["prometheus.io/path"] == path
    assert all((folder / name).exists() for name in config["rule_files"])
    # ServerDown knows the servers by these.
    down = next(
        rule
        for group in yaml.safe_load((folder / "rules.yml").read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == "ServerDown"
    )
    assert f'job="{scrape["job_name"]}"' in down["expr"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "gpt-keras"
    assert 'app_kubernetes_io_name="gpt-keras"' in down["expr"]


def test_rules(rules, check_query):
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        check_query(rule["expr"])
        for text in rule["annotations"].values():
            for label in re.findall(r"\$labels\.(\w+)", text):
                assert label in rule["expr"] or label == "instance", (rule["alert"], label)


def test_full_is_what_the_flags_say(rules, arguments):
    (full,) = (rule for rule in rules if rule["alert"] == "NearlyFull")
    threads = re.search(r"> 0\.8 \* (\d+)$", full["expr"])[1]
    assert threads in full["annotations"]["summary"]
    for flags in arguments.values():
        assert flags["grpc_max_threads"] == threads


def test_each_alert_has_a_test(rules, folder):
    tests = yaml.safe_load((folder / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for fires in (True, False):
        names = {case["alertname"] for case in cases if bool(case.get("exp_alerts")) == fires}
        assert names == {rule["alert"] for rule in rules}, f"fires: {fires}"


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool")
def test_alerts_fire(folder):
    for command in (["test", "rules", "rules_test.yml"], ["check", "config", "prometheus.yml"]):
        subprocess.run(["promtool", *command], cwd=folder, check=True)
