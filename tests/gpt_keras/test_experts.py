"""Mixture of experts: grouped as each token by itself, and how even the routing is."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import CausalLM
from gpt_keras.experts import Groups, MixtureOfExperts, load_balancing

RNG = np.random.default_rng(0)


@pytest.fixture
def moe(tiny):
    return tiny.replace(num_experts=5, experts_per_token=2, normalize_experts=True)


def one_by_one(layer, x):
    """(..., D) -> (..., D): every token through all experts, most of them with weight 0."""
    config = layer.config
    probabilities = tf.nn.softmax(x @ tf.convert_to_tensor(layer.router.kernel))
    weights, chosen = tf.math.top_k(probabilities, config.experts_per_token)
    if config.normalize_experts:
        weights /= tf.reduce_sum(weights, -1, keepdims=True)
    one_hot = tf.one_hot(chosen, config.num_experts)  # (..., k, E)
    weights = tf.reduce_sum(one_hot * weights[..., None], -2)  # (..., E)
    up = tf.einsum("...d,edf->...ef", x, tf.convert_to_tensor(layer.up))
    if config.gated:
        gate, up = tf.split(up, 2, -1)
        up = tf.nn.silu(gate) * up
    else:
        up = tf.nn.silu(up)
    y = tf.einsum("...ef,efd->...ed", up, tf.convert_to_tensor(layer.down))
    return tf.reduce_sum(y * weights[..., None], -2)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 1), {}),
        ((2, 9), {}),
        ((3, 40), {"experts_per_token": 5, "normalize_experts": False}),
        ((2, 9), {"experts_per_token": 1, "gated": False}),
        ((2, 3), {"num_experts": 64, "experts_per_token": 3}),
    ],
)
def test_grouped_as_one_by_one(moe, shape, changes, jit_compile):
    layer = MixtureOfExperts(moe.replace(**changes))
    x = tf.constant(RNG.normal(size=(*shape, 12)).astype(np.float32))
    layer.build(x.shape)
    variables = [v.value for v in layer.trainable_variables]

    def gradients(f):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
            loss = tf.reduce_sum(y * tf.cos(tf.range(12, dtype=tf.float32)))
        return y, [tf.convert_to_tensor(g) for g in tape.gradient(loss, [x, *variables])]

    run = tf.function(lambda: gradients(layer), jit_compile=jit_compile, autograph=False)
    (y, found), (expected, expected_found) = run(), gradients(lambda x: one_by_one(layer, x))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(found, expected_found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 1), {}),
        ((8, 1), {}),
        ((3, 40), {"experts_per_token": 5, "normalize_experts": False}),
        ((2, 9), {"experts_per_token": 1, "gated": False}),
        ((2, 3), {"num_experts": 64, "experts_per_token": 3}),
    ],
)
def test_in_a_loop_as_one_by_one(moe, shape, changes, dtype):
    layer = MixtureOfExperts(moe.replace(**changes), dtype=dtype)
    x = tf.constant(RNG.normal(size=(*shape, 12)).astype(np.float32))
    layer.build(x.shape)
    spec = tf.TensorSpec([None, None, 12])
    run = tf.function(lambda x: layer(x, in_loop=True), [spec], autograph=False)
    if dtype == "float32":
        np.testing.assert_allclose(run(x), one_by_one(layer, x), atol=1e-5)
    else:  # the same numbers by the same products
        ours, grouped = (tf.cast(y, tf.float32) for y in (run(x), layer(x)))
        np.testing.assert_allclose(ours, grouped, atol=0.02 * np.abs(grouped).max())


def test_a_loop_stacks_no_matrices(moe):
    """Each product is of one expert's matrix: copies side by side are what `BatchMatMul` takes."""
    layer = MixtureOfExperts(moe)
    layer.build((None, None, 12))

    def products(**options):
        run = tf.function(lambda x: layer(x, **options), [tf.TensorSpec([None, None, 12])])
        graph = run.get_concrete_function().graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        return sorted(node.op for node in nodes if "MatMul" in node.op)

    assert products(in_loop=True) == ["MatMul"] * 3  # router, up, down
    assert products() == ["BatchMatMulV2"] * 2 + ["MatMul"]


