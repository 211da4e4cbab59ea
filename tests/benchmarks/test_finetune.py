"""The benchmarks of training steps and of fine-tuning, on models that are small."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpt_keras
from benchmarks import contenders, finetune_scores, train_step
from gpt_keras import tokenizers

TWEETS = Path("data/tweets/train_small.jsonl")
WORDS = Path("data/brown/train_small.jsonl")


def test_flops_are_those_of_the_matrices():
    config = train_step.CONFIG.replace(num_kv_heads=2)
    task = gpt_keras.CausalLM(config)
    sizes = [math.prod(v.shape) for v in task.trainable_variables if len(v.shape) == 2]
    assert contenders.step_flops(config, 7) == 6 * 7 * sum(sizes)


def test_the_fastest_step_counts():
    naps = iter([0.03, 0.01, 0.02])
    steps = {"sleeper": lambda: time.sleep(next(naps)), "idler": lambda: None}
    result = contenders.measure(steps, train_step.CONFIG, tokens=100, rounds=3)
    row = result["contenders"]["sleeper"]
    assert 5000 < row["tokens_per_second"] <= 10000
    assert 0.02 <= row["seconds_median"] < 0.03
    assert result["contenders"]["idler"]["seconds_min"] < 0.01
    assert "sleeper" in contenders.table(result)


@pytest.fixture
def model_dir(tmp_path):
    if not TWEETS.exists():
        pytest.skip(
            f"no {TWEETS}: python -m examples.fetch_data tweets; -m examples.prepare_tweets"
        )
    tokenizer = tokenizers.train_byte_level_bpe(["a tweet of a bird"] * 9, 300, ["<|endoftext|>"])
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2,
        intermediate_size=24, max_position_embeddings=64, eos_token_ids=(0,), pad_token_id=0,
    )  # fmt: skip
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("benchmark", "flags", "speed"),
    [
        ("finetune", ["--rounds=1", "--length=32"], "tokens_per_second"),
        ("finetune_tweets", ["--updates=2", "--train_top_layers=1"], "useful_tokens_per_second"),
    ],
)
def test_runs_beside_torch(benchmark, flags, speed, model_dir, tmp_path):
    output = tmp_path / "result.json"
    flags = [f"--model={model_dir}", f"--output={output}", "--threads=1", *flags]
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(output.read_text())["contenders"]
    assert len(result) >= 2
    for name, row in result.items():
        assert row[speed] > 0
        assert name in ran.stdout
        assert row.get("useful_share", 1) <= 1


@pytest.mark.oracle
@pytest.mark.parametrize("task", finetune_scores.RECIPES)
def test_scores_beside_torch(task, model_dir, tmp_path):
    if task == "token_classification" and not WORDS.exists():
        pytest.skip(
            f"no {WORDS}: python -m examples.fetch_data msra brown; -m examples.prepare_tagging"
        )
    output = tmp_path / "result.json"
    flags = [f"--model={model_dir}", f"--output={output}", "--threads=1", "--updates=2",
             f"--tasks={task}", "--learning_rate=5e-4", "--max_length=16"]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.finetune_scores", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(output.read_text())["tasks"][task]
    ours, theirs = result["contenders"].values()
    # A tiny model after two updates from the same weights: it says nearly the same.
    assert ours["loss"][0] == pytest.approx(theirs["loss"][0], rel=0.01)
    assert list(ours) == list(theirs)
    for value, low, high in (*ours.values(), *theirs.values()):
        assert low <= value <= high
    assert "difference" in ran.stdout
