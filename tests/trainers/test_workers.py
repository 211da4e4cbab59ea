"""Runs of several worker processes, that talk over loopback, against runs of one."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import safetensors.numpy

from trainers import args, finetune, pretrain
from trainers.cluster import free_addresses
from trainers.run_folder import read_lines

STEPS = 24


def launch(arguments):
    """Two workers of `trainers.finetune`, and what they print."""
    command = [sys.executable, "-m", "trainers.launch", "--workers=2", "--", "trainers.finetune"]
    return subprocess.Popen(
        [*command, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def start_workers(*commands, folders=None, count=None):
    """Processes of these commands (or of one, `count` times), with a TF_CONFIG that names them."""
    commands = commands * (count or 1)
    addresses, processes = free_addresses(len(commands)), []
    for index, command in enumerate(commands):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        process = subprocess.Popen(
            [sys.executable, *command], env={**os.environ, "TF_CONFIG": config}, text=True,
            cwd=folders and folders[index], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
    return processes


def finish(processes):
    """(exit status, stdout, stderr) of each."""
    try:
        printed = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, printed, strict=True)]


def assert_same(folder, other, rtol=2e-5):
    """The same metrics at every step, and the same finished model."""
    actual, expected = read_lines(folder / "metrics.jsonl"), read_lines(other / "metrics.jsonl")
    assert [line["step"] for line in actual] == [line["step"] for line in expected]
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy"):
        values, reference = (
            [line[name] for line in lines if name in line] for lines in (actual, expected)
        )
        np.testing.assert_allclose(values, reference, rtol=rtol, err_msg=name)
    reports = [json.loads((path / "report.json").read_text()) for path in (folder, other)]
    assert reports[0]["best_step"] == reports[1]["best_step"]
    assert reports[0]["eval"]["loss"] == pytest.approx(reports[1]["eval"]["loss"], rel=rtol)


def make_arguments(model_dir, data_dir, folder, workers=1, **values):
    """A run in two parts a batch, with dropout and clipping.

    Dropout's masks follow the part, so two workers do what one does in two micro-batches.
    """
    values = {
        "model": model_dir, "task": "causal_lm", "text_unit": "line", "max_length": 24,
        "train_data": data_dir / "texts.txt", "output_dir": folder, "dropout": 0.1,
        "global_batch_size": 4, "gradient_accumulation_steps": 2 // workers,
        "learning_rate": 3e-3, "max_grad_norm": 0.5, "max_steps": STEPS, "eval_steps": 8,
        "save_steps": 4, "log_seconds": 0, "xla": False, "resume": True,
        **values,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture
def arguments(model_dir, data_dir):
    return functools.partial(make_arguments, model_dir, data_dir)


def run_alone(arguments, program=finetune):
    assert args.exit_status(program.main, program.FLAGS, [program.__name__, *arguments]) == 0


@pytest.fixture(scope="module")
def alone(model_dir, data_dir, tmp_path_factory):
    """Folder of a run of one worker that has kept all its checkpoints."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_alone(make_arguments(model_dir, data_dir, folder, keep_last=99))
    return folder


def test_killed_with_two_workers_and_resumed_with_one(arguments, alone, tmp_path):
    folder = tmp_path / "run"
    launcher = launch(arguments(folder, workers=2))
    deadline = time.monotonic() + 100
    while sum("loss" in line for line in read_lines(folder / "metrics.jsonl")) < 9:
        assert launcher.poll() is None, launcher.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = ["ps", "-o", "pid=", "--ppid", str(launcher.pid)]
    listed = subprocess.run(children, capture_output=True, text=True)
    workers = [int(pid) for pid in listed.stdout.split()]
    os.kill(workers[1], signal.SIGKILL)
    printed = launcher.communicate(timeout=60)[0]
    assert launcher.returncode == 128 + signal.SIGKILL, printed
    assert printed.endswith("trainers.launch: worker 1 was killed by SIGKILL\n")
    told = r"(model:|step \d)"  # by the chief, for both
    assert re.search(rf"^\[worker 0\] {told}", printed, re.M)
    assert not re.search(rf"^\[worker 1\] {told}", printed, re.M), printed
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    assert not (folder / "model").exists()
    run_alone(arguments(folder))
    assert_same(folder, alone)


@pytest.mark.slow
def test_workers_of_one_machine_share_its_memory(arguments, tmp_path):
    launcher = launch(arguments(tmp_path / "run", workers=2, dry_run=True, resume=False))
    printed = launcher.communicate(timeout=100)[0]
    assert launcher.returncode == 0, printed
    found = re.search(r"^\[worker 0\] memory: .* of (.*)GB available to each of 2 ", printed, re.M)
    assert found, printed
    assert 0.0 < float(found[1]) < 0.6e-9 * psutil.virtual_memory().total


@pytest.mark.slow
def test_begun_with_one_worker_and_resumed_with_two(arguments, alone, tmp_path):
    """The other worker sees nothing of the chief's folder, and has no part in its pictures."""
    machines = tmp_path / "chief", tmp_path / "other"
    folder = machines[0] / "run"
    shutil.copytree(alone, folder)
    machines[1].mkdir()
    shutil.rmtree(folder / "model")
    for path in (folder / "training_state").iterdir():
        if int(path.name.split("-")[1]) > 12:
            shutil.rmtree(path)
    flags = arguments("run", workers=2, attention_prompts="the cat")
    command = ["-m", "trainers.finetune", "--strategy=multi_worker", *flags]
    (status, printed, error), other = finish(start_workers(command, count=2, folders=machines))
    assert status == other[0] == 0, error + other[2]
    assert "resuming at step 12" in printed
    assert other[1] == ""
    assert_same(folder, alone)
    assert len(list((folder / "tensorboard").iterdir())) == 2  # one a start, not one a worker
    assert not list((machines[1] / "run").iterdir())


