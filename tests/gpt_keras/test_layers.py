"""Norm, projection, feed-forward, embedding: against NumPy, and through the harness."""

import math

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import layers

RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 2.0, (2, 3, 12)).astype(np.float32)  # (B, T, D)
IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)
POSITIONS = np.array([[0, 1, 2, 3], [0, 1, 0, 1]], np.int32)


def randomise(layer):
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return [w.numpy() for w in layer.weights]


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_norm(tiny, check_layer, norm):
    config = tiny.replace(norm=norm, norm_epsilon=0.1)
    check_layer(lambda policy: layers.Norm(config, dtype=policy), X)
    layer = layers.Norm(config)
    layer(X)
    scale, *bias = randomise(layer)
    x = X - X.mean(-1, keepdims=True) if norm == "layer" else X
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * scale + (bias[0] if bias else 0)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-5)


def test_norm_takes_statistics_in_float32(tiny):
    """Squares of 300 do not fit into float16."""
    layer = layers.Norm(tiny, dtype="float16")
    x = np.full((1, 1, 12), 300.0, np.float16)
    np.testing.assert_allclose(layer(x), np.ones_like(x), rtol=1e-3)


@pytest.mark.parametrize("use_bias", [True, False])
def test_projection(tiny, check_layer, use_bias):
    check_layer(lambda policy: layers.Projection(tiny, 5, use_bias, dtype=policy), X)
    layer = layers.Projection(tiny, 5, use_bias)
    layer(X)
    kernel, *bias = randomise(layer)
    np.testing.assert_allclose(
        layer(X), X @ kernel + (bias[0] if bias else 0), rtol=1e-4, atol=1e-5
    )
    assert layer.compute_output_shape((None, 7, 12)) == (None, 7, 5)


@pytest.mark.parametrize("shape", [(None, 12), (None, None, 12), (2, None, 12), (None, 3, 12)])
def test_matmul_of_unknown_shapes(shape):
    kernel = RNG.normal(size=(12, 4)).astype(np.float32)
    x = X[0] if len(shape) == 2 else X
    graph = tf.function(
        lambda x: layers.matmul(x, tf.constant(kernel), 4),
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    np.testing.assert_allclose(graph(x), x @ kernel, rtol=1e-4, atol=1e-5)


def numpy_activation(name, x):
    erf = np.vectorize(math.erf)
    return {
        "silu": lambda: x / (1 + np.exp(-x)),
        "gelu": lambda: x * (1 + erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "relu": lambda: np.maximum(x, 0),
    }[name]()


@pytest.mark.parametrize("activation", sorted(layers.ACTIVATIONS))
@pytest.mark.parametrize("gated", [True, False])
def test_feed_forward(tiny, activation, gated):
    layer = layers.FeedForward(tiny.replace(activation=activation, gated=gated, mlp_bias=True))
    layer(X)
    up, up_bias, down, down_bias = randomise(layer)
    hidden = X @ up + up_bias
    if gated:
        hidden = numpy_activation(activation, hidden[..., :20]) * hidden[..., 20:]
    else:
        hidden = numpy_activation(activation, hidden)
    np.testing.assert_allclose(layer(X), hidden @ down + down_bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["panels", "slabs"])
@pytest.mark.parametrize("width", [128, 96])  # whole panels to a half of the columns, or not
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_feed_forward_with_split_matrices(tiny, layout, width, bias, activation):
    config = tiny.replace(intermediate_size=width, gated=True, mlp_bias=bias, activation=activation)
    layer = layers.FeedForward(config)
    layer(X)
    randomise(layer)
    expected = layer(X)
    layer.up.lay_out(layout)
    layer.down.lay_out(layout)
    call = tf.function(layer, input_signature=[tf.TensorSpec([None, None, X.shape[2]])])
    np.testing.assert_allclose(call(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 5, 4), (70, 9, 4)])
def test_join_parts(shape):
    y = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_array_equal(layers.join_parts(tf.constant(y)), np.concatenate(y, axis=1))


@pytest.mark.parametrize("gated", [True, False])
def test_feed_forward_as_a_layer(tiny, check_layer, gated):
    config = tiny.replace(gated=gated, mlp_bias=True, activation="gelu")
    check_layer(lambda policy: layers.FeedForward(config, dtype=policy), X)


def test_embedding(tiny, check_layer):
    config = tiny.replace(rotary=None)
    check_layer(
        lambda policy: layers.Embedding(config, with_head=False, dtype=policy), IDS, POSITIONS
    )
    layer = layers.Embedding(config)
    layer.build()
    table, places = (w.numpy() for w in layer.weights)
    np.testing.assert_array_equal(layer(IDS, POSITIONS), table.T[IDS] + places[POSITIONS])
    layer = layers.Embedding(config.replace(position_offset=2, token_types=3))
    layer.build()
    table, places, types = (w.numpy() for w in layer.weights)
    assert len(places) == 2 + tiny.max_position_embeddings
    expected = table.T[IDS] + places[POSITIONS + 2]
    np.testing.assert_allclose(layer(IDS, POSITIONS), expected + types[0], atol=1e-6)
    kinds = IDS % 3
    np.testing.assert_allclose(layer(IDS, POSITIONS, kinds), expected + types[kinds], atol=1e-6)
    layer = layers.Embedding(tiny, name="embedding")
    layer.build()
    assert [w.path for w in layer.weights] == ["embedding/table"]
    np.testing.assert_array_equal(layer(IDS, POSITIONS), layer.table.numpy().T[IDS])


@pytest.mark.parametrize("tied", [True, False])
def test_head(tiny, tied):
    layer = layers.Embedding(tiny.replace(tie_embeddings=tied), dtype="mixed_bfloat16")
    layer.build()
    logits = layer.logits(tf.cast(X, "bfloat16"))
    assert logits.dtype == tf.float32
    matrix = layer.weights[0 if tied else 1].numpy()
    assert len(layer.weights) == (1 if tied else 2)
    np.testing.assert_allclose(logits, X @ matrix, rtol=0.05, atol=0.3)


def test_initialisation_of_the_residual_stream(tiny):
    """GPT-2: what is added to the stream begins smaller by the root of the number of additions."""
    config = tiny.replace(hidden_size=240, intermediate_size=600, num_layers=8, num_heads=6)
    layer = layers.FeedForward(config)
    layer.build((None, None, 240))
    assert np.std(layer.up.kernel) == pytest.approx(0.3, rel=0.05)
    assert np.std(layer.down.kernel) == pytest.approx(0.3 / 4, rel=0.05)


@pytest.mark.parametrize("xla", [True, False])
def test_dropout(xla):
    x = tf.random.stateless_normal((64, 100), (1, 2))
    dropout = layers.Dropout(0.25, seed=3)
    drop = tf.function(lambda x: dropout(x, training=True), jit_compile=xla)
    first, second = (drop(x).numpy() for _ in range(2))
    kept = first != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(first[kept], x.numpy()[kept] / 0.75, rtol=1e-6)
    assert np.mean(kept != (second != 0)) == pytest.approx(2 * 0.25 * 0.75, abs=0.03)
    assert dropout(x) is x
