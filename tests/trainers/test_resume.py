import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainers import args, finetune
from trainers.checkpoints import Checkpoints
from trainers.run_folder import read_lines


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


def start(arguments, folder):
    """The program in a process of its own, which writes into `log.txt` beside the folder."""
    command = [sys.executable, "-m", "trainers.finetune", *arguments[1:]]
    with open(folder.parent / "log.txt", "ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def wait_until(condition, process, log):
    """Returns as soon as the condition holds, before the process ends."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.0005)


def signal_when(condition, number, process, folder):
    """Sends a signal as soon as the condition holds; the exit status."""
    wait_until(condition, process, folder.parent / "log.txt")
    process.send_signal(number)
    return process.wait(60)


def has_done(step, folder):
    return any(
        line["step"] >= step and "loss" in line for line in read_lines(folder / "metrics.jsonl")
    )


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
        [{**line, "tokens_per_second": 0} for line in read_lines(path / "metrics.jsonl")]
        for path in (folder, whole)
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
    # The last whole checkpoint is that of step 27 if that of 30 was being written.
    assert 27 <= finish(arguments(folder, "--resume"), capsys) < 60
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
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl")]
    last = f"trainers.finetune: {name}: stopped after step {steps[-1]}; --resume continues"
    assert said.splitlines()[-1] == last
    assert finish(arguments(folder, "--resume"), capsys) == steps[-1]  # nothing is done twice
    assert_same_run(folder, whole)


def inode(path):
    return path.stat().st_ino if path.exists() else None


def stops_while_saving(pid, folder):
    """Holds the process if it is writing a checkpoint: whoever kills it now leaves half of one."""
    if not is_saving(folder):
        return False
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.0005)
    if is_saving(folder):
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def random_moments(rng, folder):
    """For each of five starts of a run, a function of its writer's pid: is it to be killed now?

    One moment is while the program starts, two are between checkpoints, two within one.
    """
    metrics, state = folder / "metrics.jsonl", Checkpoints(folder / "training_state")
    for kind in rng.permutation(["start", "step", "step", "checkpoint", "checkpoint"]):
        former, begin, seconds = inode(metrics), time.monotonic(), 2 * rng.random()
        step = max(state.steps(), default=0) + rng.integers(1, 10)

        def due(pid, kind=kind, former=former, begin=begin, seconds=seconds, step=step):
            if kind == "start":
                return time.monotonic() > begin + seconds
            # A new file, in which a resumed run keeps what it has not to do again.
            if inode(metrics) == former or not has_done(step, folder):
                return False
            return kind == "step" or stops_while_saving(pid, folder)

        yield due


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(arguments, tmp_path, capsys, seed):
    """20 moments in all."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    more = "--max_steps=200", "--resume"  # enough that none ends before its moment
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments(whole, *more)) == 0
    for due in random_moments(np.random.default_rng(seed), folder):
        process = start(arguments(folder, *more), folder)
        condition = functools.partial(due, process.pid)
        assert signal_when(condition, signal.SIGKILL, process, folder) == -signal.SIGKILL
    assert finish(arguments(folder, *more), capsys) > 0
    assert_same_run(folder, whole)


def launch(arguments, folder):
    """Two workers, and what they print."""
    command = [sys.executable, "-m", "trainers.launch", "--workers=2", "--", "trainers.finetune"]
    with open(folder.parent / "log.txt", "ab") as stream:
        return subprocess.Popen([*command, *arguments[1:]], stdout=stream, stderr=stream)


def workers_of(launcher):
    """Process ids, in the workers' order; none before both have been started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(pid) for pid in children] if len(children) == 2 else []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_workers_killed_at_random_moments(arguments, tmp_path, seed):
    """20 moments in all, of the chief, the other, both, or what has started them."""
    rng, whole, folder = np.random.default_rng(seed), tmp_path / "whole", tmp_path / "killed"
    more, log = ("--max_steps=200", "--resume"), tmp_path / "log.txt"
    assert launch(arguments(whole, *more), whole).wait(120) == 0, log.read_text()[-3000:]
    for due in random_moments(rng, folder):
        launcher = launch(arguments(folder, *more), folder)
        wait_until(functools.partial(workers_of, launcher), launcher, log)
        workers = workers_of(launcher)
        wait_until(functools.partial(due, workers[0]), launcher, log)
        victims = [workers[:1], workers[1:], workers, [launcher.pid]][rng.integers(4)]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        status = launcher.wait(60)
        assert status == (-signal.SIGKILL if victims == [launcher.pid] else 128 + signal.SIGKILL)
        while any(os.path.exists(f"/proc/{pid}") for pid in workers):
            time.sleep(0.01)
    assert launch(arguments(folder, *more), folder).wait(120) == 0, log.read_text()[-3000:]
    assert_same_run(folder, whole)


def test_resume_of_nothing_begins(arguments, tmp_path):
    arguments = arguments(tmp_path / "new", "--resume", "--max_steps=1")
    assert args.exit_status(finetune.main, finetune.FLAGS, arguments) == 0
    assert [line["step"] for line in read_lines(tmp_path / "new" / "metrics.jsonl")] == [0, 1, 1]
