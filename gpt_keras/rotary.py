"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864).

The pairs are (x[i], x[i + h/2]), the "half-split" order of Hugging Face checkpoints.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from gpt_keras.config import GPTConfig, RotaryConfig


class Rotation(NamedTuple):
    """Cosine and signed sine of every position's angles, for each head: (B, T, H+2K, h) float32.

    Keys' are divided by sqrt(h), and values' are 1 and 0: one turn of all heads together leaves the
    values as they are, and takes fewer passes than to part the heads and multiply what each needs.
    """

    cos: object
    sin: object

    def __call__(self, heads):
        """Turns queries and keys of (B, T, H+2K, h) by the positions this was made for."""
        cos, sin = ops.cast(self.cos, heads.dtype), ops.cast(self.sin, heads.dtype)
        # The halves swapped; the sign of "rotate half" sits in `sin`. (ops.roll starts threads.)
        first, second = ops.split(heads, 2, axis=-1)
        return heads * cos + ops.concatenate([second, first], axis=-1) * sin


def rotation(config: GPTConfig, positions) -> Rotation:
    """Angles of `positions` (B, T) int for this model's wavelengths."""
    frequencies = inverse_frequencies(config.rotary, config.head_dim)  # (h/2,)
    angles = ops.cast(positions, "float32")[..., None, None] * frequencies  # (B, T, 1, h/2)
    cos, sin = ops.cos(angles), ops.sin(angles)
    scale = head_scale(config)
    turned = scale * (np.arange(len(scale)) < config.num_heads + config.num_kv_heads)[:, None]
    return Rotation(
        ops.concatenate([cos, cos], -1) * turned + (scale - turned),
        ops.concatenate([-sin, sin], -1) * turned,
    )


def head_scale(config: GPTConfig) -> np.ndarray:
    """(H+2K, 1) float32: what each head is multiplied by, 1/sqrt(h) for keys and 1 for others.

    The keys are scaled, not the queries: oneDNN fuses (q * c) k^T + bias into a kernel that takes a
    hundred times as long.
    """
    H, K = config.num_heads, config.num_kv_heads
    scale = np.ones((H + 2 * K, 1), np.float32)
    scale[H : H + K] = config.head_dim**-0.5
    return scale


def inverse_frequencies(rotary: RotaryConfig, head_dim: int) -> np.ndarray:
    """Radians per position of each pair, (h/2,) float32, with the checkpoint's scaling applied."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.power(np.float32(rotary.theta), exponents)).astype(np.float32)
    scaling = dict(rotary.scaling)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / np.float32(scaling["factor"])
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    raise ValueError(f"rope_scaling type {kind!r}: expected one of default, linear, llama3")


def _llama3(frequencies, scaling):
    """Llama 3.1's scaling: long wavelengths stretched, short ones kept, a ramp between.

    Source: `_compute_llama3_parameters` of Hugging Face transformers.
    """
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    ramp = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return ((1 - ramp) * frequencies / factor + ramp * frequencies).astype(np.float32)
