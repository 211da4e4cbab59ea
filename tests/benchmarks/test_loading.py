"""Loading a model: what the benchmark measures, and that memory is not taken twice."""

import json
import subprocess
import sys

import pytest

import gpt_keras
from benchmarks import loading

CONFIG = gpt_keras.GPTConfig(
    vocab_size=16_000, hidden_size=256, num_layers=8, num_heads=4, intermediate_size=1024,
    tie_embeddings=False,
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_that_of_the_model(tmp_path, dtype):
    gpt_keras.CausalLM(CONFIG).save_pretrained(tmp_path / "model", dtype=dtype)
    program = [sys.executable, "-m", "benchmarks.loading", f"--peak_of={tmp_path / 'model'}"]
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
    assert 0.9 < json.loads(done.stdout) < 1.3  # 64 MB in float32, of which a table is 16


def test_seconds(tmp_path):
    model = gpt_keras.CausalLM(CONFIG.replace(num_layers=1))
    model.save_pretrained(tmp_path / "model")
    seconds = loading.load_seconds(tmp_path / "model", 1)
    assert list(seconds) == ["read", "load"]
    assert 0 < seconds["read"] < seconds["load"] < 60
    model.save_gguf(tmp_path / "m.gguf")
    assert 0 < loading.import_seconds(tmp_path / "m.gguf", tmp_path / "again", "bfloat16") < 120
    assert gpt_keras.CausalLM.from_pretrained(tmp_path / "again").config.vocab_size == 16_000
