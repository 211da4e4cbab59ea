"""One block in a loop computes what all blocks in a row do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import GPTConfig, RotaryConfig
from gpt_keras.attention import dot_product_attention, part_heads
from gpt_keras.backbone import GPTBackbone
from gpt_keras.stacked import StackedBackbone

IDS = np.random.default_rng(0).integers(0, 37, (2, 5)).astype("int32")
POSITIONS = np.tile(np.arange(5, dtype="int32"), (2, 1))
STYLES = {
    "llama": {},
    "gpt2": {"norm": "layer", "gated": False, "rotary": None, "qkv_bias": True, "mlp_bias": True},
    "some layers": {"rotary_layers": (True, False), "sliding_window": 3, "qk_norm": "head",
                    "window_layers": (True, True, False), "local_rotary": RotaryConfig(20.0),
                    "norm_place": "both"},
    "part of a head": {"rotary": RotaryConfig(fraction=0.5), "qkv_bias": True, "qk_norm": "width"},
    "odd heads": {"head_dim": 5, "rotary": RotaryConfig(fraction=0.8)},
    "experts": {"num_experts": 5, "experts_per_token": 2},
}  # fmt: skip


class Alone:
    """LayerCache of nothing: each token sees itself, and those of the layer's parity."""

    def __init__(self, layer=0):
        self.layer = layer

    def attend(self, heads):
        q, k, v = part_heads(heads, 4, 2)
        place = tf.range(tf.shape(q)[2])
        seen = (place[:, None] - place + tf.cast(self.layer, tf.int32)) % 2 == 0
        bias = tf.where(seen | (place[:, None] == place), 0.0, -1e9)[None, None]
        return tf.transpose(dot_product_attention(q, k, v, bias), (0, 2, 1, 3)), self


@pytest.mark.parametrize("layout", ["plain", "panels", "slabs"])
@pytest.mark.parametrize("style", STYLES)
def test_as_the_backbone(style, layout):
    config = GPTConfig(
        vocab_size=37, hidden_size=16, num_layers=3, num_heads=4, num_kv_heads=2,
        intermediate_size=20, max_position_embeddings=16, initializer_range=0.3, **STYLES[style],
    )  # fmt: skip
    keras.utils.set_random_seed(1)
    backbone = GPTBackbone(config)
    for vector in (v for v in backbone.weights if len(v.shape) == 1):  # or all are alike
        vector.assign(keras.random.normal(vector.shape, 1.0, 0.3))
    expected, _ = backbone.decode(IDS, POSITIONS, [Alone(layer) for layer in range(3)])
    backbone.lay_out(layout)
    stacked = StackedBackbone(backbone)
    assert {weight.shape[0] for weight in stacked.weights} == {3}
    got = tf.function(lambda ids: stacked.decode(ids, POSITIONS, Alone))(IDS)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
