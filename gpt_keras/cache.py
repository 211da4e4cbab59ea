"""The plain key/value cache: a prefix that no step touches, and a short tail that grows.

A loop-carried buffer is copied whenever a step writes into it. So the loop of `generation` writes
into a tail of a few dozen tokens and only joins it to the prefix when it is full: the cost of a
step then depends little on the context. Keys lie transposed, (B, K, h, S), as the product with
the query wants them.
"""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras.attention import dot_product_attention


class KeysValues(NamedTuple):
    """keys: (B, K, h, S), values: (B, K, S, h)."""

    keys: tf.Tensor
    values: tf.Tensor


class PrefillCache(NamedTuple):
    """LayerCache of a prompt: attends among the prompt's own tokens and keeps them.

    bias: (B, 1, T, T). stored: the tokens' KeysValues once `attend` was called.
    """

    bias: tf.Tensor
    stored: KeysValues | None = None

    def attend(self, q, k, v):
        context = dot_product_attention(q, k, v, self.bias)
        return context, self._replace(stored=KeysValues(tf.linalg.matrix_transpose(k), v))


class StepCache(NamedTuple):
    """LayerCache of one decoding step: a token a row, all rows at the same place of the tail.

    prefix, tail: KeysValues of S and of C tokens.
    here: (C,) bool, the tail's column to write.
    bias: (B, 1, S + C), 0 or MASKED over prefix and tail, this step's token included.
    """

    prefix: KeysValues
    tail: KeysValues
    here: tf.Tensor
    bias: tf.Tensor

    def attend(self, q, k, v):
        H, K, h = q.shape[1], k.shape[1], k.shape[3]
        tail = KeysValues(
            tf.where(self.here, tf.reshape(k, (-1, K, h, 1)), self.tail.keys),  # (B, K, h, C)
            tf.where(self.here[:, None], v, self.tail.values),  # (B, K, C, h)
        )
        q = tf.reshape(q, (-1, K, H // K, h))  # (B, K, G, h)
        scores = tf.concat([q @ self.prefix.keys, q @ tail.keys], axis=-1)  # (B, K, G, S+C)
        scores = tf.cast(scores, tf.float32) + self.bias[:, None]
        weights = tf.cast(tf.nn.softmax(scores), v.dtype)
        C = self.here.shape[0]
        context = weights[..., :-C] @ self.prefix.values + weights[..., -C:] @ tail.values
        return tf.reshape(context, (-1, H, 1, h)), self._replace(tail=tail)  # (B, H, 1, h)


def empty_tail(like: KeysValues, length: int) -> KeysValues:
    """Zeros for `length` tokens of the rows and heads of `like`."""
    B, K, h = tf.shape(like.keys)[0], like.keys.shape[1], like.keys.shape[2]
    dtype = like.keys.dtype
    return KeysValues(tf.zeros((B, K, h, length), dtype), tf.zeros((B, K, length, h), dtype))


def join(prefix: KeysValues, tail: KeysValues) -> KeysValues:
    """The prefix with the tail's tokens behind it."""
    return KeysValues(
        tf.concat([prefix.keys, tail.keys], axis=-1),
        tf.concat([prefix.values, tail.values], axis=-2),
    )
