"""The files of deploy/, and what the stock server has."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
# Not the server's, but in any Prometheus, or from cAdvisor.
OTHERS = {
    "up": ("job", "instance", "app_kubernetes_io_name"),
    "container_cpu_usage_seconds_total": ("container", "pod"),
    "container_memory_working_set_bytes": ("container", "pod"),
    "container_spec_cpu_period": ("container", "pod"),
    "container_spec_cpu_quota": ("container", "pod"),
    "container_spec_memory_limit_bytes": ("container", "pod"),
}
SCRAPED = ("job", "instance", "namespace", "pod")  # labels that Prometheus adds


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def deploy():
    return DEPLOY


@pytest.fixture(scope="session")
def stock_server():
    return json.loads(Path(__file__).with_name("stock_server.json").read_text())


@pytest.fixture(scope="session")
def compose():
    return yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())


@pytest.fixture(scope="session")
def manifests():
    """File -> manifest. Each file has one."""
    files = (DEPLOY / "kubernetes").glob("*.yaml")
    found = {file.name: yaml.safe_load(file.read_text()) for file in files}
    return {name: data for name, data in found.items() if data.get("kind") != "Kustomization"}


@pytest.fixture(scope="session")
def pod(manifests):
    return manifests["deployment.yaml"]["spec"]["template"]["spec"]


@pytest.fixture(scope="session")
def container(pod):
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="session")
def arguments(compose, container):
    """Place -> flag -> value, of the server."""

    def parse(args):
        pairs = [re.fullmatch(r"--(\w+)=(.+)", arg).groups() for arg in args]
        assert len(dict(pairs)) == len(pairs), "a flag twice"
        return dict(pairs)

    return {
        "compose": parse(compose["services"]["serving"]["command"]),
        "kubernetes": parse(container["args"]),
    }


@pytest.fixture(scope="session")
def check_restricted():
    """Has a pod what its namespace's `restricted` profile asks, and more?"""

    def check(spec, namespace):
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        whole = spec["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for volume in spec["volumes"]:
            assert volume.keys() & {"persistentVolumeClaim", "configMap", "emptyDir"}, volume
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", container["image"])
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}

    return check


@pytest.fixture(scope="session")
def readme_steps():
    """(versions, label -> version) of each line of README.md's table of a roll-out."""
    text = (DEPLOY / "README.md").read_text()
    rows = re.findall(r"^\|[^|]*\| ([\d, ]+) \| (\d) \| (\d) \|$", text, re.M)
    return [
        ({int(v) for v in versions.split(",")}, {"stable": int(stable), "canary": int(canary)})
        for versions, stable, canary in rows
    ]


@pytest.fixture(scope="session")
def check_query(stock_server):
    """Is it PromQL, of metrics and labels that there are?"""
    known = dict(OTHERS)
    for name, metric in stock_server["metrics"].items():
        labels = (*metric["labels"], *SCRAPED)
        if metric["kind"] == "histogram":
            known |= {name + "_sum": labels, name + "_count": labels}
            known[name + "_bucket"] = (*labels, "le")
        else:
            known[name] = labels

    def check(expression):
        selectors, grouping = [], set()

        def visit(node):
            if isinstance(node, promql_parser.VectorSelector):
                selectors.append(node)
            modifier = getattr(node, "modifier", None)
            if isinstance(node, promql_parser.AggregateExpr) and modifier:
                grouping.update(modifier.labels)

        promql_parser.walk(promql_parser.parse(expression), visit)
        assert selectors, expression
        for selector in selectors:
            assert selector.name in known, f"no metric {selector.name}: {expression}"
            matched = {matcher.name for matcher in selector.matchers.matchers}
            assert matched <= set(known[selector.name]), expression
        assert grouping <= {label for s in selectors for label in known[s.name]}, expression

    return check
