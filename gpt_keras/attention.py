"""Attention (multi-head, grouped-query), its masks, and what a cache has to offer.

A cache is an argument and a result, never hidden state: `attend` returns the cache that the next
call is to be given.
"""

from typing import NamedTuple, Protocol

import tensorflow as tf
from keras import ops

from gpt_keras.config import GPTConfig
from gpt_keras.layers import ConfigLayer, Norm, Projection, residual_stddev, softcapped
from gpt_keras.rotary import head_scale

# Added to a score that must not count; finite, in float16 too, so that an all-masked row is no NaN.
MASKED = -3e4
QUERIES = 512  # tokens that look back at once where a text may have any length
SMALL = 2**16  # numbers in keys or values up to which an op that is quick to start is faster


class LayerCache(Protocol):
    """Keys and values of one layer's earlier tokens."""

    def attend(self, heads) -> tuple[object, "LayerCache"]:
        """Adds this call's tokens and attends to all that are visible.

        Args:
          heads: (B, T, H+2K, h), queries, keys and values; keys multiplied by the scores' scale.

        Returns:
          Context (B, T, H, h), and the cache that holds the new tokens too.
        """


class Visibility(NamedTuple):
    """Which token sees which, and where each stands.

    Attributes:
      biases: for each of `GPTConfig.windows` (1 or B, 1, T, T) float32, 0 where the query (row)
        sees the key (column), else MASKED.
      positions: (1 or B, T) int32, place of each token within its own document.
      lengths: (1 or B, T) int32, tokens of that document, or None where it does not matter.
    """

    biases: dict[int, object]
    positions: object
    lengths: object = None


def visibility(config: GPTConfig, length, segment_ids=None, padding_mask=None) -> Visibility:
    """Mask and positions of T tokens.

    Args:
      length: T, int or scalar tensor.
      segment_ids: (B, T) int or None. Packed documents: tokens see their own segment only, and
        positions start anew in each.
      padding_mask: (B, T) bool or None; False marks padding, on either side.
    """
    index = ops.arange(length, dtype="int32")
    document = ops.ones((1, length, length), dtype="bool")
    if segment_ids is not None:
        document = document & (segment_ids[:, :, None] == segment_ids[:, None, :])  # (B, T, T)
    if padding_mask is not None:
        document = document & ops.cast(padding_mask, "bool")[:, None, :]  # (B, T, T)
    earlier = document & (index[:, None] >= index[None, :])
    # The number of earlier tokens of the same document is the place in it, wherever it starts.
    if segment_ids is not None:
        seen = ops.sum(ops.cast(earlier, "int32"), axis=-1)  # (B, T)
        positions = ops.maximum(seen - 1, 0)
    elif padding_mask is not None:  # the same without a number for each pair of tokens
        seen = ops.cumsum(ops.cast(padding_mask, "int32"), axis=-1)  # (B, T)
        positions = ops.maximum(seen - 1, 0)
    else:
        positions = index[None]
    together, biases = earlier if config.causal else document, {}
    for window in config.windows:
        seen = together
        if window:
            seen = seen & (ops.abs(index[:, None] - index[None, :]) < window)[None]
        bias = ops.where(seen, 0.0, MASKED)
        biases[window] = ops.cast(bias, "float32")[:, None]  # (B, 1, T, T)
    lengths = ops.sum(ops.cast(document, "int32"), axis=-1) if config.by_length else None
    return Visibility(biases, positions, lengths)


