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
    loss, _ = losses.cross_entropy(hidden @ head, targets, weights)
    np.testing.assert_allclose(loss, numpy_loss(*case), rtol=1e-6)


REGULARIZERS = [losses.PLAIN, losses.Regularizers(0.2, 0.0), losses.Regularizers(0.1, 0.03)]


@pytest.mark.parametrize(
    ("regularizers", "softcap"), [*((r, 0.0) for r in REGULARIZERS), (REGULARIZERS[2], 1.5)]
)
@pytest.mark.parametrize("elements", [V, 4 * V, 5 * V + 1, 1000 * V])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_chunks_change_neither_loss_nor_gradient(
    case, monkeypatch, elements, jit_compile, regularizers, softcap
):
    hidden, head, targets, weights = case
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)

    def logits(hidden, head):
        return softcap * tf.tanh(hidden @ head / softcap) if softcap else hidden @ head

    def plain(hidden, head):
        return 0.5 * losses.cross_entropy(logits(hidden, head), targets, weights, regularizers)[0]

    def chunked(hidden, head):
        rest = (targets, weights, regularizers, softcap)
        return 0.5 * losses.head_cross_entropy(hidden, head, *rest)[0]

    def with_gradients(loss):
        with tf.GradientTape() as tape:
            tape.watch([hidden, head])
            value = loss(hidden, head)
        return value, tape.gradient(value, [hidden, head])

    run = tf.function(lambda: with_gradients(chunked), jit_compile=jit_compile, autograph=False)
    (value, gradients), (expected, expected_gradients) = run(), with_gradients(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=2e-6)
    _, terms = losses.head_cross_entropy(*case, regularizers, softcap)
    one_by_one = [
        losses.cross_entropy(logits(x[None], head), target[None], weight[None], regularizers)[0]
        for x, target, weight in zip(hidden, targets, weights, strict=True)
    ]
    np.testing.assert_allclose(terms, one_by_one, rtol=1e-5)
    _, plain_terms = losses.cross_entropy(logits(hidden, head), targets, weights, regularizers)
    np.testing.assert_allclose(plain_terms, one_by_one, rtol=1e-5)


def test_regularizers_are_those_of_the_papers(case):
    hidden, head, targets, weights = case
    logits = hidden.numpy().astype(np.float64) @ head.numpy()
    log_z = np.log(np.exp(logits).sum(axis=1))
    smoothed = 0.9 * np.eye(V)[targets.numpy()] + 0.1 / V
    expected = -(smoothed * (logits - log_z[:, None])).sum(axis=1) + 0.03 * log_z**2
    loss, _ = losses.cross_entropy(hidden @ head, targets, weights, losses.Regularizers(0.1, 0.03))
    np.testing.assert_allclose(loss, (expected * weights.numpy()).sum(), rtol=1e-6)


@pytest.mark.oracle
def test_label_smoothing_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    hidden, head, targets, weights = case
    reference = torch.nn.functional.cross_entropy(
        torch.tensor((hidden @ head).numpy()),
        torch.tensor(targets.numpy().astype(np.int64)),
        label_smoothing=0.2,
        reduction="none",
    )
    loss, _ = losses.head_cross_entropy(*case, losses.Regularizers(label_smoothing=0.2))
    np.testing.assert_allclose(loss, (reference.numpy() * weights.numpy()).sum(), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_that_of_the_paper(case, gamma):
    hidden, head, targets, weights = case
    logits = hidden.numpy().astype(np.float64) @ head.numpy()
    p = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(N), targets]
    expected = -weights.numpy() * (1 - p) ** gamma * np.log(p)
    _, terms = losses.cross_entropy(hidden @ head, targets, weights, focal_gamma=gamma)
    np.testing.assert_allclose(terms, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_focal_loss_is_finite_where_the_target_is_certain():
    logits = tf.Variable([[200.0, 0.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss, _ = losses.cross_entropy(logits, tf.constant([0, 1]), tf.ones(2), focal_gamma=0.5)
    assert np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(gamma, smoothing):
    rng = np.random.default_rng(5)
    logits, truth = rng.normal(size=(6, 4)), (rng.random((6, 4)) < 0.4).astype(float)
    weights, positive = rng.random(6), np.array([1.0, 2.0, 0.5, 3.0])
    p = 1 / (1 + np.exp(-logits))
    soft = truth * (1 - smoothing) + smoothing / 2
    focus = np.where(truth == 1, 1 - p, p) ** gamma
    terms = -focus * (positive * soft * np.log(p) + (1 - soft) * np.log(1 - p))
    expected = weights * terms.mean(axis=1)
    given = (tf.constant(x, tf.float32) for x in (logits, truth, weights))
    total, found = losses.binary_cross_entropy(
        *given, losses.Regularizers(smoothing), gamma, positive.astype(np.float32)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-4)


@pytest.mark.oracle
def test_losses_of_several_labels_are_torchs():
    import torch

    rng = np.random.default_rng(6)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    truth = (rng.random((6, 4)) < 0.4).astype(np.float32)
    positive = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
    reference = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(positive))
    expected = reference(torch.tensor(logits), torch.tensor(truth)).item()
    total, _ = losses.binary_cross_entropy(
        logits, truth, np.ones(6, "f"), losses.PLAIN, 0, positive
    )
    np.testing.assert_allclose(total / 6, expected, rtol=1e-5)


def test_chunks_are_as_many_as_the_logits_need():
    assert losses._num_chunks(1020, 8192) == 1  # all logits fit
    assert losses._num_chunks(2040, 49152) == 12
    assert losses._num_chunks(1 << 20, 1 << 20) == losses.MAX_CHUNKS
    assert losses._num_chunks(None, 49152) == 1


def test_xla_never_has_all_logits(case, monkeypatch):
    """Unrolled, XLA would run the chunks side by side."""
    hidden, head, targets, weights = case
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 4 * V)

    @tf.function(jit_compile=True, autograph=False)
    def loss(hidden, head):
        return losses.head_cross_entropy(hidden, head, targets, weights)[0]

    program = loss.experimental_get_compiler_ir(hidden, head)(stage="optimized_hlo")
    assert f"f32[4,{V}]" in program  # a chunk's, in a loop
    assert " while(" in program
    assert f"f32[{N},{V}]" not in program
    assert f"f32[16,{V}]" not in program


def test_number_of_rows_may_be_unknown(case):
    hidden, head, targets, weights = case

    @tf.function(input_signature=[tf.TensorSpec((None, D)), tf.TensorSpec((None,), tf.int32)])
    def loss(hidden, targets):
        return losses.head_cross_entropy(hidden, head, targets, weights)[0]

    np.testing.assert_allclose(loss(hidden, targets), numpy_loss(*case), rtol=1e-6)


@pytest.mark.parametrize("elements", [4 * V, 1000 * V])
def test_half_precision_is_summed_in_float32(case, monkeypatch, elements):
    hidden, head, targets, weights = case
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)
    with tf.GradientTape() as tape:
        tape.watch(head)
        half = tf.cast(hidden, tf.bfloat16)
        loss, _ = losses.head_cross_entropy(half, head, targets, weights)
    assert loss.dtype == tape.gradient(loss, head).dtype == tf.float32
    np.testing.assert_allclose(loss, numpy_loss(*case), rtol=0.02)
