"""From logits to a token: each method a small frozen dataclass, one setting per row.

Orders and definitions are those of Hugging Face `transformers`' logits processors: penalties, then
temperature, top-k, top-p, min-p. The latter work on a row's candidates: the best n logits in
falling order with their ids. A row's draw depends on its seed and step alone, never on its place in
a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

MASKED = -1e9


class Candidates(NamedTuple):
    """logits: (B, n) float32, falling. ids: (B, n) int32."""

    logits: tf.Tensor
    ids: tf.Tensor


class History(NamedTuple):
    """The texts so far.

    Attributes:
      token_ids: (B, S) int32.
      in_prompt, in_answer: (B, S) bool, which of them belong to the prompt, and to what was
        generated; those that belong to neither are padding.
    """

    token_ids: tf.Tensor
    in_prompt: tf.Tensor
    in_answer: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Makes what was said before less likely, for greedy rows too.

    Attributes:
      repetition: (B,) float32, > 0. A positive logit of a token of the prompt or the answer is
        divided by it, a negative one multiplied (Keskar et al., 2019); 1 is off.
      presence: (B,) float32, taken off the logit of every token of the answer; 0 is off.
      frequency: (B,) float32, taken off as often as the token is in the answer (both as OpenAI's
        API and vLLM define them); 0 is off.
    """

    repetition: tf.Tensor
    presence: tf.Tensor
    frequency: tf.Tensor

    def __call__(self, logits, history: Callable[[], History]):
        """(B, V) float32 -> (B, V). `history` is called for rows with penalties only."""
        used = (self.repetition != 1.0) | (self.presence != 0.0) | (self.frequency != 0.0)
        return tf.cond(
            tf.reduce_any(used), lambda: self._penalised(logits, history()), lambda: logits
        )

    def _penalised(self, logits, history):
        said = _counts(history.token_ids, history.in_answer, logits)
        seen = said + _counts(history.token_ids, history.in_prompt, logits)
        factor = self.repetition[:, None]
        repeated = tf.where(logits > 0.0, logits / factor, logits * factor)
        logits = tf.where(seen > 0.0, repeated, logits)
        presence = self.presence[:, None] * tf.cast(said > 0.0, tf.float32)
        return logits - self.frequency[:, None] * said - presence


def _counts(token_ids, kept, logits):
    """How often each token stands among the kept ones of (B, S): as (B, V) logits, float32."""
    rows = tf.broadcast_to(tf.range(tf.shape(token_ids)[0])[:, None], tf.shape(token_ids))
    places = tf.stack([rows, tf.where(kept, token_ids, 0)], axis=-1)  # (B, S, 2)
    return tf.scatter_nd(places, tf.cast(kept, tf.float32), tf.shape(logits))


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
