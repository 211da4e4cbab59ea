"""Runs on a disk that fills up: a small tmpfs, mounted in a user namespace of the run's own."""

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
def on_small_disk(model_dir, data_dir, tmp_path):
    """Function that runs the program on a disk of so many KiB: its output, and what it left.

    The disk goes with the namespace, so `then` is what the shell does before: the run's folder,
    copied out, lies in `left`.
    """
    (tmp_path / "disk").mkdir()
    if not can_mount(tmp_path / "disk"):
        pytest.skip("this user may not mount in a namespace")
    config = checkpoint.read_config(model_dir).replace(hidden_size=96, intermediate_size=128)
    tokenizer = checkpoint.read_tokenizer(model_dir)
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size // 1024  # a checkpoint has 3

    def run(models, spare, then, steps=12):
        command = " ".join([
            sys.executable, "-m trainers.finetune", f"--model={tmp_path / 'model'}",
            "--task=causal_lm", "--text_unit=line", f"--train_data={data_dir / 'texts.txt'}",
            f"--output_dir={tmp_path / 'disk' / 'run'}", "--max_length=24", "--noxla",
            "--global_batch_size=4", f"--max_steps={steps}", "--eval_steps=6", "--save_steps=2",
        ])  # fmt: skip
        script = f"{MOUNT} {tmp_path / 'disk'} && {command}; echo STATUS $?; {then}"
        script = script.replace("AGAIN", f"{command} --resume").replace("TMP", str(tmp_path))
        done = subprocess.run(
            [*NAMESPACE, script, str(int(models * size) + spare)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.stdout

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
