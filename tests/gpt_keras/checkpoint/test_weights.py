"""Tensors of files in a model's variables: large ones, other dtypes, what no file holds."""

import gguf
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

import gpt_keras
from gpt_keras.checkpoint import weights

CONFIG = gpt_keras.GPTConfig(
    vocab_size=3001, hidden_size=64, num_layers=1, num_heads=4, num_kv_heads=2,
    intermediate_size=1100, initializer_range=0.02,
)  # fmt: skip
TABLE, GATE = "model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"
UP = GATE.replace("gate", "up")


@pytest.fixture(scope="module")
def model():
    assert 64 * min(CONFIG.vocab_size, CONFIG.intermediate_size) > weights.PIECE  # several each
    return gpt_keras.CausalLM(CONFIG)


def variables(model):
    return {variable.path: np.asarray(variable) for variable in model.backbone.weights}


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_tensors_in_pieces(model, tmp_path, stored, dtype):
    model.save_pretrained(tmp_path / "m", dtype=stored)
    values = load_file(tmp_path / "m" / "model.safetensors")
    found = variables(gpt_keras.CausalLM.from_pretrained(tmp_path / "m", dtype=dtype))
    as_is = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    table, up = found["embedding/table"], found["block_0/feed_forward/up/kernel"]
    np.testing.assert_array_equal(table, values[TABLE].astype(as_is).T)
    np.testing.assert_array_equal(up[:, :1100], values[GATE].astype(as_is).T)
    np.testing.assert_array_equal(up[:, 1100:], values[UP].astype(as_is).T)


def test_quantized_tensors_in_pieces(model, tmp_path):
    model.save_gguf(tmp_path / "m.gguf", "Q8_0")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    found = variables(gpt_keras.CausalLM.from_pretrained(tmp_path / "m.gguf"))
    table = tensors["token_embd.weight"]
    whole = gguf.quants.dequantize(table.data, table.tensor_type)
    np.testing.assert_array_equal(found["embedding/table"], whole.T)


def test_no_random_numbers_where_the_file_has_all(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "m")

    def refuse(*_, **__):
        raise AssertionError("random numbers")

    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", refuse)
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "m")
    for ours, exact in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, exact, err_msg=ours.path)


def test_new_head_is_random_by_seed(model, tmp_path):
    model.save_pretrained(tmp_path / "m")

    def head(seed):
        keras.utils.set_random_seed(seed)
        read = gpt_keras.SequenceClassifier.from_pretrained
        fresh = read(tmp_path / "m", id2label=tuple(map(str, range(100))))
        (kernel,) = [v for v in fresh.weights if v.path == "score/kernel"]
        return np.asarray(kernel)

    first = head(1)
    np.testing.assert_array_equal(first, head(1))
    assert not np.array_equal(first, head(2))
    assert 0.018 < first.std() < 0.022  # of 6,400 numbers


def test_every_replica_is_filled(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        again = gpt_keras.CausalLM.from_pretrained(tmp_path / "m")
    for ours, exact in zip(again.weights, model.weights, strict=True):
        for replica in ours.value.values:
            np.testing.assert_array_equal(replica, exact, err_msg=ours.path)


def test_weights_are_changed_in_place(model, tmp_path):
    """They lie in memory that TensorFlow did not make."""
    model.save_pretrained(tmp_path / "m")
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "m")
    for variable, before in zip(again.weights, model.weights, strict=True):
        variable.value.assign_add(tf.ones_like(variable.value))
        np.testing.assert_array_equal(variable, np.asarray(before) + 1, err_msg=variable.path)
