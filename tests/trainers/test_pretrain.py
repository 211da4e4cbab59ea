import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gpt_keras
from trainers import args, prepare_data, pretrain
from trainers.run_folder import read_lines


@pytest.fixture
def texts(tmp_path):
    """Twenty documents of one language: words in alphabetical order."""
    rng, folder = np.random.default_rng(0), tmp_path / "texts"
    folder.mkdir()
    words = ["apple", "bread", "cheese", "dates", "eggs", "figs", "grapes", "honey"]
    for i in range(20):
        lines = [
            " ".join(words[j] for j in np.sort(rng.choice(8, 5, replace=False))) for _ in range(12)
        ]
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def command(texts, tmp_path, capsys):
    def arguments(**values):
        values = {
            "train_data": texts, "output_dir": tmp_path / "run", "vocab_size": 300,
            "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 32, "xla": False,
            "global_batch_size": 8, "learning_rate": 1e-2, "max_steps": 30, "eval_steps": 15,
            "eval_fraction": 0.2,
            **values,
        }  # fmt: skip
        return [f"--{key}={value}" for key, value in values.items()]

    def run(**values):
        status = args.exit_status(pretrain.main, pretrain.FLAGS, ["pretrain", *arguments(**values)])
        return status, capsys.readouterr()

    run.arguments = arguments
    return run


def test_learns_a_language_from_nothing(command, tmp_path):
    status, printed = command(sample_prompts="apple")
    assert status == 0, printed.err
    lines = [json.loads(line) for line in open(tmp_path / "run" / "metrics.jsonl")]  # noqa: SIM115
    bits = [line["eval_bits_per_byte"] for line in lines if "eval_loss" in line]
    assert bits[2] < bits[1] < bits[0]
    assert bits[2] < 0.6 * bits[0]
    assert "sample\napple" in printed.out
    model = gpt_keras.CausalLM.from_pretrained(tmp_path / "run" / "model")
    config = model.config
    assert (config.num_layers, config.hidden_size, config.intermediate_size) == (1, 16, 64)
    assert config.eos_token_ids == (model.tokenizer.eos_token_id,)
    assert len(model.generate(["apple"], max_new_tokens=4)) == 1


def events(folder):
    """Tag -> steps, of all that TensorBoard finds in a run."""
    sizes = {"scalars": 0, "tensors": 0}  # 0: all
    found = EventAccumulator(str(folder / "tensorboard"), sizes).Reload()
    return {
        tag: [event.step for event in read(tag)]
        for read, kind in ((found.Scalars, "scalars"), (found.Tensors, "tensors"))
        for tag in found.Tags()[kind]
    }


