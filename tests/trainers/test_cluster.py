import concurrent.futures
import json
import socket
import threading
import time

import pytest

from trainers import args, finetune
from trainers.args import UsageError
from trainers.cluster import Cluster, free_addresses


@pytest.fixture
def addresses():
    return tuple(free_addresses(3))


def meet(clusters, seconds=20.0):
    """What becomes of each that comes: None, or its error."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [f.exception() for f in [pool.submit(c.meet, seconds) for c in clusters]]


def test_all_meet_in_any_order(addresses):
    assert meet([Cluster(addresses, i) for i in (2, 0, 1)]) == [None] * 3
    assert meet([Cluster(addresses, i) for i in (0, 1, 2)]) == [None] * 3  # the port is free again


def test_nobody_goes_before_the_last_is_there(addresses):
    early, went = [Cluster(addresses, i) for i in (0, 1)], []
    threads = [threading.Thread(target=lambda c=c: went.append(c.meet(20.0))) for c in early]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert not went
    Cluster(addresses, 2).meet(20.0)
    for thread in threads:
        thread.join()
    assert went == [None, None]


def test_who_is_missing_is_named_to_all(addresses):
    errors = meet([Cluster(addresses, i) for i in (0, 2)], 0.5)
    expected = f"worker 1 ({addresses[1]}) did not join within --join_seconds=0.5"
    assert str(errors[0]) == expected
    assert str(errors[1]).startswith(f"worker 1 ({addresses[1]}) did not join")


def test_a_chief_that_is_missing(addresses):
    (error,) = meet([Cluster(addresses, 1)], 0.3)
    assert f"worker 0 ({addresses[0]}) did not answer worker 1" in str(error)


def test_another_cluster_is_told_apart(addresses):
    errors = meet([Cluster(addresses[:2], 0), Cluster(addresses, 1)], 5.0)
    for error in errors:
        assert "worker 1 has another TF_CONFIG: its workers are" in str(error)


def test_one_that_was_there_and_went_is_missing(addresses):
    def come_and_go():
        host, port = addresses[0].split(":")
        while True:
            try:
                connection = socket.create_connection((host, int(port)))
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        hello = {"index": 1, "addresses": list(addresses)}
        connection.sendall(json.dumps(hello).encode() + b"\n")
        connection.close()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(Cluster(addresses, 0).meet, 1.0)
        pool.submit(come_and_go).result()
        other = pool.submit(Cluster(addresses, 2).meet, 1.0)
        assert f"worker 1 ({addresses[1]}) did not join" in str(chief.exception())
        assert "did not join" in str(other.exception())


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"index": "x"}\n'])
def test_strangers_do_not_disturb(addresses, data):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(Cluster(addresses[:2], 0).meet, 20.0)
        port = int(addresses[0].split(":")[1])
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(data)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        pool.submit(Cluster(addresses[:2], 1).meet, 20.0).result()
        chief.result()


@pytest.mark.parametrize("index", [0, 1])
def test_an_address_in_use(addresses, index):
    host, port = addresses[index].split(":")
    with socket.create_server((host, int(port))):
        (error,) = meet([Cluster(addresses, index)])
    expected = f"worker {index} ({addresses[index]}): cannot listen there: Address already in use"
    assert str(error) == expected


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_the_operators_environment(monkeypatch):
    """As Kubeflow's training operator writes it."""
    cluster = {"chief": ["run-chief-0.ns.svc:2222"], "worker": ["run-worker-0.ns.svc:2222"]}
    text = config(cluster)
    monkeypatch.setenv("TF_CONFIG", text[:-1] + ', "environment": "cloud"}')
    found = Cluster.from_environment()
    assert found == Cluster(("run-chief-0.ns.svc:2222", "run-worker-0.ns.svc:2222"), 1)
    monkeypatch.setenv("TF_CONFIG", config(cluster, "chief"))
    assert Cluster.from_environment().index == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the environment variable TF_CONFIG, which names the workers, is not set"),
        ("{", "TF_CONFIG={: Expecting property name"),
        ("[]", "TF_CONFIG=.*has the form"),
        ("{}", "'cluster' is missing"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task' is missing"),
        (config({"worker": ["a:1"]}, index=1), "the cluster has no worker 1"),
        (config({"worker": ["a:1"]}, "chief"), "the cluster has no chief 0"),
        (config({"worker": ["a"]}), "'a' is not host:port"),
        (config({"worker": ["a:1", "a:1"]}), "one address for two workers"),
        (config({"worker": ["a:1"], "ps": ["b:1"]}), "has no 'ps'"),
        (config({"chief": ["a:1", "b:1"]}, "chief"), "2 chiefs"),
    ],
)
def test_a_bad_environment(monkeypatch, text, message):
    if text is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=message):
        Cluster.from_environment()


def test_a_trainer_waits_no_longer_than_it_is_told(monkeypatch, tmp_path, capsys, addresses):
    monkeypatch.setenv("TF_CONFIG", config({"worker": addresses[:2]}))
    arguments = [
        "finetune", "--model=x", "--task=causal_lm", "--train_data=x", f"--output_dir={tmp_path}",
        "--strategy=multi_worker", "--join_seconds=0.3",
    ]  # fmt: skip
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments) == 1
    expected = f"worker 1 ({addresses[1]}) did not join within --join_seconds=0.3"
    assert expected in capsys.readouterr().err
