"""Rotary positions: their algebra, and their scalings."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import RotaryConfig
from gpt_keras.rotary import PairedRotation, inverse_frequencies, pair_order, rotation

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip


def rotate(config, x, position):
    """One query (h,) at a position."""
    heads = np.tile(x, (1, 1, config.num_heads + 2 * config.num_kv_heads, 1))
    return rotation(config, np.array([[position]]))(heads).numpy()[0, 0, 0]


def test_keys_are_scaled_and_values_left_alone(tiny):
    config = tiny.replace(num_heads=4, num_kv_heads=2, head_dim=6)
    x = np.random.default_rng(0).normal(size=6).astype(np.float32)
    heads = rotation(config, np.array([[7]]))(np.tile(x, (1, 1, 8, 1))).numpy()[0, 0]
    np.testing.assert_array_equal(heads[:4], np.tile(heads[0], (4, 1)))
    np.testing.assert_allclose(heads[4:6], np.tile(heads[0] * 6**-0.5, (2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(heads[6:], np.tile(x, (2, 1)))


def test_half_split_pairs_turn_by_their_own_angle(tiny):
    config = tiny.replace(head_dim=6, rotary=RotaryConfig(100.0))
    x = np.arange(1.0, 7.0, dtype=np.float32)
    angles = 5 * 100.0 ** -(np.arange(3) / 3)
    turned = (x[:3] + 1j * x[3:]) * np.exp(1j * angles)  # (x[i], x[i + 3]) is one pair
    expected = np.concatenate([turned.real, turned.imag])
    np.testing.assert_allclose(rotate(config, x, 5), expected, rtol=1e-5)
    np.testing.assert_array_equal(rotate(config, x, 0), x)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_pairs_side_by_side_turn_alike(tiny, fraction):
    rotary = RotaryConfig(100.0, fraction=fraction)
    config = tiny.replace(num_heads=4, num_kv_heads=2, head_dim=8, rotary=rotary)
    heads = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    turn = rotation(config, np.array([[0, 1, 5], [9, 2, 7]]))
    order = pair_order(rotary, 8)
    assert order.tolist() == (
        [0, 4, 1, 5, 2, 6, 3, 7] if fraction == 1 else [0, 2, 1, 3, 4, 5, 6, 7]
    )
    got = PairedRotation.of(turn)(tf.constant(heads[..., order]))
    np.testing.assert_allclose(got, turn(heads).numpy()[..., order], rtol=1e-6, atol=1e-6)


def test_scores_depend_on_distance_alone(tiny):
    config = tiny.replace(head_dim=8)
    q, k = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    scores = [rotate(config, q, m + 3) @ rotate(config, k, m) for m in (0, 1, 50)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
    assert abs(rotate(config, q, 9) @ rotate(config, k, 0) - scores[0]) > 1e-3


def test_linear_scaling_divides_positions(tiny):
    plain = tiny.replace(head_dim=8)
    scaled = plain.replace(rotary=RotaryConfig(scaling=(("factor", 4.0), ("type", "linear"))))
    x = np.random.default_rng(0).normal(size=8).astype(np.float32)
    np.testing.assert_allclose(rotate(scaled, x, 12), rotate(plain, x, 3), rtol=1e-5)


def test_llama3_scaling_stretches_long_waves_and_keeps_short_ones():
    plain = inverse_frequencies(RotaryConfig(500.0), 16)
    scaled = inverse_frequencies(RotaryConfig(500.0, tuple(LLAMA3.items())), 16)
    waves = 2 * np.pi / plain
    short, long = waves < 64 / 4, waves > 64 / 1
    np.testing.assert_allclose(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert min(short.sum(), long.sum(), between.sum()) > 0
    assert np.all((scaled[between] < plain[between]) & (scaled[between] > plain[between] / 8))


def test_a_part_of_each_head_is_turned(tiny):
    config = tiny.replace(num_heads=4, num_kv_heads=2, head_dim=6)
    part = config.replace(rotary=RotaryConfig(fraction=0.67))
    x = np.random.default_rng(0).normal(size=(1, 1, 8, 6)).astype(np.float32)
    turned = rotation(part, np.array([[7]]))(x).numpy()[0, 0]
    alone = rotation(config.replace(head_dim=4), np.array([[7]]))(x[..., :4]).numpy()[0, 0]
    np.testing.assert_allclose(turned[:4, :4], alone[:4], rtol=1e-6)
    np.testing.assert_allclose(turned[4:6, :4], alone[4:6] * (4 / 6) ** 0.5, rtol=1e-6)
    np.testing.assert_array_equal(turned[:4, 4:], x[0, 0, :4, 4:])
    np.testing.assert_allclose(turned[4:6, 4:], x[0, 0, 4:6, 4:] * 6**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(turned[6:], x[0, 0, 6:])


def test_yarn_stretches_long_waves_keeps_short_ones_and_sharpens(tiny):
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
    rotary = RotaryConfig(500.0, tuple(yarn.items()))
    plain, scaled = (inverse_frequencies(r, 64) for r in (RotaryConfig(500.0), rotary))
    turns = 64 * plain / (2 * np.pi)  # within the original context
    np.testing.assert_allclose(scaled[turns < 0.9], plain[turns < 0.9] / 8, rtol=1e-6)
    assert np.all((scaled[turns > 1.1] > plain[turns > 1.1] / 8) & (scaled <= plain)[turns > 1.1])
    config = tiny.replace(head_dim=64, rotary=rotary)
    x = np.ones(64, np.float32)
    np.testing.assert_allclose(rotate(config, x, 0), x * (0.1 * np.log(8) + 1), rtol=1e-6)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_the_length_of_a_text_decides(tiny, kind):
    entries = {"rope_type": kind, "factor": 1.0, "short_factor": (1.0, 2.0),
               "long_factor": (3.0, 5.0), "original_max_position_embeddings": 8}  # fmt: skip
    config = tiny.replace(head_dim=4, rotary=RotaryConfig(scaling=tuple(entries.items())),
                          max_position_embeddings=8)  # fmt: skip
    positions = np.array([[2], [2], [2]])
    lengths = np.array([[3], [8], [9]])
    cos = rotation(config, positions, lengths=lengths).cos.numpy()[:, 0, 0, :2]
    plain = 10000.0 ** (-np.arange(2) / 2)
    np.testing.assert_array_equal(cos[0], cos[1])
    if kind == "dynamic":
        np.testing.assert_allclose(cos[0], np.cos(2 * plain), rtol=1e-6)
        longer = (10000 * (9 / 8) ** 2.0) ** (-np.arange(2) / 2)
        np.testing.assert_allclose(cos[2], np.cos(2 * longer), rtol=1e-6)
    else:
        np.testing.assert_allclose(cos[0], np.cos(2 * plain / [1, 2]), rtol=1e-6)
        np.testing.assert_allclose(cos[2], np.cos(2 * plain / [3, 5]), rtol=1e-6)


def test_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="'su': expected one of default, linear, dynamic, yarn"):
        inverse_frequencies(RotaryConfig(scaling=(("rope_type", "su"),)), 8)
