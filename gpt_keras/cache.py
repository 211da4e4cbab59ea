"""The plain key/value cache: a prefix that no step touches, and a short tail that grows.

A loop-carried buffer is copied whenever a step writes into it. So the loop of `generation` appends
to a tail of at most a few dozen tokens and joins it to the prefix when it is long: the cost of a
step then depends little on the context.
"""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras.attention import dot_product_attention


class Prefix(NamedTuple):
    """keys: (B, K, h, S), as the product with the query wants them; values: (B, K, S, h)."""

    keys: tf.Tensor
    values: tf.Tensor


class Tail(NamedTuple):
    """keys, values: (B, K, C, h)."""

    keys: tf.Tensor
    values: tf.Tensor


class PrefillCache(NamedTuple):
    """LayerCache of a prompt: attends among the prompt's own tokens and keeps them.

    bias: (B, 1, T, T). stored: the tokens' Prefix once `attend` was called.
    """

    bias: tf.Tensor
    stored: Prefix | None = None

    def attend(self, q, k, v):
        context = dot_product_attention(q, k, v, self.bias)
        return context, self._replace(stored=Prefix(tf.linalg.matrix_transpose(k), v))


class StepCache(NamedTuple):
    """LayerCache of one decoding step, a token a row. All rows see the whole tail.

    bias: (B, 1, 1, S), 0 or MASKED over the prefix.
    """

    prefix: Prefix
    tail: Tail
    bias: tf.Tensor

    def attend(self, q, k, v):
        H, K, h = q.shape[1], k.shape[1], k.shape[3]
        tail = Tail(tf.concat([self.tail.keys, k], 2), tf.concat([self.tail.values, v], 2))
        q = tf.reshape(q, (-1, K, H // K, h))  # (B, K, G, h)
        early = tf.cast(q @ self.prefix.keys, tf.float32) + self.bias  # (B, K, G, S)
        late = tf.cast(_small_product(q, tail.keys, adj_y=True), tf.float32)  # (B, K, G, C)
        scores = tf.concat([early, late], -1)
        weights = tf.exp(scores - tf.reduce_max(scores, -1, keepdims=True))
        weights = tf.cast(weights / tf.reduce_sum(weights, -1, keepdims=True), v.dtype)
        S = tf.shape(self.bias)[-1]
        context = weights[..., :S] @ self.prefix.values
        context += _small_product(weights[..., S:], tail.values)
        return tf.reshape(context, (-1, H, 1, h)), self._replace(tail=tail)  # (B, H, 1, h)


def _small_product(a, b, adj_y=False):
    """a @ b by an op that oneDNN leaves alone: its own takes 35 us to start, this one 8."""
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=a.dtype, adj_y=adj_y)


def empty_tail(prefix: Prefix) -> Tail:
    """No token yet, for the rows and heads of `prefix`."""
    return Tail(prefix.values[:, :, :0], prefix.values[:, :, :0])


def join(prefix: Prefix, tail: Tail) -> Prefix:
    """The prefix with the tail's tokens behind it."""
    return Prefix(
        tf.concat([prefix.keys, tf.linalg.matrix_transpose(tail.keys)], axis=-1),
        tf.concat([prefix.values, tail.values], axis=-2),
    )
