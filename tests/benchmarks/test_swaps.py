"""Versions that take over under load, with a real server, and that a wrong answer is found."""

import subprocess
import sys
import time

import pytest

from benchmarks import swaps
from benchmarks.server import Server


@pytest.mark.slow
def test_no_request_fails():
    command = [sys.executable, "-m", "benchmarks.swaps", "--swaps=3", "--clients=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 swaps, each ")
    assert done.stdout.endswith(" requests, 0 of them failed\n")


def asked(*addresses, **bounds):
    """Clients that ask until they have been answered both ways."""
    clients = swaps.Clients(*addresses, 2, **bounds)
    until = time.monotonic() + 60
    while clients.answered < 20 and time.monotonic() < until:
        time.sleep(0.01)
    clients.stop()
    return clients


def test_versions_that_should_not_have_answered(tmp_path):
    swaps.save(tmp_path / "1", 7)
    with Server(tmp_path, rest_api_port=0) as server:
        addresses = server.address, server.rest_address()
        assert asked(*addresses, available=6, published=7).wrong == []
        for available, published in ((5, 6), (8, 9)):
            found = asked(*addresses, available=available, published=published)
            assert len(found.wrong) == found.answered >= 20
            words = f"version 7 answered, of {available} to {published} that could"
            assert set(found.wrong) == {words}
    gone = asked(*addresses, available=7, published=7)
    assert len(gone.wrong) == gone.answered
    assert all(words.startswith("beside version 7: ") for words in gone.wrong)
