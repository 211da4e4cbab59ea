"""Attention against NumPy, and which token sees which."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras.attention import (
    MASKED,
    QUERIES,
    Attention,
    by_queries,
    causal_attention,
    dot_product_attention,
    product,
    visibility,
)
from gpt_keras.rotary import rotation

RNG = np.random.default_rng(0)


def seen(config, length, **masks):
    """(B, T, T) bool and (B, T) positions."""
    result = visibility(config, length, **{k: np.array(v) for k, v in masks.items()})
    bias = np.asarray(result.biases[config.sliding_window])
    assert set(np.unique(bias)) <= {0.0, np.float32(MASKED)}
    return bias[:, 0] == 0, np.asarray(result.positions)


def numpy_attention(q, k, v, visible):
    v = np.repeat(v, q.shape[1] // v.shape[1], axis=1)
    return numpy_weights(q, k, visible) @ v


def numpy_weights(q, k, visible):
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * visible[:, None]
    return weights / weights.sum(-1, keepdims=True)


def test_pieces_of_a_long_text_are_looked_at_one_at_a_time():
    T = 2 * QUERIES + 3
    places = tf.range(T, dtype=tf.float32)[None, None, :, None]

    @tf.function(input_signature=[tf.TensorSpec([None, 1, None, 1])])
    def run(q):
        return by_queries(lambda x, start: x * tf.cast(start + 1, x.dtype), q)

    (loop,) = (
        node
        for function in run.get_concrete_function().graph.as_graph_def().library.function
        for node in function.node_def
        if node.op in ("While", "StatelessWhile")
    )
    assert loop.attr["parallel_iterations"].i == 1
    starts = np.minimum(np.arange(T) // QUERIES * QUERIES, T - QUERIES)
    np.testing.assert_array_equal(run(places)[0, 0, :, 0], np.arange(T) * (starts + 1.0))


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_queries(tiny, kv_heads):
    q = RNG.normal(size=(2, 6, 5, 4)).astype(np.float32)
    k, v = RNG.normal(size=(2, 2, kv_heads, 5, 4)).astype(np.float32)
    mask = visibility(tiny, 5)
    ours = dot_product_attention(q, k * 4**-0.5, v, mask.biases[0])
    expected = numpy_attention(q, k, v, np.asarray(mask.biases[0])[:, 0] == 0)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [64, 100, 128, 192, 256, 512])
def test_leaving_out_later_keys_changes_nothing(tiny, length):
    rng = np.random.default_rng(1)
    q, k, v = (tf.constant(rng.normal(size=(2, n, length, 4)), tf.float32) for n in (6, 2, 2))
    segment_ids = tf.constant(rng.integers(1, 3, (2, length)).cumsum(axis=1) // 40)
    bias = visibility(tiny, length, segment_ids=segment_ids).biases[0]
    results = []
    for attend in (causal_attention, dot_product_attention):
        with tf.GradientTape() as tape:
            tape.watch([q, k, v])
            context = attend(q, k, v, bias)
            loss = tf.reduce_sum(context**3)
        results.append([context, *tape.gradient(loss, [q, k, v])])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-4)


@pytest.mark.parametrize("options", [{}, {"sliding_window": 5}, {"causal": False}])
@pytest.mark.parametrize("length", [1, 16, 21])
def test_a_length_known_at_run_time_only(tiny, monkeypatch, options, length):
    monkeypatch.setattr("gpt_keras.attention.QUERIES", 8)
    layer = Attention(tiny.replace(**options))
    layer.build((None, None, 12))
    x = tf.constant(RNG.normal(size=(2, length, 12)), tf.float32)
    bias = visibility(layer.config, length).biases[layer.config.sliding_window]
    for jit_compile in (False, True):
        call = tf.function(
            lambda x, bias: layer(x, bias=bias),
            [tf.TensorSpec([None, None, 12]), tf.TensorSpec([1, 1, None, None])],
            jit_compile=jit_compile,
        )
        np.testing.assert_allclose(call(x, bias), layer(x, bias=bias), rtol=1e-4, atol=1e-6)


def test_scores_of_a_long_text_are_no_square_of_it(tiny, monkeypatch):
    # A softcap of its own, so that the graph is none that an earlier test has made.
    config, most = tiny.replace(causal=False, attention_softcap=7.5), []
    layer = Attention(config)
    layer.build((None, None, 12))

    @tf.function(input_signature=[tf.TensorSpec([1, None, 12])])
    def call(x):
        return layer(x, bias=visibility(config, tf.shape(x)[1]).biases[0])

    softmax = tf.nn.softmax

    def noted(scores):
        tf.py_function(lambda shape: most.append(int(shape[2])), [tf.shape(scores)], [])
        return softmax(scores)

    monkeypatch.setattr(tf.nn, "softmax", noted)
    call(tf.zeros([1, 3 * QUERIES + 1, 12]))
    assert most == [QUERIES] * 4


def test_more_keys_than_queries():
    q = RNG.normal(size=(1, 4, 1, 4)).astype(np.float32)
    k, v = RNG.normal(size=(2, 1, 2, 7, 4)).astype(np.float32)
    bias = np.where(np.arange(7) < 5, 0.0, MASKED).astype(np.float32)[None, None, None]
    ours = dot_product_attention(q, k * 4**-0.5, v, bias)
    expected = numpy_attention(q, k[:, :, :5], v[:, :, :5], np.ones((1, 1, 5), bool))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_query_that_sees_nothing_is_no_nan():
    q = RNG.normal(size=(1, 2, 3, 4)).astype(np.float32)
    context = dot_product_attention(q, q, q, np.full((1, 1, 3, 3), MASKED, np.float32))
    assert np.isfinite(context).all()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("adj_y", [True, False])
def test_product(small, adj_y):
    a, b = RNG.normal(size=(2, 3, 2, 5)), RNG.normal(size=(2, 3, 5, 7))
    other = b.swapaxes(2, 3) if adj_y else b
    call = tf.function(lambda small: product(a, other, small, adj_y))
    np.testing.assert_allclose(call(tf.constant(small)), a @ b)


def test_causal(tiny):
    visible, positions = seen(tiny, 4)
    np.testing.assert_array_equal(visible[0], np.tril(np.ones((4, 4), bool)))
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3]])


def test_segments_are_separate_documents(tiny):
    ids = [[1, 1, 2, 2, 2, 3]]
    visible, positions = seen(tiny, 6, segment_ids=ids)
    np.testing.assert_array_equal(positions, [[0, 1, 0, 1, 2, 0]])
    ids = np.array(ids[0])
    np.testing.assert_array_equal(
        visible[0], np.tril(np.ones((6, 6), bool)) & (ids[:, None] == ids[None])
    )


def test_padding_on_either_side(tiny):
    mask = [[True, True, True, False], [False, False, True, True]]
    visible, positions = seen(tiny, 4, padding_mask=mask)
    assert not visible[0, :, 3].any()
    assert not visible[1, :, :2].any()
    np.testing.assert_array_equal(positions[0, :3], [0, 1, 2])
    np.testing.assert_array_equal(positions[1, 2:], [0, 1])
    assert positions.min() == 0


def test_sliding_window(tiny):
    visible, positions = seen(tiny.replace(sliding_window=2), 4)
    np.testing.assert_array_equal(
        visible[0].astype(int), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3]])


def test_bidirectional(tiny):
    config = tiny.replace(causal=False)
    visible, positions = seen(config, 3)
    assert visible.all()
    np.testing.assert_array_equal(positions, [[0, 1, 2]])
    visible, positions = seen(
        config, 5, segment_ids=[[1, 1, 2, 2, 2]], padding_mask=[[True, True, True, True, False]]
    )
    np.testing.assert_array_equal(visible[0, :4].astype(int), [
        [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0],
    ])  # fmt: skip
    np.testing.assert_array_equal(positions[0, :4], [0, 1, 0, 1])
    visible, _ = seen(config.replace(sliding_window=2), 4)
    assert visible[0].sum(1).tolist() == [2, 3, 3, 2]


def test_layer_against_numpy(tiny):
    config = tiny.replace(qkv_bias=True, attention_output_bias=True, rotary=None)
    layer = Attention(config)
    x = RNG.normal(size=(2, 5, 12)).astype(np.float32)
    bias = visibility(config, 5).biases[0]
    layer(x, bias=bias)
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    kernel, qkv_bias, out, out_bias = (w.numpy() for w in layer.weights)
    heads = (x @ kernel + qkv_bias).reshape(2, 5, 10, 2).swapaxes(1, 2)  # (B, H + 2K, T, h)
    q, k, v = heads[:, :6], heads[:, 6:8], heads[:, 8:]
    visible = np.tril(np.ones((1, 5, 5)))
    weights = layer.weights_of(x, bias=bias)
    np.testing.assert_allclose(weights, numpy_weights(q, k, visible), rtol=1e-3, atol=1e-5)
    context = numpy_attention(q, k, v, visible)
    expected = context.swapaxes(1, 2).reshape(2, 5, 12) @ out + out_bias
    np.testing.assert_allclose(layer(x, bias=bias), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"head_dim": 4, "num_kv_heads": 1, "qkv_bias": True}])
def test_as_a_layer(tiny, check_layer, options):
    config = tiny.replace(**options)

    class Called(Attention):
        """The harness calls a layer with inputs alone."""

        def call(self, x):
            length = tf.shape(x)[1]
            turn = rotation(config, tf.range(length)[None])
            return super().call(x, rotation=turn, bias=visibility(config, length).biases[0])

    x = RNG.normal(size=(2, 5, 12)).astype(np.float32)
    # Keys have no bias that counts: it adds the same to all scores of a query at one position;
    # rotation breaks that, so every weight is checked.
    check_layer(lambda policy: Called(config, dtype=policy), x)