def test_as_a_layer(moe, check_layer):
    x = RNG.normal(size=(2, 5, 12)).astype(np.float32)
    config = moe.replace(experts_per_token=5)  # or bfloat16 would choose others now and then
    check_layer(lambda policy: MixtureOfExperts(config, dtype=policy), x)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("chosen", [
    [[0, 1]], [[4, 2], [4, 1], [4, 3]], [[3]] * 50, [[i % 5, (i + 1) % 5] for i in range(33)],
])  # fmt: skip
def test_no_token_is_dropped(chosen, known):
    chosen = np.array(chosen, np.int32)
    spec = tf.TensorSpec(chosen.shape if known else [None, chosen.shape[1]], tf.int32)
    groups = tf.function(lambda c: Groups.of(c, 5), input_signature=[spec])(chosen)
    P = len(groups.experts)
    size = len(groups.choices) // P
    slots = groups.slots.numpy()
    assert len(np.unique(slots)) == slots.size  # each has a place of its own
    np.testing.assert_array_equal(groups.experts.numpy()[slots // size], chosen)
    filled = np.zeros(P * size, np.int32)
    filled[slots.ravel()] = 1 + np.arange(slots.size)
    np.testing.assert_array_equal(groups.choices, filled)


def test_blocks_are_few():
    """The work is that of the experts that are chosen, and some blanks."""
    for n, k, E in [(1, 2, 64), (7, 8, 128), (512, 2, 8), (2048, 8, 128)]:
        chosen = RNG.permuted(np.tile(np.arange(E, dtype=np.int32), (n, 1)), axis=1)[:, :k]
        groups = Groups.of(tf.constant(chosen), E)
        assert len(groups.choices) <= 1.5 * n * k + 1
        assert len(groups.experts) <= min(n * k, 3 * E)


def test_load_balancing():
    even = np.full((2, 3, 4), 0.25, np.float32)
    assert float(load_balancing([even, even], None, 2)) == pytest.approx(2.0)
    routing = [RNG.dirichlet(np.ones(4), (2, 3)).astype(np.float32) for _ in range(2)]
    mask = np.array([[True, True, False], [False, True, True]])
    real = np.concatenate([layer[mask] for layer in routing])  # (2 x 4, 4)
    best = np.argsort(-real, axis=1)[:, :2]
    share = np.bincount(best.ravel(), minlength=4) / len(real)
    expected = 4 * (share * real.mean(0)).sum()
    assert float(load_balancing(routing, mask, 2)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("remat", [False, True])
def test_the_router_loss_of_a_batch(moe, remat):
    task = CausalLM(moe.replace(router_loss=0.3))
    ids = RNG.integers(3, 37, (2, 9)).astype(np.int32)
    batch = {"token_ids": ids, "segment_ids": np.array([[1] * 9, [1] * 5 + [0] * 4]),
             "loss_mask": np.ones((2, 9), np.float32)}  # fmt: skip
    routing = []
    with tf.GradientTape() as tape:
        features = task.features(batch, training=True, remat=remat, routing=routing)
        plain = task.batch_loss(batch, features)
        loss = task.with_router_loss(plain, batch, routing)
        added = loss.total - plain.total
    assert [p.shape for p in routing] == [(2, 9, 5)] * 2
    uneven = load_balancing(routing, batch["segment_ids"] > 0, 2)
    assert float(added) == pytest.approx(0.3 * float(uneven) * 16, rel=1e-4)
    assert loss.weight == plain.weight
    routers = [block.feed_forward.router.kernel.value for block in task.backbone.blocks]
    assert all(np.any(gradient) for gradient in tape.gradient(added, routers))
