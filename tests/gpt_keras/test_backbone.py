"""The trunk: packing, padding, causality, caches, and the harness for layers."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras.attention import MASKED, dot_product_attention, part_heads, visibility
from gpt_keras.backbone import Block, GPTBackbone
from gpt_keras.config import RotaryConfig
from gpt_keras.layers import split_columns
from gpt_keras.rotary import rotations

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (2, 9)).astype(np.int32)

STYLES = {
    "llama": {},
    "gpt2": {
        "norm": "layer", "gated": False, "rotary": None, "activation": "gelu_tanh",
        "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True,
    },
    "bidirectional": {"causal": False},
    "gemma": {
        "norm_offset": 1.0, "norm_place": "both", "qk_norm": "head", "scale_embeddings": True,
        "sliding_window": 3, "window_layers": (True, False), "local_rotary": RotaryConfig(30.0),
        "attention_softcap": 1.5, "logits_softcap": 2.5, "attention_scalar": 5,
    },
    "olmo": {"norm_place": "post", "qk_norm": "width", "rotary_layers": (True, False)},
    "neox": {"parallel_residual": True, "norm": "layer", "gated": False},
    "bert": {
        "causal": False, "norm": "layer", "norm_place": "sum", "gated": False, "rotary": None,
        "embedding_norm": True, "token_types": 2, "position_offset": 3, "mlp_bias": True,
    },
}  # fmt: skip


@pytest.fixture(params=STYLES)
def config(request, tiny):
    return tiny.replace(**STYLES[request.param])


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_as_a_layer(config, check_layer):
    check_layer(lambda policy: GPTBackbone(config, with_head=False, dtype=policy), IDS)


def test_block_as_a_layer(tiny, check_layer):
    class Called(Block):
        """The harness calls a layer with inputs alone."""

        def call(self, x):
            T = tf.shape(x)[1]
            return super().call(x, bias=tf.zeros([1, 1, T, T]))

    x = RNG.normal(size=(2, 5, 12)).astype(np.float32)
    check_layer(lambda policy: Called(tiny, dtype=policy), x)


def test_packed_documents_are_as_if_alone(config):
    backbone = GPTBackbone(config)
    packed = np.concatenate([IDS[0, :4], IDS[1, :5]])[None]
    hidden = backbone(packed, segment_ids=np.array([[7, 7, 7, 7, 3, 3, 3, 3, 3]]))
    close(hidden[:, :4], backbone(IDS[:1, :4]))
    close(hidden[:, 4:], backbone(IDS[1:, :5]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(config, side):
    backbone = GPTBackbone(config)
    start = 3 if side == "left" else 0
    real = slice(start, start + 6)
    mask = np.zeros((2, 9), bool)
    mask[0, real], mask[1] = True, True
    hidden = backbone(IDS, padding_mask=mask)
    close(hidden[:1, real], backbone(IDS[:1, real]))
    close(hidden[1:], backbone(IDS[1:]))
    other = np.where(mask, IDS, 1)
    close(backbone(other, padding_mask=mask)[:1, real], hidden[:1, real])


def test_who_depends_on_a_token(tiny):
    changed = IDS[:1].copy()
    changed[0, 4] = (changed[0, 4] + 1) % 37
    for options, expected in [
        ({}, range(4, 9)),
        ({"causal": False}, range(9)),
        # Two layers, each of which sees the token before.
        ({"sliding_window": 2}, range(4, 7)),
    ]:
        backbone = GPTBackbone(tiny.replace(**options))
        difference = np.abs(backbone(IDS[:1]) - backbone(changed)).max(-1)[0]
        assert np.flatnonzero(difference > 1e-6).tolist() == list(expected), options


def test_transform_in_parts(config):
    backbone = GPTBackbone(config)
    mask = np.arange(9) < np.array([[9], [5]])
    seen = visibility(config, 9, padding_mask=mask)
    x = backbone.embed(IDS, seen.positions)
    x = backbone.transform(x, seen, last=1)
    x = backbone.transform(x, seen, first=1)
    np.testing.assert_array_equal(backbone.final_norm(x), backbone(IDS, padding_mask=mask))


def test_attention_weights_are_those_by_which_values_are_added_up(config):
    """A block's attention is their product with the values, through the last projection."""
    backbone, seen = GPTBackbone(config), visibility(config, 9)
    for layer, weights in zip([1, 0], backbone.attention_weights(IDS, [1, 0]), strict=True):
        np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=1e-5)
        x = backbone.transform(backbone.embed(IDS, seen.positions), seen, last=layer)
        block = backbone.blocks[layer]
        x = block.input_of_attention(x)
        values = block.attention.qkv(x).numpy().reshape(2, 9, 10, 2)[:, :, 8:]  # (B, T, K, h)
        values = np.repeat(values.swapaxes(1, 2), 3, axis=1)  # (B, H, T, h)
        context = (weights.numpy() @ values).swapaxes(1, 2).reshape(2, 9, 12)
        place = {"rotation": rotations(config, seen.positions).get(config.rotary_of(layer)),
                 "bias": seen.biases[config.window_of(layer)]}  # fmt: skip
        close(block.attention.out(context), block.attention(x, **place))
        assert np.any(np.triu(weights[0, 0], 1)) == (not config.causal)


