"""The manifests of a training run: schemas, and what operator and trainer make of them."""

import json
import shlex
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from trainers import args, pretrain
from trainers.cluster import Cluster

KINDS = {
    "namespace.yaml": "Namespace",
    "pvc.yaml": "PersistentVolumeClaim",
    "networkpolicy.yaml": "NetworkPolicy",
    "tfjob.yaml": "TFJob",
    "files.yaml": "Pod",
}
VERSIONS = ["1.27", kubernetes_validate.latest_version()]
NAMESPACE = "gpt-keras-training"
# Of the training operator 1.9, pkg/apis/kubeflow.org/v1.
JOB_FIELDS = {"runPolicy", "successPolicy", "tfReplicaSpecs", "enableDynamicWorker"}
RUN_POLICY_FIELDS = {
    "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit",
    "schedulingPolicy", "suspend", "managedBy",
}  # fmt: skip
CONTAINER, PORT = "tensorflow", "tfjob-port"


@pytest.fixture(scope="module")
def folder(deploy):
    return deploy / "kubernetes-training"


@pytest.fixture(scope="module")
def manifests(folder):
    return {name: yaml.safe_load((folder / name).read_text()) for name in KINDS}


@pytest.fixture(scope="module")
def replicas(manifests):
    return manifests["tfjob.yaml"]["spec"]["tfReplicaSpecs"]


def pod_of(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}


@pytest.fixture(params=["Chief", "Worker", "files.yaml"])
def pod(request, replicas, manifests):
    replica = replicas.get(request.param)
    return pod_of(replica["template"]) if replica else manifests[request.param]


@pytest.fixture(params=["Chief", "Worker"])
def container(request, replicas):
    (only,) = replicas[request.param]["template"]["spec"]["containers"]
    return only


def test_kinds(manifests, folder):
    assert {name: data["kind"] for name, data in manifests.items()} == KINDS
    assert {path.name for path in folder.glob("*.yaml")} == {*KINDS, "kustomization.yaml"}
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {*resources, "files.yaml"} == set(KINDS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", sorted(KINDS.keys() - {"tfjob.yaml"}))
def test_schema(manifests, file, version):
    kubernetes_validate.validate(manifests[file], version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_schema_of_the_job(manifests, replicas, version):
    job = manifests["tfjob.yaml"]
    assert job["apiVersion"] == "kubeflow.org/v1"
    assert job["spec"].keys() <= JOB_FIELDS
    assert job["spec"]["runPolicy"].keys() <= RUN_POLICY_FIELDS
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] in ("None", "Running", "All")
    assert replicas.keys() == {"Chief", "Worker"}
    assert replicas["Chief"]["replicas"] == 1
    assert replicas["Worker"]["replicas"] >= 1  # alone, a chief would get no TF_CONFIG
    for replica in replicas.values():
        assert replica.keys() <= {"replicas", "restartPolicy", "template"}
        kubernetes_validate.validate(pod_of(replica["template"]), version, strict=True)


def tf_config(job, kind, index):
    """What the operator sets: addresses of the services that it makes, one for each pod."""
    cluster = {}
    for name, replica in job["spec"]["tfReplicaSpecs"].items():
        (port,) = (
            port["containerPort"]
            for container in replica["template"]["spec"]["containers"]
            if container["name"] == CONTAINER
            for port in container["ports"]
            if port["name"] == PORT
        )
        cluster[name.lower()] = [
            f"{job['metadata']['name']}-{name.lower()}-{i}.{NAMESPACE}.svc:{port}"
            for i in range(replica["replicas"])
        ]
    task = {"type": kind, "index": index}
    return json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})


def test_the_workers_find_each_other(manifests, monkeypatch):
    clusters = []
    for kind, index in [("chief", 0), ("worker", 0), ("worker", 1), ("worker", 2)]:
        monkeypatch.setenv("TF_CONFIG", tf_config(manifests["tfjob.yaml"], kind, index))
        clusters.append(Cluster.from_environment())
    assert [cluster.index for cluster in clusters] == [0, 1, 2, 3]
    assert {cluster.addresses for cluster in clusters} == {
        tuple(
            f"training-{name}.gpt-keras-training.svc:2222"
            for name in ("chief-0", "worker-0", "worker-1", "worker-2")
        )
    }


