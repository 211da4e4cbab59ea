import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import losses

N, D, V = 13, 8, 29


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    return (
        tf.constant(rng.normal(size=(N, D)).astype(np.float32)),
        tf.constant(rng.normal(size=(D, V)).astype(np.float32)),
        tf.constant(rng.integers(0, V, N), tf.int32),
        tf.constant(rng.choice([0.0, 0.5, 1.0], N).astype(np.float32)),
    )


def numpy_loss(hidden, head, targets, weights):
    logits = hidden.numpy().astype(np.float64) @ head.numpy()
    log_sum = np.log(np.exp(logits).sum(axis=1))
    return ((log_sum - logits[np.arange(N), targets]) * weights.numpy()).sum()


def test_cross_entropy_is_the_weighted_sum(case):
    hidden, head, targets, weights = case
    loss = losses.cross_entropy(hidden @ head, targets, weights)
    np.testing.assert_allclose(loss, numpy_loss(*case), rtol=1e-6)


@pytest.mark.parametrize("elements", [V, 4 * V, 5 * V + 1, 1000 * V])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_chunks_change_neither_loss_nor_gradient(case, monkeypatch, elements, jit_compile):
    hidden, head, targets, weights = case
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)

    def plain(hidden, head):
        return 0.5 * losses.cross_entropy(hidden @ head, targets, weights)

    def chunked(hidden, head):
        return 0.5 * losses.head_cross_entropy(hidden, head, targets, weights)

    def with_gradients(loss):
        with tf.GradientTape() as tape:
            tape.watch([hidden, head])
            value = loss(hidden, head)
        return value, tape.gradient(value, [hidden, head])

    run = tf.function(lambda: with_gradients(chunked), jit_compile=jit_compile, autograph=False)
    (value, gradients), (expected, expected_gradients) = run(), with_gradients(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=1e-6)


def test_chunks_are_as_many_as_the_logits_need():
    assert losses._chunk_rows(2040, 8192) == 2040  # all logits fit
    assert losses._chunk_rows(2040, 49152) == 340  # six chunks
    assert losses._chunk_rows(1 << 20, 1 << 20) == (1 << 20) // losses.MAX_CHUNKS
    assert losses._chunk_rows(None, 49152) is None


def test_number_of_rows_may_be_unknown(case):
    hidden, head, targets, weights = case

    @tf.function(input_signature=[tf.TensorSpec((None, D)), tf.TensorSpec((None,), tf.int32)])
    def loss(hidden, targets):
        return losses.head_cross_entropy(hidden, head, targets, weights)

    np.testing.assert_allclose(loss(hidden, targets), numpy_loss(*case), rtol=1e-6)


def test_half_precision_loss_is_summed_in_float32(case):
    hidden, head, targets, weights = case
    half = [tf.cast(x, tf.bfloat16) for x in (hidden, head)]
    loss = losses.head_cross_entropy(*half, targets, weights)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, numpy_loss(*case), rtol=0.02)
