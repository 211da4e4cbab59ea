"""What tests of several modules share: a tiny architecture, and the harness for layers."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras

TINY = gpt_keras.GPTConfig(
    vocab_size=37, hidden_size=12, num_layers=2, num_heads=6, num_kv_heads=2, intermediate_size=20,
    max_position_embeddings=32, initializer_range=0.3, eos_token_ids=(2,), pad_token_id=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(7)


@pytest.fixture
def tiny():
    """A small llama-like architecture; weights large enough that each one matters."""
    return TINY


@pytest.fixture
def check_layer():
    """Function that checks what every layer and model must do; see `_check`."""
    return _check


def _check(make, *inputs, output_dtype=None):
    """Checks serialisation, weights, symbolic shapes, dtypes and a step of training.

    Args:
      make: dtype policy -> the layer.
      inputs: what it is called with, tensors of float32 or int32.
      output_dtype: of the result, whatever the policy is; None for the compute dtype.
    """
    for policy in ("float32", "mixed_bfloat16"):
        layer = make(policy)
        outputs = layer(*inputs)
        assert keras.backend.standardize_dtype(outputs.dtype) == (
            output_dtype or layer.compute_dtype
        )
        assert {weight.dtype for weight in layer.weights} <= {"float32"}
        assert np.isfinite(tf.cast(outputs, "float32").numpy()).all()
        _check_serialisation(layer, inputs, outputs)
        _check_dynamic_shapes(layer, inputs, outputs)
        _check_training_step(layer, inputs)
    # bfloat16 keeps 8 bits: the same weights must give about the same result.
    exact = make("float32")
    exact(*inputs)
    layer.set_weights(exact.get_weights())
    ours, exact = (tf.cast(f(*inputs), "float32").numpy() for f in (layer, exact))
    assert np.abs(ours - exact).max() <= 0.06 * np.abs(exact).max()


def _check_serialisation(layer, inputs, outputs):
    config = json.loads(json.dumps(layer.get_config()))
    copy = type(layer).from_config(config)
    assert copy.dtype_policy.name == layer.dtype_policy.name
    assert json.loads(json.dumps(copy.get_config())) == config
    copy(*inputs)
    assert [w.path for w in copy.weights] == [w.path for w in layer.weights]
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(*inputs), outputs)


def _check_dynamic_shapes(layer, inputs, outputs):
    """One graph for all batch sizes and lengths gives what the eager call gives."""
    free = [
        tf.TensorSpec([None, None, *x.shape[2:]], x.dtype)
        for x in map(tf.convert_to_tensor, inputs)
    ]
    graph = tf.function(lambda *args: layer(*args), input_signature=free)
    assert graph.get_concrete_function().output_shapes.rank == outputs.shape.rank
    difference = tf.cast(graph(*inputs), "float32") - tf.cast(outputs, "float32")
    # bfloat16 keeps 8 bits: graph and eager sums of several products may end two numbers apart.
    size = np.abs(tf.cast(outputs, "float32")).max()
    assert np.abs(difference).max() <= (1e-5 if layer.compute_dtype == "float32" else size / 64)


def _check_training_step(layer, inputs):
    """Every weight gets a finite gradient, and going down it lowers the loss."""

    def loss():
        return tf.reduce_mean(tf.square(tf.cast(layer(*inputs), "float32") - 1.0))

    with tf.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, layer.trainable_weights)
    assert layer.trainable_weights
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        gradient = tf.convert_to_tensor(gradient)
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path
        weight.assign_sub(1e-3 * gradient)
    if layer.compute_dtype == "float32":  # a small step does not show in 8 bits
        assert loss() < before
