"""What comes between the meeting of the workers and their first step."""

import json
import os
import subprocess
import sys

from trainers.cluster import Cluster, free_addresses


def python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_worker_that_dies_after_the_meeting_is_not_waited_for():
    addresses = free_addresses(2)
    task = {"type": "worker", "index": 0}
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    code = "from trainers.strategy import make_strategy; make_strategy('multi_worker', 0, 5.0)"
    chief = python(code, TF_CONFIG=config)
    Cluster(tuple(addresses), 1).meet(60.0)
    _, error = chief.communicate(timeout=60)
    assert chief.returncode == 1
    assert "Timeout (0:00:05)!" in error


def test_sigterm_waits_for_the_strategy_and_is_not_lost():
    code = """
import os, signal
from trainers.strategy import _sigterm_kept

def stop(number, frame):
    os.write(1, b"stopped\\n")
    os._exit(75)

signal.signal(signal.SIGTERM, stop)
with _sigterm_kept():
    os.kill(os.getpid(), signal.SIGTERM)
    os.write(1, b"made\\n")
print("lost")
"""
    process = python(code)
    printed, error = process.communicate(timeout=60)
    assert printed == "made\nstopped\n", error
    assert process.returncode == 75
