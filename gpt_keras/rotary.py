"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864).

The pairs are (x[i], x[i + r/2]) of the first r numbers of a head, the "half-split" order of Hugging
Face checkpoints.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras.config import GPTConfig, RotaryConfig


class Rotation(NamedTuple):
    """Cosine and signed sine of every position's angles, for each head: (B, T, H+2K, h) float32.

    Keys' are multiplied by what scores are, and values' are 1 and 0: one turn of all heads together
    leaves the values as they are, and takes fewer passes than to part the heads and multiply what
    each needs. So are those of numbers that are not turned: the sine has the r that may be alone.
    """

    cos: object
    sin: object

    def __call__(self, heads):
        """Turns queries and keys of (B, T, H+2K, h) by the positions this was made for."""
        cos, sin = ops.cast(self.cos, heads.dtype), ops.cast(self.sin, heads.dtype)
        r, h = self.sin.shape[-1], heads.shape[-1]
        # The halves swapped; the sign of "rotate half" sits in `sin`. (ops.roll starts threads.)
        if r == h:
            first, second = ops.split(heads, 2, axis=-1)
            return heads * cos + ops.concatenate([second, first], axis=-1) * sin
        first, second, rest = ops.split(heads, [r // 2, r], axis=-1)
        swapped = ops.concatenate([second, first], axis=-1) * sin
        return heads * cos + ops.concatenate([swapped, ops.zeros_like(rest)], axis=-1)


class PairedRotation(NamedTuple):
    """A `Rotation` of heads whose pairs stand side by side: one complex product, sooner done.

    Attributes:
      factors: (B, T, H+2K, h/2) complex64, cos + i sin of each pair.
    """

    factors: object

    @classmethod
    def of(cls, rotation: Rotation) -> "PairedRotation":
        """The same angles, for heads in the order of `pair_order`."""
        cos, sin = rotation
        r = sin.shape[-1]
        sin = sin[..., r // 2 :]
        if r < cos.shape[-1]:
            rest = cos[..., r::2]
            cos = tf.concat([cos[..., : r // 2], rest], -1)
            return cls(tf.complex(cos, tf.concat([sin, tf.zeros_like(rest)], -1)))
        return cls(tf.complex(cos[..., : r // 2], sin))

    def __call__(self, heads):
        """Turns queries and keys of (B, T, H+2K, h) float32 by the positions this was made for."""
        T, (A, h) = ops.shape(heads)[1], heads.shape[2:]
        pairs = tf.bitcast(tf.reshape(heads, (-1, T, A, h // 2, 2)), tf.complex64)
        turned = tf.bitcast(pairs * self.factors, tf.float32)  # (B, T, H+2K, h/2, 2)
        return tf.reshape(turned, (-1, T, A, h))  # (B, T, H+2K, h)


def pair_order(rotary: RotaryConfig, head_dim: int) -> np.ndarray:
    """(h,) int: numbers of a head in the order that puts those turned together side by side."""
    r = int(head_dim * rotary.fraction)
    pairs = np.arange(r).reshape(2, -1).T  # (r/2, 2)
    return np.concatenate([pairs.ravel(), np.arange(r, head_dim)])


def rotations(config: GPTConfig, positions, lengths=None) -> dict[RotaryConfig, Rotation]:
    """A `rotation` for each kind of layer that has rotary positions."""
    return {rotary: rotation(config, positions, rotary, lengths) for rotary in config.rotaries}


def rotation(
    config: GPTConfig, positions, rotary: RotaryConfig | None = None, lengths=None
) -> Rotation:
    """Angles of positions for a layer's wavelengths.

    Args:
      positions: (B, T) int.
      rotary: the layer's; that of the config if None.
      lengths: (B, T) or (B, 1) int, tokens of the whole text that each position is in, or None if
        it does not matter, see `RotaryConfig.by_length`.
    """
    rotary = rotary or config.rotary
    frequencies = text_frequencies(rotary, config, lengths)  # (r/2,) or (B, T or 1, 1, r/2)
    angles = ops.cast(positions, "float32")[..., None, None] * frequencies  # (B, T, 1, r/2)
    cos, sin = ops.cos(angles), ops.sin(angles)
    scale = head_scale(config)
    turned = scale * (np.arange(len(scale)) < config.num_heads + config.num_kv_heads)[:, None]
    left = scale - turned
    factor = np.float32(attention_factor(rotary, config.max_position_embeddings))
    if factor != 1:
        turned = turned * factor
    cos = ops.concatenate([cos, cos], -1) * turned + left
    rest = config.head_dim - cos.shape[-1]
    if rest:
        same = ops.ones_like(cos[..., :1]) * np.tile(scale, rest)  # (B, T, H+2K, h-r)
        cos = ops.concatenate([cos, same], -1)
    return Rotation(cos, ops.concatenate([-sin, sin], -1) * turned)


def head_scale(config: GPTConfig) -> np.ndarray:
    """(H+2K, 1) float32: what each head is multiplied by, 1/sqrt(h) for keys and 1 for others.

    The keys are scaled, not the queries: oneDNN fuses (q * c) k^T + bias into a kernel that takes a
    hundred times as long.
    """
    H, K = config.num_heads, config.num_kv_heads
    scale = np.ones((H + 2 * K, 1), np.float32)
    scale[H : H + K] = (config.attention_scalar or config.head_dim) ** -0.5
    return scale


def text_frequencies(rotary: RotaryConfig, config: GPTConfig, lengths=None):
    """`inverse_frequencies` for texts of these lengths: (r/2,), or (B, T or 1, 1, r/2) if needed.

    Source: `dynamic_rope_update` of Hugging Face transformers, which takes a batch for one text.
    """
    frequencies = inverse_frequencies(rotary, config.head_dim)
    if not rotary.by_length or lengths is None:
        return frequencies
    scaling = dict(rotary.scaling)
    lengths = ops.cast(lengths, "float32")[..., None, None]  # (B, T or 1, 1, 1)
    if rotary.kind == "longrope":
        is_long = lengths > scaling["original_max_position_embeddings"]
        long = inverse_frequencies(rotary, config.head_dim, "long_factor")
        return tf.where(is_long, long, frequencies)
    # The base that NTK-aware scaling of this length has (u/bloc97 and u/emozilla, 2023).
    longest, factor, r = config.max_position_embeddings, scaling["factor"], 2 * len(frequencies)
    growth = factor * tf.maximum(lengths, longest) / longest - (factor - 1)
    exponents = np.arange(0, r, 2, dtype=np.float32) / np.float32(r)
    return frequencies * growth ** (-exponents * np.float32(r / (r - 2)))


def inverse_frequencies(
    rotary: RotaryConfig, head_dim: int, factors: str = "short_factor"
) -> np.ndarray:
    """Radians per position of each pair, (r/2,) float32, with the checkpoint's scaling applied.

    Args:
      factors: which ones of longrope's scaling.
    """
    r = int(head_dim * rotary.fraction)
    exponents = np.arange(0, r, 2, dtype=np.float32) / np.float32(r)
    frequencies = (1.0 / np.power(np.float32(rotary.theta), exponents)).astype(np.float32)
    scaling = dict(rotary.scaling)
    if rotary.kind == "longrope":
        return frequencies / np.asarray(scaling[factors], np.float32)
    if rotary.kind not in _SCALED:
        known = ", ".join([*_SCALED, "longrope"])
        raise ValueError(f"rope_scaling type {rotary.kind!r}: expected one of {known}")
    return _SCALED[rotary.kind](frequencies, scaling, rotary.theta).astype(np.float32)


def attention_factor(rotary: RotaryConfig, longest: int) -> float:
    """What turned queries and keys are multiplied by, as YaRN and LongRoPE want it.

    Args:
      longest: the config's max_position_embeddings.
    """
    scaling = dict(rotary.scaling)
    if rotary.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    original = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or longest / original
    if rotary.kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0

    def magnitude(m):
        return 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    return magnitude(1)


def _yarn(frequencies, scaling, theta):
    """YaRN (Peng et al., 2023, https://arxiv.org/abs/2309.00071, section 3.2).

    Source: `_compute_yarn_parameters` of Hugging Face transformers.
    """
    r, original = 2 * len(frequencies), scaling["original_max_position_embeddings"]

    def pair_of(turns):
        """Number of the pair, not whole, that turns so often within the original context."""
        return r * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(scaling.get("beta_fast") or 32), pair_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, r - 1)
    high += 0.001 * (low == high)
    ramp = np.clip((np.arange(r // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    return frequencies / np.float32(scaling["factor"]) * ramp + frequencies * (1 - ramp)


def _llama3(frequencies, scaling, theta):
    """Llama 3.1's scaling: long wavelengths stretched, short ones kept, a ramp between.

    Source: `_compute_llama3_parameters` of Hugging Face transformers.
    """
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    ramp = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 - ramp) * frequencies / factor + ramp * frequencies


# Kind of scaling -> function of (frequencies, its entries, theta).
_SCALED: dict[str, Callable] = {
    "default": lambda frequencies, *_: frequencies,
    "linear": lambda frequencies, scaling, _: frequencies / np.float32(scaling["factor"]),
    "dynamic": lambda frequencies, *_: frequencies,  # as long as a text is short
    "yarn": _yarn,
    "llama3": _llama3,
}
