"""The benchmark of continuous batching: what is asked, and what is read from the counters."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import continuous


class Counter:
    """A client of a model whose counter goes up by some at each look."""

    def __init__(self, *steps):
        self._steps = list(steps)

    def predict(self, inputs, signature):
        assert (inputs, signature) == ({}, "stats")
        return {"steps": [self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]]}


def test_steps_are_seen_once_each():
    steps = continuous.Steps(Counter(3, 3, 4, 4, 4, 6))
    steps.start()
    while not steps.seen or steps.seen[-1][1] < 6:
        pass
    steps.end()
    assert [n for _, n in steps.seen] == [3, 4, 6]
    times = [t for t, _ in steps.seen]
    assert times == sorted(times)


def test_gaps_between_steps():
    steps = continuous.Steps(None)
    steps.seen = [(0.0, 5), (1.0, 6), (3.0, 8), (3.5, 9), (9.0, 10)]
    assert steps.gaps(0.5, 4.0) == [1.0, 1.0, 0.5]  # two steps in the gap of two seconds
    assert steps.gaps(4.0, 5.0) == []


def test_texts():
    rng = np.random.default_rng(0)
    assert [len(text.split()) for text in continuous.texts(rng, 3, 7)] == [7, 7, 7]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--none=a"], "--continuous: expected a folder of versions"),
        (["--continuous=a", "--none=b", "--batch=1"], "--batch=1: expected at least 2"),
    ],
)
def test_misuse(flags, message):
    command = [sys.executable, "-m", "benchmarks.continuous", *flags]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert message in found.stderr
