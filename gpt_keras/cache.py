"""The plain key/value cache: a prefix that no step touches, and a short tail that grows.

A loop-carried buffer is copied whenever a step writes into it. So the loop of `generation` appends
to a tail of at most a few dozen tokens and joins it to the prefix when it is long: the cost of a
step then depends little on the context.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from gpt_keras.attention import dot_product_attention, part_heads, product, small_product
from gpt_keras.config import GPTConfig
from gpt_keras.layers import softcapped


class Prefix(NamedTuple):
    """keys: (B, K, h, S), as the product with the query wants them; values: (B, K, S, h)."""

    keys: tf.Tensor
    values: tf.Tensor


class Tail(NamedTuple):
    """keys, values: (B, K, C, h)."""

    keys: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)  # no tuple: Keras would look into that for tensors
class PrefillCache:
    """LayerCache of a prompt: adds T tokens to the prefix.

    bias: (B, 1, T, S + T), 0 or MASKED over the prefix and the tokens themselves.
    softcap: see `GPTConfig.attention_softcap`.
    """

    prefix: Prefix
    bias: tf.Tensor
    softcap: float = 0.0

    def attend(self, heads):
        K = self.prefix.values.shape[1]
        q, k, v = part_heads(heads, heads.shape[2] - 2 * K, K)
        prefix = join(self.prefix, Tail(k, v))
        keys = tf.linalg.matrix_transpose(prefix.keys)
        context = dot_product_attention(
            q, keys, prefix.values, self.bias, self.softcap
        )  # (B, H, T, h)
        return tf.transpose(context, (0, 2, 1, 3)), dataclasses.replace(self, prefix=prefix)


@dataclasses.dataclass(frozen=True)
class StepCache:
    """LayerCache of one decoding step, a token a row, which is added to the tail.

    bias: (B, 1, 1, S), 0 or MASKED over the prefix.
    tail_bias: (C + 1,), over the tail with this token at its end; None if all of it is seen.
    small: () bool, whether the prefix is, see `attention.product`.
    softcap: see `GPTConfig.attention_softcap`.
    """

    prefix: Prefix
    tail: Tail
    bias: tf.Tensor
    tail_bias: tf.Tensor | None
    small: tf.Tensor
    softcap: float = 0.0

    def attend(self, heads):
        K, h = self.prefix.values.shape[1], heads.shape[3]
        H = heads.shape[2] - 2 * K
        q = tf.reshape(heads[:, 0, :H], (-1, K, H // K, h))  # (B, K, G, h)
        k = tf.reshape(heads[:, 0, H : H + K], (-1, K, 1, h))
        v = tf.reshape(heads[:, 0, H + K :], (-1, K, 1, h))
        tail = Tail(tf.concat([self.tail.keys, k], 2), tf.concat([self.tail.values, v], 2))
        early = product(q, self.prefix.keys, self.small)  # (B, K, G, S)
        early = softcapped(tf.cast(early, tf.float32), self.softcap) + self.bias
        late = tf.cast(small_product(q, tail.keys, adj_y=True), tf.float32)  # (B, K, G, C+1)
        late = softcapped(late, self.softcap)
        if self.tail_bias is not None:
            late += self.tail_bias
        scores = tf.concat([early, late], -1)
        # Not tf.nn.softmax: oneDNN's takes 60 us for a few numbers.
        weights = tf.exp(scores - tf.reduce_max(scores, -1, keepdims=True))
        weights = tf.cast(weights / tf.reduce_sum(weights, -1, keepdims=True), v.dtype)
        S = tf.shape(self.bias)[-1]
        context = product(weights[..., :S], self.prefix.values, self.small)
        context += small_product(weights[..., S:], tail.values)
        return tf.reshape(context, (-1, 1, H, h)), dataclasses.replace(
            self, tail=tail
        )  # (B, 1, H, h)


def empty_prefix(config: GPTConfig, rows, dtype) -> Prefix:
    """No token yet."""
    K, h = config.num_kv_heads, config.head_dim
    return Prefix(tf.zeros([rows, K, h, 0], dtype), tf.zeros([rows, K, 0, h], dtype))


def empty_tail(prefix: Prefix) -> Tail:
    """No token yet, for the rows and heads of `prefix`."""
    return Tail(prefix.values[:, :, :0], prefix.values[:, :, :0])


def join(prefix: Prefix, tail: Tail) -> Prefix:
    """The prefix with the tail's tokens behind it."""
    return Prefix(
        tf.concat([prefix.keys, tf.linalg.matrix_transpose(tail.keys)], axis=-1),
        tf.concat([prefix.values, tail.values], axis=-2),
    )
