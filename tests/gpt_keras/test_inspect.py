"""What the inspecting command says of directories, GGUF files and SavedModels."""

import json
import os
import pathlib
import re

import keras
import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras import inspect

SMOLLM2 = pathlib.Path(__file__).parents[2] / "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONFIG = gpt_keras.GPTConfig(
    vocab_size=31, hidden_size=12, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6,
    intermediate_size=8, max_position_embeddings=16,
)  # fmt: skip


class Adder(tf.Module):
    def __init__(self, size):
        self.kept = tf.Variable(tf.ones([size, 2]))
        self.ids = tf.Variable(tf.ones([4], tf.int64))

    @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
    def add(self, x):
        return {"y": x + tf.reduce_sum(self.kept)}


def run(capsys, *arguments):
    status = inspect.main(["inspect", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_directory(tmp_path, capsys):
    keras.utils.set_random_seed(1)
    model = gpt_keras.CausalLM(CONFIG)
    model.save_pretrained(tmp_path / "half", dtype="bfloat16", max_shard_size=2000)
    status, out, _ = run(capsys, tmp_path / "half", "--json")
    found = json.loads(out)
    parameters = sum(weight.shape.num_elements() for weight in model.weights)
    assert status == 0
    assert found["family"] == "llama"
    assert found["parameters"] == parameters
    assert found["stored as"] == {"BF16": parameters}
    assert found["tokenizer"] == "none"
    assert found["memory"] == {
        "weights, float32": 4 * parameters,
        "to train, AdamW, without activations": 16 * parameters,
        "to serve, for each token of context": 3 * 2 * 2 * 6 * 4,
    }
    status, out, _ = run(capsys, tmp_path / "half")
    assert out.startswith(
        "format               Hugging Face model directory\nfamily               "
    )
    assert f"\nstored as            BF16: {parameters:,}\n" in out


def test_classifier(tmp_path):
    gpt_keras.SequenceClassifier(CONFIG.replace(id2label=("no", "yes"))).save_pretrained(
        tmp_path / "classifier"
    )
    found = inspect.inspect(tmp_path / "classifier")
    assert found["task"] == "classification"
    assert found["labels"] == "no, yes"
    assert "to serve, for each token of context" not in found["memory"]


def test_a_tokenizer_that_is_not_supported_is_named(tmp_path):
    gpt_keras.CausalLM(CONFIG).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    told = inspect.inspect(tmp_path / "model")["tokenizer"]
    assert re.match(r"unsupported: .*/tokenizer.json: ", told)


def test_gguf():
    found = inspect.inspect(SMOLLM2)
    assert found["format"] == "GGUF file"
    assert found["parameters"] == 134_515_008
    assert set(found["stored as"]) == {"Q4_1", "Q8_0", "F32"}
    assert found["tokenizer"] == "ByteLevelBPE, 49152 tokens"
    assert found["chat template"] == "compiles into the graph"


def test_newest_version_of_a_saved_model(tmp_path, capsys):
    for version, size in [(9, 3), (10, 5)]:
        adder = Adder(size)
        tf.saved_model.save(adder, str(tmp_path / "m" / str(version)), {"add": adder.add})
    os.makedirs(tmp_path / "m" / "11")  # being copied
    status, out, _ = run(capsys, tmp_path / "m", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["path"] == str(tmp_path / "m" / "10")
    assert found["stored as"] == {"float32": 10, "int64": 4}
    assert found["signatures"] == {"add": "predict(x) -> y"}
    assert found["memory"] == {"variables": 4 * 10 + 8 * 4}

    (tmp_path / "m" / "10" / "saved_model.pb").write_bytes(b"\x0a\xff")
    status, _, error = run(capsys, tmp_path / "m")
    assert (status, error.count("\n")) == (1, 1)
    assert f"{tmp_path / 'm' / '10'}: damaged SavedModel" in error


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "PATH is missing"),
        (["a", "b"], 2, "'b' is one too many"),
        (["a", "--jsn"], 2, "Unknown command line flag 'jsn'"),
        (["nowhere"], 1, "nowhere: no such model directory"),
    ],
)
def test_misuse_and_failure(capsys, arguments, status, words):
    found, _, error = run(capsys, *arguments)
    assert found == status
    assert words in error
    assert error.count("\n") == 1
