"""What a call costs: the figures, from a real server, and what is refused."""

import json
import subprocess
import sys


def run(*args):
    command = [sys.executable, "-m", "benchmarks.overhead", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_figures(tmp_path):
    file = tmp_path / "deep" / "figures.json"
    done = run("--seconds=0.3", "--clients=3", f"--output={file}")
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert 0 < figures["session_ms_p50"] < figures["call_ms_p50"] <= figures["call_ms_p99"]
    assert figures["calls_per_second"] > 10
    assert f"3 clients: {figures['calls_per_second']:.0f} calls/s" in done.stdout


def test_misuse():
    done = run("--clients=0")
    assert done.returncode == 2
    assert "flag --clients=0" in done.stderr