def test_the_trainer_knows_its_flags(container):
    module, *arguments = container["args"]
    assert module == "trainers.pretrain"
    flags = args.parse(pretrain.FLAGS, [module, *arguments])
    assert (flags.strategy, flags.resume) == ("multi_worker", True)
    assert flags.join_seconds > 300  # of the kubelet, between starts of what fails
    assert flags.save_steps
    (volume,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "training")
    for path in (*flags.train_data, flags.output_dir):
        assert path.startswith(f"{volume}/")


def test_batch_divides(replicas, container):
    flags = args.parse(pretrain.FLAGS, container["args"])
    workers = sum(replica["replicas"] for replica in replicas.values())
    assert flags.global_batch_size % (workers * flags.gradient_accumulation_steps) == 0


def test_all_go_on_after_any_end(replicas, manifests):
    """`ExitCode` would take 75, stopped and saved, for final."""
    assert {replica["restartPolicy"] for replica in replicas.values()} == {"OnFailure"}
    workers = sum(replica["replicas"] for replica in replicas.values())
    assert manifests["tfjob.yaml"]["spec"]["runPolicy"]["backoffLimit"] >= 5 * workers


def test_all_are_the_same(replicas):
    assert replicas["Chief"]["template"] == replicas["Worker"]["template"]


def test_restricted(pod, manifests, check_restricted):
    check_restricted(pod["spec"], manifests["namespace.yaml"])


def test_all_share_one_volume(pod, manifests):
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    claims = [v["persistentVolumeClaim"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": manifests["pvc.yaml"]["metadata"]["name"]}]
    assert manifests["pvc.yaml"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_workers_are_called_by_workers_alone(replicas, manifests):
    policy = manifests["networkpolicy.yaml"]["spec"]
    selector = policy["podSelector"]
    for replica in replicas.values():
        labels = replica["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
    assert (
        not selector["matchLabels"].items() <= manifests["files.yaml"]["metadata"]["labels"].items()
    )
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    among = [{"podSelector": selector}], [{"port": PORT}]
    assert [(rule["from"], rule["ports"]) for rule in policy["ingress"]] == [among]
    assert (policy["egress"][0]["to"], policy["egress"][0]["ports"]) == among
    assert {port["port"] for rule in policy["egress"][1:] for port in rule["ports"]} == {53}


def test_threads_follow_the_limit(container):
    source = {"containerName": CONTAINER, "resource": "limits.cpu"}
    threads = {v["name"]: v["valueFrom"]["resourceFieldRef"] for v in container["env"]}
    assert threads == {"TF_NUM_INTRAOP_THREADS": source, "TF_NUM_INTEROP_THREADS": source}


def test_the_image_has_what_the_package_needs(folder, root, tmp_path):
    """What the Dockerfile copies makes the wheel that its pip would install."""
    lines = [
        shlex.split(line, comments=True)
        for line in (folder / "Dockerfile").read_text().splitlines()
    ]
    for words in lines:
        if words and words[0] == "COPY":
            *sources, target = words[1:]
            for source in sources:
                path = root / source
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, tmp_path / target)
    names = ["setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([sys.executable, *names], cwd=tmp_path, check=True, capture_output=True)
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    packed = set(listed.read_text().split())
    expected = {
        str(path.relative_to(root))
        for package in ("gpt_keras", "trainers", "export")
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".json") and "server" not in path.parts
    }
    assert expected <= packed
    assert ["ENTRYPOINT", "[python,", "-m]"] in lines


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")
def test_kustomize_builds_it(folder, manifests):
    built = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, check=True
    ).stdout
    documents = {data["kind"]: data for data in yaml.safe_load_all(built)}
    assert set(documents) == set(KINDS.values()) - {"Pod"}
    for kind, data in documents.items():
        place = data["metadata"] if kind != "Namespace" else {"namespace": data["metadata"]["name"]}
        assert place["namespace"] == NAMESPACE
    assert documents["TFJob"]["spec"] == manifests["tfjob.yaml"]["spec"]
    assert manifests["files.yaml"]["metadata"]["namespace"] == NAMESPACE
