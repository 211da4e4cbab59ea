"""Versions that take over under load, with a real server."""

import subprocess
import sys


def test_no_request_fails():
    command = [sys.executable, "-m", "benchmarks.swaps", "--swaps=3", "--clients=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 swaps, each ")
    assert done.stdout.endswith(" requests, 0 of them failed\n")
