import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trainers import args, finetune

KILLS = (7, 31)  # steps after which the run is killed


@pytest.fixture
def arguments(model_dir, data_dir):
    """Function from the output folder to a run of many short steps with dropout."""

    def make(folder, *more):
        return [
            "finetune", f"--model={model_dir}", "--task=causal_lm", "--text_unit=line",
            f"--train_data={data_dir / 'texts.txt'}", f"--output_dir={folder}", "--max_length=24",
            "--global_batch_size=4", "--learning_rate=3e-3", "--dropout=0.1", "--max_steps=60",
            "--eval_steps=12", "--save_steps=3", "--noxla", "--log_seconds=0", *more,
        ]  # fmt: skip

    return make


def read_lines(folder):
    """Whole lines of metrics.jsonl; none before it exists."""
    try:
        text = (folder / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def kill_after(step, arguments, folder):
    """Starts the program and kills it, with no chance to tidy up, soon after a step."""
    log = folder.parent / "log.txt"
    command = [sys.executable, "-m", "trainers.finetune", *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(log, "ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step and "loss" in line for line in read_lines(folder)):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_and_resumed_equals_never_killed(arguments, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments(whole)) == 0
    kill_after(KILLS[0], arguments(killed), killed)
    kill_after(KILLS[1], arguments(killed, "--resume"), killed)
    assert not (killed / "model").exists()
    capsys.readouterr()
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments(killed, "--resume")) == 0
    resumed_at = int(capsys.readouterr().out.split("resuming at step ")[1].split()[0])
    assert KILLS[1] - 3 <= resumed_at < 60

    expected, actual = read_lines(whole), read_lines(killed)
    assert [line["step"] for line in actual] == [line["step"] for line in expected]
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_bits_per_byte"):
        values, reference = (
            [line[name] for line in lines if name in line] for lines in (actual, expected)
        )
        np.testing.assert_allclose(values, reference, rtol=1e-6, err_msg=name)
    assert (killed / "report.json").read_text() == (whole / "report.json").read_text()
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (whole, killed)]
    assert weights[0] == weights[1]


def test_resume_of_nothing_begins(arguments, tmp_path):
    arguments = arguments(tmp_path / "new", "--resume", "--max_steps=1")
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments) == 0
    assert [line["step"] for line in read_lines(tmp_path / "new")] == [0, 1, 1]