def dot_product_attention(q, k, v, bias, softcap=0.0):
    """softmax(q k^T + bias) v, with H query heads on K key/value heads.

    Args:
      q: (B, H, T, h). k, v: (B, K, S, h), k multiplied by the scores' scale already. bias:
        broadcastable to (B, H, T, S). softcap: see `GPTConfig.attention_softcap`.

    Returns:
      (B, H, T, h). The softmax is taken in float32.
    """
    _, H, T, h = ops.shape(q)
    _, K, S, _ = ops.shape(k)
    weights = ops.cast(attention_weights(q, k, bias, softcap), v.dtype)  # (B, H, T, S)
    context = ops.matmul(ops.reshape(weights, (-1, K, H // K * T, S)), v)  # (B, K, G*T, h)
    return ops.reshape(context, (-1, H, T, h))  # (B, H, T, h)


def attention_weights(q, k, bias, softcap=0.0):
    """softmax(q k^T + bias), (B, H, T, S) float32; arguments as of `dot_product_attention`."""
    _, H, T, h = ops.shape(q)
    _, K, S, _ = ops.shape(k)
    # The query heads of a group become extra rows of one product: nothing is repeated in memory.
    grouped = ops.reshape(q, (-1, K, H // K * T, h))  # (B, K, G*T, h)
    scores = ops.matmul(grouped, ops.swapaxes(k, -1, -2))  # (B, K, G*T, S)
    # A layer of half precision gets its arguments cast, the bias too.
    scores = softcapped(ops.cast(ops.reshape(scores, (-1, H, T, S)), "float32"), softcap)
    scores = scores + ops.cast(bias, "float32")
    return tf.nn.softmax(scores)  # not ops.softmax, which warns of a single token's single score


def causal_attention(q, k, v, bias, softcap=0.0):
    """`dot_product_attention` of a whole sequence under a bias that hides all later tokens.

    Queries are taken in up to four blocks, each with the keys up to its end alone, so three
    quarters of the scores that would count for nothing are not computed.
    """
    T = q.shape[2]
    size = max(64, -(-T // 4)) if T else 0  # smaller products are slower for their number
    if not T or size >= T or T % size:
        return dot_product_attention(q, k, v, bias, softcap)
    # Split and joined, not sliced: the gradient of a slice is as large as what it was cut from.
    parts = [ops.split(x, T // size, axis=2) for x in (q, k, v)]
    contexts = []
    for i, rows in enumerate(parts[0]):
        keys, values = (ops.concatenate(x[: i + 1], axis=2) for x in parts[1:])
        end = (i + 1) * size
        seen = bias[:, :, end - size : end, :end]
        contexts.append(dot_product_attention(rows, keys, values, seen, softcap))
    return ops.concatenate(contexts, axis=2)  # (B, H, T, h)


def by_queries(attend, q, *others):
    """Attention of any number of queries, some at a time: scores are no square of a text's length.

    The number may be known at run time only.

    Args:
      attend: from some queries (B, H, t, h), the place of the first, () int32, and `others`, to
        what they take (B, H, t, h). The same function in all layers.
      q: (B, H, T, h).
      *others: tensors, and numbers that are the same in all layers.

    Returns:
      (B, H, T, h).
    """
    return _by_queries(QUERIES, attend, q, *others)


@tf.function(autograph=False)  # so that a graph holds it once, and not once a layer
def _by_queries(most, attend, q, *others):
    B, _, T, _ = tf.unstack(tf.shape(q))
    _, H, _, h = q.shape

    def in_pieces():
        size = tf.minimum(T, most)  # of each: the last two overlap where it is no divisor
        starts = tf.minimum(tf.range(0, T, size), T - size)  # (n,)

        def some(start):
            piece = tf.slice(q, [0, 0, start, 0], tf.stack([B, H, size, h]))
            return attend(piece, start, *others)

        spec = tf.TensorSpec([None, H, None, h], q.dtype)
        # One at a time: the scores of several at once would be as many times as large.
        found = tf.map_fn(some, starts, parallel_iterations=1, fn_output_signature=spec)
        # (n, B, H, size, h)
        before = (tf.size(starts) - 1) * size
        first = tf.transpose(found[:-1], (1, 2, 0, 3, 4))  # (B, H, n-1, size, h)
        first = tf.reshape(first, (B, H, before, h))
        return tf.concat([first, found[-1, :, :, size - T + before :]], 2)

    context = tf.cond(most >= T, lambda: attend(q, 0, *others), in_pieces)
    return tf.ensure_shape(context, q.shape)


def _under_bias(q, first, k, v, bias, softcap):
    """`dot_product_attention` of queries from the place `first` on."""
    rows = tf.slice(bias, [0, 0, first, 0], [-1, -1, tf.shape(q)[2], -1])
    return dot_product_attention(q, k, v, rows, softcap)


def product(a, b, small, adj_y=False):
    """a @ b for a token's queries or weights and keys or values (B, K, S, h).

    Args:
      a, b: (B, K, G, n) and (B, K, n, m), or (B, K, m, n) with `adj_y`.
      small: () bool, whether `b` has at most SMALL numbers: one for all layers of a step.
      adj_y: takes `b` transposed.
    """
    return tf.cond(
        small,
        lambda: small_product(a, b, adj_y),
        lambda: tf.matmul(a, b, transpose_b=adj_y),
    )


def small_product(a, b, adj_y=False):
    """a @ b by an op that oneDNN leaves alone: its own takes 25 us to start, this one 4."""
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=a.dtype, adj_y=adj_y)


class Attention(ConfigLayer):
    """Self-attention: (B, T, D) -> (B, T, D), and the cache if one was given.

    One matrix makes queries, keys and values: the columns of the H query heads first, then those
    of the K key heads, then those of the K value heads.
    """

    def build(self, input_shape):
        config = self.config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = Projection(
            config, heads * config.head_dim, config.qkv_bias, dtype=self.dtype_policy, name="qkv"
        )
        self.out = Projection(
            config, config.hidden_size, config.attention_output_bias, residual_stddev(config),
            dtype=self.dtype_policy, name="out",
        )  # fmt: skip
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], config.num_heads * config.head_dim))
        if config.qk_norm:
            self.q_norm = Norm(config, "rms", dtype=self.dtype_policy, name="q_norm")
            self.k_norm = Norm(config, "rms", dtype=self.dtype_policy, name="k_norm")
            whole = config.qk_norm == "width"
            self.q_norm.build((config.head_dim * (config.num_heads if whole else 1),))
            self.k_norm.build((config.head_dim * (config.num_kv_heads if whole else 1),))

    def call(self, x, rotation=None, bias=None, cache: LayerCache | None = None, training=False):
        """Attends among the tokens of `x` under `bias`, or through `cache`, which then decides.

        Args:
          x: (B, T, D).
          rotation: `rotary.Rotation` of the tokens' positions, or None without rotary positions.
          bias: (1 or B, 1, T, T), see `Visibility`; unused with a cache.
          cache: holds the earlier tokens, or None.
          training: there will be a gradient, which keeps all scores anyway.

        Returns:
          (B, T, D); with a cache the pair of that and the next cache.
        """
        H, K, h = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        T = ops.shape(x)[1]  # a number in decoding: one unknown size needs no op to find it
        heads = self._heads(x, T, rotation)
        if cache is None:
            q, k, v = part_heads(heads, H, K)
            softcap = self.config.attention_softcap
            if q.shape[2] is None and not training:
                context = by_queries(_under_bias, q, k, v, bias, softcap)  # (B, H, T, h)
            else:
                attend = causal_attention if self.config.causal else dot_product_attention
                context = attend(q, k, v, bias, softcap)  # (B, H, T, h)
            context = ops.swapaxes(context, 1, 2)  # (B, T, H, h)
        else:
            context, cache = cache.attend(heads)
        y = self.out(ops.reshape(context, (-1, T, H * h)))
        return y if cache is None else (y, cache)

    def weights_of(self, x, rotation=None, bias=None):
        """What each token takes from each: (B, H, T, T) float32; arguments as of `call`."""
        heads = self._heads(x, ops.shape(x)[1], rotation)
        q, k, _ = part_heads(heads, self.config.num_heads, self.config.num_kv_heads)
        return attention_weights(q, k, bias, self.config.attention_softcap)

    def _heads(self, x, T, rotation):
        """Queries, keys and values (B, T, H+2K, h), the keys multiplied by the scores' scale."""
        H, K, h = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        y = self.qkv(x)
        if self.config.qk_norm == "width":
            q, k, v = ops.split(y, [H * h, (H + K) * h], axis=-1)
            y = ops.concatenate([self.q_norm(q), self.k_norm(k), v], axis=-1)
        heads = ops.reshape(y, (-1, T, H + 2 * K, h))  # (B, T, H+2K, h)
        if self.config.qk_norm == "head":
            q, k, v = ops.split(heads, [H, H + K], axis=2)
            heads = ops.concatenate([self.q_norm(q), self.k_norm(k), v], axis=2)
        if rotation is not None:
            return rotation(heads)
        return heads * ops.cast(head_scale(self.config), heads.dtype)


def part_heads(heads, H, K):
    """(B, T, H+2K, h) -> queries (B, H, T, h), keys and values (B, K, T, h) each."""
    heads = ops.swapaxes(heads, 1, 2)  # (B, H+2K, T, h)
    return heads[:, :H], heads[:, H : H + K], heads[:, H + K :]
