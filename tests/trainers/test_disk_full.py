"""Runs on a disk that fills up: a small tmpfs, mounted in a user namespace of the run's own."""

import json
import os
import re
import subprocess
import sys

import pytest

import gpt_keras
from gpt_keras import checkpoint
from trainers.checkpoints import Checkpoints

MOUNT = "mount -t tmpfs -o size=$0k tmpfs"
NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def can_mount(folder):
    try:
        return not subprocess.run([*NAMESPACE, f"{MOUNT} {folder}", "64"], check=False).returncode
    except OSError:
        return False


@pytest.fixture
def small_disk(tmp_path):
    """Function that runs a command with a disk of so many KiB at TMP/disk, and returns its output.

    The disk goes with the namespace, so `then` is what the shell does before; in both TMP stands
    for the test's folder.
    """
    (tmp_path / "disk").mkdir()
    if not can_mount(tmp_path / "disk"):
        pytest.skip("this user may not mount in a namespace")

    def run(size, command, then):
        script = f"{MOUNT} TMP/disk && {command}; echo STATUS $?; {then}"
        done = subprocess.run(
            [*NAMESPACE, script.replace("TMP", str(tmp_path)), str(size)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    return run


@pytest.fixture
def on_small_disk(small_disk, model_dir, data_dir, tmp_path):
    """Function that fine-tunes on a disk that holds so many models, and some KiB.

    The run's folder is TMP/disk/run; AGAIN stands for the command that resumes it.
    """
    config = checkpoint.read_config(model_dir).replace(hidden_size=96, intermediate_size=128)
    tokenizer = checkpoint.read_tokenizer(model_dir)
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size // 1024  # a checkpoint has 3

    def run(models, spare, then, steps=12):
        command = " ".join([
            sys.executable, "-m trainers.finetune", f"--model={tmp_path / 'model'}",
            "--task=causal_lm", "--text_unit=line", f"--train_data={data_dir / 'texts.txt'}",
            "--output_dir=TMP/disk/run", "--max_length=24", "--noxla",
            "--global_batch_size=4", f"--max_steps={steps}", "--eval_steps=6", "--save_steps=2",
        ])  # fmt: skip
        then = then.replace("AGAIN", f"{command} --resume")
        return small_disk(int(models * size) + spare, command, then)

    return run


COPY = "cp -r TMP/disk/run TMP/left"
NO_ROOM = r"checkpoint-(\d+)\.new/state.safetensors: No space left on device\); the last one is"


def test_a_run_goes_on_where_its_checkpoints_do_not_fit(on_small_disk, tmp_path):
    """Two checkpoints and the model fit, but not three."""
    output = on_small_disk(8, 0, COPY)
    assert "STATUS 0" in output, output
    assert re.findall(NO_ROOM, output) == ["6", "8", "10", "12"], output
    state = Checkpoints(tmp_path / "left" / "training_state")
    assert sorted(os.listdir(state.folder)) == ["checkpoint-2", "checkpoint-4"]
    assert [state.read(step)[0]["step"] for step in (2, 4)] == [2, 4]
    gpt_keras.CausalLM.from_pretrained(tmp_path / "left" / "model")


@pytest.mark.slow
def test_a_run_that_can_write_nothing_stops_and_resumes_once_it_can(on_small_disk, tmp_path):
    """Two checkpoints leave a page or two: too little for the metrics and TensorBoard."""
    again = f"{COPY}; mount -o remount,size=10m TMP/disk; AGAIN; echo STATUS $?"
    output = on_small_disk(6, 36, again, steps=80)
    first, second, _ = output.split("STATUS")
    assert re.search(r"\ntrainers.finetune: error: \S+: No space left on device\n$", first), first
    assert "Traceback" not in output
    assert second.startswith(" 1"), output
    state = Checkpoints(tmp_path / "left" / "training_state")
    newest = state.steps()[-1]
    state.read(newest)
    assert f"resuming at step {newest}" in second
    assert output.rstrip().endswith("STATUS 0"), output


@pytest.mark.slow
def test_shards_that_do_not_fit_are_none(small_disk, model_dir, tmp_path):
    """Of six there is room for one or two."""
    with open(tmp_path / "texts.jsonl", "w", encoding="utf-8") as file:
        for number in range(660):
            text = f"{number}: " + "the cat sat on the mat, " * 400
            file.write(json.dumps({"text": text}) + "\n")
    command = " ".join([
        sys.executable, "-m trainers.prepare_data", f"--train_data={tmp_path / 'texts.jsonl'}",
        f"--tokenizer={model_dir}", "--output_dir=TMP/disk/out", "--num_processes=1",
        "--shard_tokens=1",
    ])  # fmt: skip
    output = small_disk(3000, command, "cp -r TMP/disk TMP/left")
    error = r"trainers\.prepare_data: error: \S+/out\.partial/train-\d+\.tokens\.npy: No space"
    assert re.search(rf"{error} left on device\nSTATUS 1\n$", output), output
    assert "Traceback" not in output
    assert os.listdir(tmp_path / "left") == ["out.partial"]
    names = os.listdir(tmp_path / "left" / "out.partial")
    assert "journal-00000.json" in names  # the next start goes on after it
    assert len([name for name in names if name.startswith("journal")]) < 6