def test_what_tensorboard_shows(command, mixed, tmp_path):
    status, printed = command(
        **mixed, sample_prompts="apple", attention_prompts="a b", insight_steps=5, max_steps=12,
        num_layers=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    assert status == 0, printed.err
    steps, every = events(tmp_path / "run"), list(range(1, 13))
    for name in (
        "loss", "perplexity", "bits_per_byte", "grad_norm", "learning_rate", "tokens_per_second",
        "seconds", "input_wait", "gflops", "of_gemm_peak", "memory_gb",
    ):  # fmt: skip
        assert steps.pop(f"train/{name}") == every, name
    assert steps.pop("train/loss_of/wiki") == every
    assert set(steps.pop("train/loss_of/code")) <= set(every)
    for part in ("embedding", "block_0", "block_1", "head"):
        assert steps.pop(f"train/grad_norm_of/{part}") == [5, 10]
        assert steps.pop(f"train/update_ratio_of/{part}") == [5, 10]
    assert steps.pop("train/update_ratio") == [5, 10]
    for name in ("eval/bits_per_byte", "samples", "attention/0/block_0", "attention/0/block_1"):
        assert steps.pop(name) == [0, 10, 12], name
    # Of the other source nothing is held out.
    assert set(steps) == {"eval/loss", "eval/perplexity", "eval/loss_of/wiki"}


def test_a_given_tokenizer_and_config_are_used(command, model_dir, tmp_path):
    status, printed = command(tokenizer=model_dir, config=model_dir, max_steps=1, max_length=500)
    assert status == 0, printed.err
    given = gpt_keras.CausalLM.from_pretrained(model_dir)
    model = gpt_keras.CausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.replace(bos_token_id=None) == given.config
    assert "x 48 tokens" in printed.out  # rows are no longer than the context


def test_misuse(command, tmp_path):
    cases = [
        ({"num_heads": 3}, 1, "hidden_size=16 is not a multiple of num_heads=3"),
        ({"train_top_layers": 1}, 2, "--train_top_layers is for --model"),
        ({"vocab_size": 100}, 2, "vocab_size"),
        ({"tokenizer": tmp_path}, 1, "no such file"),
        ({"train_data": ""}, 2, "--train_data is missing"),
        ({"attention_prompts": ""}, 2, "--attention_prompts=: has no token to draw"),
        (
            {"gradient_accumulation_steps": 3},
            2,
            "--global_batch_size=8: is not a multiple of 1 "
            "replicas x --gradient_accumulation_steps=3; change one of them",
        ),
    ]
    for changes, expected, message in cases:
        status, printed = command(**changes)
        assert (status, message in printed.err) == (expected, True), printed.err
    assert not (tmp_path / "run").exists()


def test_a_board_that_is_not_there_is_misuse(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, printed = command(wandb_project="mine")
    assert status == 2
    assert "--wandb_project=mine: wandb is not installed; pip install" in printed.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def mixed(make_shards, tmp_path):
    """Flags of a run on two sources of shards."""
    rng = np.random.default_rng(0)
    documents = [[*np.sort(rng.integers(1, 290, rng.integers(2, 50))), 0] for _ in range(40)]
    make_shards(tmp_path / "wiki", documents, documents[:6])
    make_shards(tmp_path / "code", documents[:9])
    return {
        "train_data": f"wiki=0.7:{tmp_path / 'wiki'},code=0.3:{tmp_path / 'code'}",
        "packing": "best_fit", "eval_steps": 10, "save_steps": 3, "log_seconds": 0,
    }  # fmt: skip


def losses(folder):
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


def test_run_on_shards_goes_on_exactly_after_a_kill(command, mixed, tmp_path):
    status, printed = command(**mixed, output_dir=tmp_path / "whole")
    assert status == 0, printed.err
    killed, log = tmp_path / "killed", tmp_path / "log.txt"
    arguments = command.arguments(**mixed, output_dir=killed)
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.pretrain", *arguments],
            stdout=stream, stderr=stream,
        )  # fmt: skip
    while len(losses(killed)) < 8:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.002)
    process.kill()
    process.wait()
    status, printed = command(**mixed, output_dir=killed, resume=True)
    assert status == 0, printed.err
    assert "resuming at step" in printed.out
    np.testing.assert_allclose(losses(killed), losses(tmp_path / "whole"), rtol=1e-6)


def test_run_resumes_on_the_same_shards_alone(command, mixed, make_shards, tmp_path):
    assert command(**mixed, max_steps=1)[0] == 0
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "code")
    make_shards(tmp_path / "code", [[7, 8, 9, 0]] * 9)
    status, printed = command(**mixed, max_steps=1, resume=True)
    assert (status, "the shards of 'code' are not those that the run" in printed.err) == (2, True)


def test_from_shakespeare_to_a_model(command, tmp_path):
    plays = Path("data/shakespeare")
    if not plays.is_dir():
        pytest.skip("no data/shakespeare: python -m examples.fetch_data shakespeare")
    (tmp_path / "plays").mkdir()
    for name in ("phoenix_and_the_turtle_gut.txt", "passionate_pilgrim_gut.txt"):
        os.symlink((plays / name).resolve(), tmp_path / "plays" / name)
    arguments = [
        "prepare_data", f"--train_data={tmp_path / 'plays'}", "--text_unit=paragraph",
        f"--output_dir={tmp_path / 'shards'}", "--vocab_size=400", "--num_processes=1",
    ]  # fmt: skip
    assert args.exit_status(prepare_data.main, prepare_data.FLAGS, arguments) == 0
    status, printed = command(train_data=tmp_path / "shards")
    assert status == 0, printed.err
    lines = [json.loads(line) for line in open(tmp_path / "run" / "metrics.jsonl")]  # noqa: SIM115
    bits = [line["eval_bits_per_byte"] for line in lines if "eval_loss" in line]
    assert bits[2] < bits[1] < bits[0]
    model = gpt_keras.CausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.vocab_size == model.tokenizer.vocab_size == 400
