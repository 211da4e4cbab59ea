"""From logits to a token: each method a small frozen dataclass, one setting per row.

The methods work on a row's candidates: the best n logits in falling order with their ids. Orders
and definitions are those of Hugging Face `transformers`' logits processors: temperature, then
top-k, top-p, min-p. A row's draw depends on its seed and step alone, never on its place in a batch.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

MASKED = -1e9


class Candidates(NamedTuple):
    """logits: (B, n) float32, falling. ids: (B, n) int32."""

    logits: tf.Tensor
    ids: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Divides the logits; 0 means greedy and leaves them."""

    value: tf.Tensor  # (B,) float32, >= 0

    def __call__(self, logits):
        return logits / tf.where(self.value > 0.0, self.value, 1.0)[:, None]


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the k best (Fan et al., 2018); 0 keeps all."""

    k: tf.Tensor  # (B,) int32, >= 0

    def __call__(self, logits):
        rank = tf.range(tf.shape(logits)[1])
        keep = (rank < self.k[:, None]) | (self.k[:, None] == 0)
        return tf.where(keep, logits, MASKED)


@dataclasses.dataclass(frozen=True)
class TopP:
    """Keeps the smallest set of best tokens of total probability >= p (Holtzman et al., 2020)."""

    p: tf.Tensor  # (B,) float32 in (0, 1]; 1 keeps all

    def __call__(self, logits):
        probabilities = tf.nn.softmax(logits)
        before = tf.cumsum(probabilities, axis=1, exclusive=True)  # (B, n)
        keep = (before < self.p[:, None]) | (self.p[:, None] >= 1.0)
        return tf.where(keep, logits, MASKED)


@dataclasses.dataclass(frozen=True)
class MinP:
    """Keeps what is at least p times as likely as the best token (Nguyen et al., 2024)."""

    p: tf.Tensor  # (B,) float32 in [0, 1]; 0 keeps all

    def __call__(self, logits):
        share = tf.exp(logits - logits[:, :1])  # (B, n), of the best token's probability
        return tf.where(share >= self.p[:, None], logits, MASKED)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Chooses the next token of every row.

    Attributes:
      temperature: (B,) float32; 0 takes the best token.
      top_k: (B,) int32; 0 is off.
      top_p: (B,) float32; 1 is off.
      min_p: (B,) float32; 0 is off.
      seed: (B,) int64, see `fresh_seeds`.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    seed: tf.Tensor

    def __call__(self, logits, step):
        """Logits (B, V) float32 and the step's number (int32, scalar or (B,)) -> (B,) int32."""
        greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)
        sampled = self.temperature > 0.0

        def draw():
            return tf.where(sampled, self._draw(logits, step), greedy)

        return tf.cond(tf.reduce_any(sampled), draw, lambda: greedy)

    def _draw(self, logits, step):
        candidates = self._candidates(logits)
        logits = candidates.logits
        for method in (
            Temperature(self.temperature),
            TopK(self.top_k),
            TopP(self.top_p),
            MinP(self.min_p),
        ):
            logits = method(logits)
        cumulative = tf.cumsum(tf.nn.softmax(logits), axis=1)  # (B, n)
        # Inverse transform sampling; u < 1 times the sum stays below the last positive step.
        threshold = uniform(self.seed, step)[:, None] * cumulative[:, -1:]
        place = tf.searchsorted(cumulative, threshold, side="right")  # (B, 1)
        place = tf.minimum(place, tf.shape(cumulative)[1] - 1)
        return tf.gather(candidates.ids, place, batch_dims=1)[:, 0]

    def _candidates(self, logits):
        """As many of the best tokens as the most generous row needs: all, unless each has a k."""
        V = tf.shape(logits)[1]
        needed = tf.where(self.temperature > 0.0, self.top_k, 1)
        n = tf.where(tf.reduce_any(needed == 0), V, tf.minimum(tf.reduce_max(needed), V))
        return Candidates(*tf.math.top_k(logits, n))


def uniform(seed, step):
    """One number in [0, 1) a row, a pure function of (seed, step).

    SplitMix64 (Steele, Lea & Flood, 2014): the step-th output of the generator seeded by a mixed
    seed. Written with integer ops, since TensorFlow's stateless generators take one seed a batch.

    Args:
      seed: (B,) int64. step: int, scalar or (B,).

    Returns:
      (B,) float32 with 24 random bits.
    """
    gamma = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    state = _mix(tf.bitcast(seed, tf.uint64)) + gamma * (tf.cast(step, tf.uint64) + 1)
    return tf.cast(tf.bitwise.right_shift(_mix(state), _shift(40)), tf.float32) * 2.0**-24


def _mix(z):
    z = (z ^ tf.bitwise.right_shift(z, _shift(30))) * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    z = (z ^ tf.bitwise.right_shift(z, _shift(27))) * tf.constant(0x94D049BB133111EB, tf.uint64)
    return z ^ tf.bitwise.right_shift(z, _shift(31))


def _shift(bits):
    return tf.constant(bits, tf.uint64)


def fresh_seeds(seed):
    """Replaces negative seeds, (B,) int64, by random ones."""
    random = tf.random.uniform(tf.shape(seed), maxval=tf.int64.max, dtype=tf.int64)
    return tf.where(seed < 0, random, seed)
