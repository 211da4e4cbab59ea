import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trainers import args, finetune
from trainers.checkpoints import Checkpoints


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


def start(arguments, folder):
    """The program in a process of its own, which writes into `log.txt` beside the folder."""
    command = [sys.executable, "-m", "trainers.finetune", *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(folder.parent / "log.txt", "ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)


def signal_when(condition, number, process, folder):
    """Sends a signal as soon as the condition holds; the exit status."""
    log, deadline = folder.parent / "log.txt", time.monotonic() + 300
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.0005)
    process.send_signal(number)
    return process.wait(60)


def has_done(step, folder):
    return any(line["step"] >= step and "loss" in line for line in read_lines(folder))


def is_saving(folder):
    """Whether a checkpoint is being written."""
    return any((folder / "training_state").glob("checkpoint-*.new"))


def finish(arguments, capsys):
    """Resumes to the end in this process; the step it went on from."""
    capsys.readouterr()
    status = args.exit_status(finetune.main, finetune.FLAGS, arguments)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return int(re.search(r"resuming at step (\d+)", printed.out)[1])


def assert_same_run(folder, whole):
    """All but the times is equal, bit for bit."""
    lines, expected = (
        [{**line, "tokens_per_second": 0} for line in read_lines(path)] for path in (folder, whole)
    )
    assert lines == expected
    for name in ("report.json", "model/model.safetensors", "model/config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert not list((folder / "training_state").glob("*.new"))


@pytest.fixture
def whole(arguments, tmp_path):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path / "whole"
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments(folder)) == 0
    return folder


def test_killed_and_resumed_equals_never_killed(arguments, whole, tmp_path, capsys):
    """Killed once after a step, and once while a checkpoint is written."""
    folder = tmp_path / "killed"
    process = start(arguments(folder), folder)
    status = signal_when(lambda: has_done(7, folder), signal.SIGKILL, process, folder)
    assert status == -signal.SIGKILL
    process = start(arguments(folder, "--resume"), folder)
    status = signal_when(
        lambda: has_done(31, folder) and is_saving(folder), signal.SIGKILL, process, folder
    )
    assert status == -signal.SIGKILL
    assert not (folder / "model").exists()
    assert 28 <= finish(arguments(folder, "--resume"), capsys) < 60
    assert_same_run(folder, whole)


def test_killed_and_resumed_on_shards(arguments, make_shards, tmp_path, capsys):
    documents = [[7, 8 + i % 9, *range(9, 9 + i % 20), 0] for i in range(90)]
    sources = (make_shards(tmp_path / name, documents, documents[:9]).path for name in "ab")
    mixture = "--train_data=a=3:{},b=1:{}".format(*sources)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments(whole, mixture)) == 0
    process = start(arguments(folder, mixture), folder)
    status = signal_when(lambda: has_done(31, folder), signal.SIGKILL, process, folder)
    assert status == -signal.SIGKILL
    assert 24 <= finish(arguments(folder, mixture, "--resume"), capsys) < 60
    assert_same_run(folder, whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_stopped_and_resumed_equals_never_stopped(arguments, whole, tmp_path, capsys, name):
    folder = tmp_path / "stopped"
    process = start(arguments(folder), folder)
    status = signal_when(lambda: has_done(7, folder), signal.Signals[name], process, folder)
    said = (tmp_path / "log.txt").read_text()
    assert status == 75, said
    steps = [line["step"] for line in read_lines(folder)]
    last = f"trainers.finetune: {name}: stopped after step {steps[-1]}; --resume continues"
    assert said.splitlines()[-1] == last
    assert finish(arguments(folder, "--resume"), capsys) == steps[-1]  # nothing is done twice
    assert_same_run(folder, whole)


def inode(path):
    return path.stat().st_ino if path.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(arguments, whole, tmp_path, capsys, seed):
    """20 moments in all: 4 while the program starts, 8 between checkpoints, 8 within one."""
    rng, folder = np.random.default_rng(seed), tmp_path / "killed"
    metrics, state = folder / "metrics.jsonl", Checkpoints(folder / "training_state")
    half_written = 0
    for kind in rng.permutation(["start", "step", "step", "checkpoint", "checkpoint"]):
        former, begin, seconds = inode(metrics), time.monotonic(), 2 * rng.random()
        step = max(state.steps(), default=0) + rng.integers(1, 10)

        def due(kind=kind, former=former, begin=begin, seconds=seconds, step=step):
            if kind == "start":
                return time.monotonic() > begin + seconds
            # A new file, in which a resumed run keeps what it has not to do again.
            if inode(metrics) == former or not has_done(step, folder):
                return False
            return kind == "step" or is_saving(folder)

        process = start(arguments(folder, "--resume"), folder)
        assert signal_when(due, signal.SIGKILL, process, folder) == -signal.SIGKILL
        half_written += is_saving(folder)
    assert half_written, "no kill fell into a checkpoint"
    assert finish(arguments(folder, "--resume"), capsys) > 0
    assert_same_run(folder, whole)


def test_resume_of_nothing_begins(arguments, tmp_path):
    arguments = arguments(tmp_path / "new", "--resume", "--max_steps=1")
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments) == 0
    assert [line["step"] for line in read_lines(tmp_path / "new")] == [0, 1, 1]