class ConcatenatedCache:
    """The simplest cache: all keys and values so far."""

    def __init__(self, kv_heads, k=None, v=None):
        self.kv_heads, self.k, self.v = kv_heads, k, v

    def attend(self, heads):
        q, k, v = part_heads(heads, heads.shape[2] - 2 * self.kv_heads, self.kv_heads)
        if self.k is not None:
            k, v = tf.concat([self.k, k], 2), tf.concat([self.v, v], 2)
        T, S = q.shape[2], k.shape[2]
        late = np.arange(S)[None, :] > np.arange(S - T, S)[:, None]
        bias = np.where(late, MASKED, 0.0).astype(np.float32)[None, None]
        context = tf.transpose(dot_product_attention(q, k, v, bias), (0, 2, 1, 3))
        return context, ConcatenatedCache(self.kv_heads, k, v)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
@pytest.mark.parametrize("chunks", [(9,), (4, 5), (1,) * 9])
def test_decoding_in_chunks_is_the_whole_sequence(tiny, style, chunks):
    backbone = GPTBackbone(tiny.replace(**STYLES[style]))
    caches, parts, start = [ConcatenatedCache(tiny.num_kv_heads) for _ in range(2)], [], 0
    for length in chunks:
        positions = np.arange(start, start + length)[None]
        hidden, caches = backbone.decode(IDS[:, start : start + length], positions, caches)
        parts.append(hidden)
        start += length
    close(tf.concat(parts, 1), backbone(IDS))


def test_dropout_in_training_alone(tiny):
    backbone = GPTBackbone(tiny.replace(dropout=0.5))
    np.testing.assert_array_equal(backbone(IDS), backbone(IDS))
    assert np.abs(backbone(IDS, training=True) - backbone(IDS)).max() > 0.1
    assert np.abs(backbone(IDS, training=True) - backbone(IDS, training=True)).max() > 0.1


def test_weight_names(tiny):
    backbone = GPTBackbone(tiny.replace(tie_embeddings=False), name="anything")
    assert [w.path for w in backbone.weights][:5] == [
        "embedding/table", "embedding/head", "block_0/attention_norm/scale",
        "block_0/attention/qkv/kernel", "block_0/attention/out/kernel",
    ]  # fmt: skip
    assert len({w.path for w in backbone.weights}) == len(backbone.weights)


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["panels", "slabs"])
def test_split_matrices_give_the_same(config, tied, with_head, layout):
    backbone = GPTBackbone(config.replace(tie_embeddings=tied), with_head)
    randomise = [RNG.normal(size=w.shape, scale=0.3) for w in backbone.weights]
    backbone.set_weights(randomise)
    hidden, single = backbone(IDS), backbone(IDS[:1, :1])  # one row is another product
    logits = backbone.embedding.logits(hidden) if with_head else None
    number = len(backbone.weights)
    backbone.lay_out(layout)
    assert backbone.split
    close(backbone(IDS), hidden)
    close(backbone(IDS[:1, :1]), single)
    if with_head:
        close(backbone.embedding.logits(hidden), logits)
        close(backbone.embedding.logits(hidden[0, :1]), logits[0, :1])
    assert len(backbone.weights) == number  # the old ones are gone
    assert {len(w.shape) for w in backbone.weights if w.name == "kernel"} == {3}
    assert len(backbone.embedding.head.shape) == (3 if with_head else 2)
    assert (backbone.embedding.table is backbone.embedding.head) == (tied or not with_head)


@pytest.mark.parametrize(
    ("layout", "columns", "shape"),
    [
        ("panels", 130, (3, 5, 64)),
        ("slabs", 130, (3, 5, 48)),
        ("slabs", 256, (4, 5, 64)),
        ("slabs", 6144 * 8, (8, 5, 6144)),
        ("slabs", 6144 * 8 + 1, (9, 5, 5472)),
    ],
)
def test_parts_keep_columns_together(layout, columns, shape):
    kernel = RNG.normal(size=(5, columns)).astype(np.float32)
    parts = split_columns(kernel, layout)
    assert parts.shape == shape
    whole = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(whole[:, :columns], kernel)
    assert not whole[:, columns:].any()
