"""The manifests, against the schemas of Kubernetes and what is asked of them."""

import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

KINDS = {
    "namespace.yaml": "Namespace",
    "pvc.yaml": "PersistentVolumeClaim",
    "deployment.yaml": "Deployment",
    "service.yaml": "Service",
    "service-pods.yaml": "Service",
    "hpa.yaml": "HorizontalPodAutoscaler",
    "hpa-cpu.yaml": "HorizontalPodAutoscaler",
    "pdb.yaml": "PodDisruptionBudget",
    "networkpolicy.yaml": "NetworkPolicy",
    "publisher.yaml": "Pod",
}
RULES = "prometheus-adapter.yaml"  # no manifest
APART = {"hpa-cpu.yaml", "publisher.yaml"}  # not applied with the rest
VERSIONS = ["1.27", kubernetes_validate.latest_version()]  # README.md says from which on


def test_kinds(manifests):
    assert {name: data.get("kind") for name, data in manifests.items()} == {**KINDS, RULES: None}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", KINDS)
def test_schema(manifests, file, version):
    kubernetes_validate.validate(manifests[file], version, strict=True)


def test_schemas_find_mistakes(manifests):
    broken = {**manifests["service.yaml"], "spec": {"ports": [{"prot": 1}]}}
    with pytest.raises(kubernetes_validate.ValidationError, match="prot"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def kustomization(folder):
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def test_kustomization_names_all_files(deploy, pod):
    resources = kustomization(deploy / "kubernetes")["resources"]
    assert set(resources) == {*KINDS, "../config"} - APART
    (generated,) = kustomization(deploy / "config")["configMapGenerator"]
    assert all((deploy / "config" / name).exists() for name in generated["files"])
    config_maps = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
    assert config_maps == [generated["name"]]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")
def test_kustomize_builds_it(deploy):
    folder = str(deploy / "kubernetes")
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, check=True).stdout
    documents = {}
    for data in yaml.safe_load_all(built):
        kubernetes_validate.validate(data, VERSIONS[0], strict=True)
        if data["kind"] != "Namespace":
            assert data["metadata"]["namespace"] == "gpt-keras"
        documents[data["kind"]] = data
    assert set(documents) == {"ConfigMap", *(KINDS[name] for name in KINDS.keys() - APART)}
    assert documents["Namespace"]["metadata"]["name"] == "gpt-keras"
    config_map = documents["ConfigMap"]
    assert config_map["data"] == {
        name: (deploy / "config" / name).read_text()
        for name in ("models.config", "monitoring.config")
    }
    volumes = documents["Deployment"]["spec"]["template"]["spec"]["volumes"]
    names = [v["configMap"]["name"] for v in volumes if "configMap" in v]
    assert names == [config_map["metadata"]["name"]]
    assert names[0].startswith("gpt-keras-")  # and a hash


@pytest.fixture(params=["deployment.yaml", "publisher.yaml"])
def pod_spec(request, manifests):
    manifest = manifests[request.param]
    return manifest["spec"].get("template", manifest)["spec"]


def test_restricted(pod_spec, manifests, check_restricted):
    check_restricted(pod_spec, manifests["namespace.yaml"])


def test_models_are_read_only(pod, container, manifests):
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [
        {"claimName": manifests["pvc.yaml"]["metadata"]["name"], "readOnly": True},
    ]
    # The schema has the modes as any string. The publisher's node may be another.
    assert manifests["pvc.yaml"]["spec"]["accessModes"] == ["ReadWriteMany"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert mounts["models"]["readOnly"] is mounts["config"]["readOnly"] is True


def test_everything_selects_the_pods(manifests):
    deployment = manifests["deployment.yaml"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifests["service.yaml"]["spec"]["selector"] == labels
    assert manifests["service-pods.yaml"]["spec"]["selector"] == labels
    assert manifests["pdb.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"] == labels
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [each["labelSelector"]["matchLabels"] for each in spread] == [labels, labels]
    # The publisher is none of them, or it would get requests.
    assert not labels.items() <= manifests["publisher.yaml"]["metadata"]["labels"].items()


def test_ports(manifests, container, arguments):
    flags = arguments["kubernetes"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(flags["port"]), "http": int(flags["rest_api_port"])}
    service = manifests["service.yaml"]["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports
    (port,) = manifests["service-pods.yaml"]["spec"]["ports"]
    assert (port["targetPort"], port["port"]) == ("grpc", ports["grpc"])
    for rule in manifests["networkpolicy.yaml"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= ports.keys()
    annotations = manifests["deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == flags["rest_api_port"]


def test_probes(container, arguments):
    flags = arguments["kubernetes"]
    assert flags["enable_grpc_healthcheck_service"] == "true"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]["grpc"]
        assert probe["port"] == int(flags["port"])
        assert probe.get("service", "") in ("", "ModelService", "PredictionService")


def test_calls_end_before_the_pod(pod, arguments):
    flags = arguments["kubernetes"]
    age = re.fullmatch(r"grpc\.max_connection_age_ms=(\d+)", flags["grpc_channel_arguments"])
    # gRPC lets a connection live up to a tenth longer.
    longest = 1.1 * int(age[1]) + int(flags["rest_api_timeout_in_ms"])
    assert pod["terminationGracePeriodSeconds"] >= longest / 1000


def test_new_pods_come_before_old_ones_go(manifests):
    update = manifests["deployment.yaml"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in manifests["deployment.yaml"]["spec"]  # the autoscaler's


def test_threads_follow_the_limit(container, arguments):
    name = re.fullmatch(r"\$\((\w+)\)", arguments["kubernetes"]["tensorflow_session_parallelism"])
    (variable,) = container["env"]
    assert variable["name"] == name[1]
    assert variable["valueFrom"]["resourceFieldRef"] == {
        "containerName": container["name"],
        "resource": "limits.cpu",
    }


@pytest.mark.parametrize("file", ["hpa.yaml", "hpa-cpu.yaml"])
def test_autoscaler(manifests, container, file):
    spec = manifests[file]["spec"]
    target = manifests["deployment.yaml"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    metrics = {metric["pods"]["metric"]["name"] for metric in spec["metrics"] if "pods" in metric}
    rules = {rule["name"]["as"] for rule in manifests[RULES]["rules"]}
    assert metrics == (rules if file == "hpa.yaml" else set())
    for metric in spec["metrics"]:
        if "containerResource" in metric:
            assert metric["containerResource"]["container"] == container["name"]


def test_adapter_rules(manifests, check_query):
    for rule in manifests[RULES]["rules"]:
        check_query(rule["seriesQuery"])
        assert rule["resources"]["overrides"].keys() == {"namespace", "pod"}
        series = rule["seriesQuery"].split("{")[0]
        assert rule["name"]["matches"] == f"^{series}$"
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        query = query.replace("<<.LabelMatchers>>", 'namespace="gpt-keras",pod="gpt-keras-0"')
        check_query(query.replace("<<.GroupBy>>", "pod"))


def test_no_replaced_file_is_a_link(deploy):
    assert not [path for path in deploy.rglob("*") if path.is_symlink()]
