import json

import numpy as np
import pytest

import gpt_keras
from trainers import args, pretrain


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
    def run(**values):
        values = {
            "train_data": texts, "output_dir": tmp_path / "run", "vocab_size": 300,
            "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 32, "xla": False,
            "global_batch_size": 8, "learning_rate": 1e-2, "max_steps": 30, "eval_steps": 15,
            "eval_fraction": 0.2,
            **values,
        }  # fmt: skip
        arguments = [f"--{key}={value}" for key, value in values.items()]
        status = args.exit_status(pretrain.main, pretrain.FLAGS, ["pretrain", *arguments])
        return status, capsys.readouterr()

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
    ]
    for changes, expected, message in cases:
        status, printed = command(**changes)
        assert (status, message in printed.err) == (expected, True), printed.err
    assert not (tmp_path / "run").exists()
