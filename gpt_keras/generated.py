"""What a generation says: tokens, and what the model thought of them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Said(NamedTuple):
    """Tokens with what the model thought of them.

    Log-probabilities are those of the model itself, before penalties, temperature and whatever else
    the options make of them.

    Attributes:
      tokens: (B, N) int32.
      logprobs: (B, N) float32, of these tokens.
      top_logprobs: (B, N, n) float32, of the likeliest tokens, falling.
      top_tokens: (B, N, n) int32, the likeliest tokens.
    """

    tokens: tf.Tensor
    logprobs: tf.Tensor
    top_logprobs: tf.Tensor
    top_tokens: tf.Tensor

    @classmethod
    def nothing(cls, rows, columns, n):
        """Zeros of that size; n is the number of likeliest tokens."""
        return cls(
            tf.zeros([rows, columns], tf.int32),
            tf.zeros([rows, columns]),
            tf.zeros([rows, columns, n]),
            tf.zeros([rows, columns, n], tf.int32),
        )


class Generated(NamedTuple):
    """What was generated; see `Said` for the log-probabilities.

    Attributes:
      tokens: (B, N) int32, the answers, padded with 0 on the right.
      lengths: (B,) int32, tokens of each answer.
      stopped: (B,) bool, True where a stop token or string ended the row, False where a limit did.
      token_logprobs: (B, N) float32, padded with 0 on the right.
      top_logprobs: (B, N, n) float32, n the most that a row asked for; -inf on the right of an
        answer, and where a row asked for fewer.
      top_tokens: (B, N, n) int32; -1 there.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    stopped: tf.Tensor
    token_logprobs: tf.Tensor
    top_logprobs: tf.Tensor
    top_tokens: tf.Tensor

    @classmethod
    def of(cls, said: Said, lengths, stopped, asked):
        """The first `lengths` tokens of what was said; `asked` is the option `logprobs`."""
        longest = largest(lengths)
        tokens, logprobs, top_logprobs, top_tokens = (x[:, :longest] for x in said)
        kept = tf.sequence_mask(lengths, longest)  # (B, N)
        wanted = tf.range(tf.shape(top_tokens)[2]) < asked[:, None, None]  # (B, 1, n)
        wanted &= kept[..., None]
        return cls(
            tf.where(kept, tokens, 0),
            lengths,
            stopped,
            tf.where(kept, logprobs, 0.0),
            tf.where(wanted, top_logprobs, -np.inf),
            tf.where(wanted, top_tokens, -1),
        )

    @property
    def logprob(self):
        """(B,) float32, sum of each answer's `token_logprobs`."""
        return tf.reduce_sum(self.token_logprobs, axis=1)


def logprob_of(logits, token):
    """(B, V), (B,) -> (B,) log-probability of each row's token."""
    return tf.gather(logits, token, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)


def likeliest(logits, n):
    """The n best tokens of each row.

    Args:
      logits: (B, V) float32. n: () int32.

    Returns:
      logprobs (B, n) float32, falling, and tokens (B, n) int32; -inf and -1 beyond V.
    """
    V = tf.shape(logits)[1]
    best, tokens = tf.math.top_k(logits, tf.minimum(n, V))
    missing = [[0, 0], [0, tf.maximum(n - V, 0)]]
    logprobs = best - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
    return (
        tf.pad(logprobs, missing, constant_values=-np.inf),
        tf.pad(tokens, missing, constant_values=-1),
    )


def largest(values):
    """The largest of (B,) int32 values, at least 0."""
    return tf.reduce_max(tf.concat([values, [0]], 0))