def test_sigterm_before_the_first_step_ends_all(arguments, tmp_path):
    """TensorFlow catches it where there are several workers, to no effect."""
    launcher = launch(arguments(tmp_path / "run", workers=2, max_steps=10_000))
    for line in launcher.stdout:
        if line.startswith("[worker 0] model:"):
            break
    launcher.send_signal(signal.SIGTERM)
    printed = launcher.communicate(timeout=60)[0]
    assert launcher.returncode == 128 + signal.SIGTERM, printed


@pytest.mark.slow
def test_a_classifier_on_frozen_blocks(arguments, data_dir, tmp_path):
    """Its logits are gathered, and so is what the frozen blocks say of each sample."""
    changes = {
        "task": "classification", "train_data": data_dir / "labelled.jsonl", "dropout": 0,
        "eval_data": data_dir / "labelled.jsonl", "train_top_layers": 1, "length_buckets": 1,
        "xla": True, "max_steps": 12, "eval_steps": 5, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    alone, together = tmp_path / "alone", tmp_path / "together"
    command = ["-m", "trainers.finetune", "--strategy=multi_worker"]
    processes = start_workers([*command, *arguments(together, **changes)], count=2)
    run_alone(arguments(alone, **changes))
    for status, _, error in finish(processes):
        assert status == 0, error
    assert_same(together, alone)
    reports = [json.loads((path / "report.json").read_text()) for path in (alone, together)]
    assert reports[0]["eval"]["confusion_matrix"] == reports[1]["eval"]["confusion_matrix"]
    assert not list(together.glob("*.f32"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flags", "--learning_rate is 0.003 on worker 0, 0.001 on worker 1;"),
        ("data", "the digest of the train data of --task=causal_lm is "),
        pytest.param("shards", "the digest of --train_data is ", marks=pytest.mark.slow),
        pytest.param("weights", "the digest of the weights is ", marks=pytest.mark.slow),
    ],
)
def test_workers_that_differ_refuse_to_start(
    arguments, model_dir, data_dir, make_shards, tmp_path, what, message
):
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        shutil.copytree(model_dir, folder / "model")
        shutil.copy(data_dir / "texts.txt", folder)
    if what == "data":
        path = folders[1] / "texts.txt"
        path.write_text(path.read_text().replace("cat", "dog", 1))
    if what == "weights":
        path = folders[1] / "model" / "model.safetensors"
        weights = safetensors.numpy.load_file(path)
        weights["model.norm.weight"][3] += 1e-6
        safetensors.numpy.save_file(weights, path, {"format": "pt"})
    data = {"train_data": "texts.txt"}
    if what == "shards":
        data["train_data"] = "shards"
        for i, folder in enumerate(folders):
            make_shards(folder / "shards", [[7, 8, 9 + i, 0]] * 40)
    rate = {"learning_rate": 1e-3} if what == "flags" else {}
    commands = [
        ["-m", "trainers.finetune", "--strategy=multi_worker",
         *arguments(tmp_path / "run", 2, model="model", **data, **changes)]
        for changes in ({}, rate)
    ]  # fmt: skip
    for status, _, error in finish(start_workers(*commands, folders=folders)):
        assert status == 2, error
        line = error.splitlines()[-1]
        assert line.startswith(f"trainers.finetune: error: the workers differ: {message}"), error
        if what != "data":  # where the data held out differs too
            assert line.count(" is ") == 1, line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture
def shards(make_shards):
    """Function that fills a folder with two sources of prepared data, and names them as a flag."""

    def make(folder, first=0):
        rng = np.random.default_rng(0)
        documents = [[*rng.integers(1, 290, rng.integers(2, 50)), 0] for _ in range(40)]
        make_shards(folder / "wiki", documents, documents[:6])
        make_shards(folder / "code", documents[first : first + 9])
        return "wiki=0.7:wiki,code=0.3:code"

    return make


def pretrain_arguments(train_data, folder, workers=1):
    return [
        f"--train_data={train_data}", f"--output_dir={folder}", "--packing=best_fit", "--noxla",
        "--hidden_size=16", "--num_layers=1", "--num_heads=2", "--max_length=32", "--dropout=0.1",
        "--global_batch_size=8", f"--gradient_accumulation_steps={2 // workers}",
        "--max_grad_norm=0.5", "--learning_rate=1e-2", "--max_steps=20", "--eval_steps=8",
    ]  # fmt: skip


def test_on_a_mixture_of_shards(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = shards(tmp_path)
    command = ["-m", "trainers.pretrain", "--strategy=multi_worker"]
    processes = start_workers([*command, *pretrain_arguments(data, "together", 2)], count=2)
    run_alone(pretrain_arguments(data, "alone"), pretrain)
    for status, _, error in finish(processes):
        assert status == 0, error
    assert_same(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
def test_workers_with_other_shards_refuse_to_start(shards, tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for first, folder in enumerate(folders):
        data = shards(folder, first)
    command = ["-m", "trainers.pretrain", "--strategy=multi_worker"]
    arguments = pretrain_arguments(data, "run", 2)
    processes = start_workers([*command, *arguments], count=2, folders=folders)
    for status, _, error in finish(processes):
        assert status == 2, error
        assert "error: the workers differ: the digest of --train_data is " in error
    assert not (folders[0] / "run").exists()
