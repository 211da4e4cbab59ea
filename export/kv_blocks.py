"""Keys and values of many texts in one memory, in blocks that are handed out as texts need them.

Paged attention (Kwon et al., 2023, https://arxiv.org/abs/2309.06180): a text's tokens lie in blocks
anywhere in the memory, and its page table says where.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from export.memory import Memory
from gpt_keras.attention import MASKED, SMALL, dot_product_attention, product


class BlockPool:
    """Blocks of keys and of values for every layer and head.

    Block 0 belongs to nobody and stays zero: a page table has it where there is no block.

    Args:
      memory: of the shape that `shape` says, zeros.
      config: of the model.
      num_blocks: blocks that can be handed out; they have the numbers 1 to this.
    """

    def __init__(self, memory: Memory, config, num_blocks):
        self.memory, self.config = memory, config
        self.block_size = memory.shape[1]  # tokens
        self.layer_rows = (num_blocks + 1) * config.num_kv_heads  # of keys, or of values

    @staticmethod
    def shape(config, num_blocks, block_size):
        """Of the memory: blocks' heads of keys, then of values, layer after layer."""
        rows = 2 * config.num_layers * (num_blocks + 1) * config.num_kv_heads
        return (rows, block_size, config.head_dim)

    def heads(self, blocks):
        """Blocks (R, ...) int32 -> (R, K, ...), rows of the memory for the first layer's keys."""
        K = self.config.num_kv_heads
        heads = tf.reshape(tf.range(K), [K] + [1] * (len(blocks.shape) - 1))
        return tf.expand_dims(blocks, 1) * K + heads

    def clear(self, blocks):
        """Zeroes blocks (n,): a mask hides an earlier tenant's numbers, but not a NaN."""
        parts = tf.range(2 * self.config.num_layers) * self.layer_rows
        rows = tf.reshape(parts[:, None, None] + self.heads(blocks), [-1])  # (2L*n*K,)
        zeros = tf.zeros([tf.size(rows), *self.memory.shape[1:]], self.memory.dtype)
        return self.memory.put_rows(rows, zeros)


class Tokens(NamedTuple):
    """Tokens of some texts, `counts` of each, that are computed together.

    Attributes:
      pages: (R, M) int32, blocks of each text.
      starts: (R,) int32, position of the first token of each.
      counts: (R,) int32, at least 1.
    """

    pages: tf.Tensor
    starts: tf.Tensor
    counts: tf.Tensor

    @property
    def rows(self):
        """(n,) int32, the text that each token belongs to."""
        return tf.repeat(tf.range(tf.size(self.counts)), self.counts)

    @property
    def positions(self):
        """(n,) int32, each token's place in its text."""
        return tf.ragged.range(self.starts, self.starts + self.counts).flat_values


class View(NamedTuple):
    """What the tokens of some texts see of the pool, the same in every layer.

    Attributes:
      heads: (R, K, M') int32, rows of the memory with each text's first layer of keys.
      bias: (R, 1, T, S) float32, 0 where a token sees a position, else MASKED.
      padded: (R, T) int32, index of each text's t-th token, anything beyond its last.
      places: (n, 2) int32, where in (R, T) each token stands.
      small: () bool, whether the keys are, see `attention.product`.
    """

    heads: tf.Tensor
    bias: tf.Tensor
    padded: tf.Tensor
    places: tf.Tensor
    small: tf.Tensor

    @classmethod
    def of(cls, pool: BlockPool, tokens: Tokens):
        """The view of tokens of the pool's texts."""
        size, window = pool.block_size, pool.config.sliding_window
        ends = tokens.starts + tokens.counts  # (R,)
        used = (_largest(ends) + size - 1) // size
        columns = tf.range(_largest(tokens.counts))  # (T,)
        queries = tokens.starts[:, None] + columns  # (R, T)
        distance = queries[..., None] - tf.range(used * size)  # (R, T, S)
        hidden = distance < 0
        if window:
            hidden |= distance >= window
        firsts = tf.cumsum(tokens.counts, exclusive=True)  # (R,)
        n = tf.reduce_sum(tokens.counts)
        rows = tokens.rows
        heads = pool.heads(tokens.pages[:, :used])  # (R, K, used)
        return cls(
            heads,
            (tf.cast(hidden, tf.float32) * MASKED)[:, None],
            tf.minimum(firsts[:, None] + columns, n - 1),
            tf.stack([rows, tf.range(n) - tf.gather(firsts, rows)], axis=1),
            tf.size(heads) * size * pool.config.head_dim <= SMALL,
        )


@dataclasses.dataclass(frozen=True)  # no tuple: Keras would look into that for tensors
class BlockCache:
    """LayerCache of one layer, for tokens that stand each in a row of its own.

    The texts that go on by a single token come first, then the tokens of the others.

    Attributes:
      pool: where keys and values are kept.
      layer: () int32.
      writes: (N, K, 2) int32, row of the first layer's keys and place in the block of each token.
      singles: view of the texts with one token each, or None.
      others: view of the texts with several, or None.
    """

    pool: BlockPool
    layer: tf.Tensor
    writes: tf.Tensor
    singles: View | None
    others: View | None

    def attend(self, q, k, v):
        """As LayerCache says, with T = 1: q (N, H, 1, h), k and v (N, K, 1, h)."""
        rows = self.pool.layer_rows
        first = 2 * self.layer * rows  # of this layer's keys
        offsets = tf.stack([tf.stack([first, 0]), tf.stack([first + rows, 0])])  # (2, 2)
        where = self.writes + offsets[:, None, None]  # (2, N, K, 2)
        new = tf.stack([k[:, :, 0], v[:, :, 0]])  # (2, N, K, h)
        memory = self.pool.memory
        with tf.control_dependencies([memory.put_at(where, new)]):
            return self._context(q, first), self

    def _context(self, q, first):
        if self.others is None:
            return self._of_singles(q, first)
        if self.singles is None:
            return self._of_others(q, first)
        R = tf.shape(self.singles.heads)[0]
        return tf.concat([self._of_singles(q[:R], first), self._of_others(q[R:], first)], 0)

    def _read(self, view, first):
        """Keys and values (R, K, S, h) that a view looks at."""
        K, h = self.pool.config.num_kv_heads, self.pool.config.head_dim
        S = tf.shape(view.bias)[-1]
        for part in (first, first + self.pool.layer_rows):
            blocks = self.pool.memory.rows(view.heads + part)  # (R, K, M', size, h)
            yield tf.reshape(blocks, (-1, K, S, h))

    def _of_singles(self, q, first):
        keys, values = self._read(self.singles, first)
        H, K, h = q.shape[1], keys.shape[1], keys.shape[3]
        q = tf.reshape(q, (-1, K, H // K, h))  # (R, K, G, h)
        scores = product(q, keys, self.singles.small, adj_y=True)  # (R, K, G, S)
        scores = tf.cast(scores, tf.float32) + self.singles.bias
        # Not tf.nn.softmax: oneDNN's takes 60 us for a few numbers.
        weights = tf.exp(scores - tf.reduce_max(scores, -1, keepdims=True))
        weights = tf.cast(weights / tf.reduce_sum(weights, -1, keepdims=True), values.dtype)
        context = product(weights, values, self.singles.small)  # (R, K, G, h)
        return tf.reshape(context, (-1, H, 1, h))  # (R, H, 1, h)

    def _of_others(self, q, first):
        view = self.others
        keys, values = self._read(view, first)
        q = tf.gather(q[:, :, 0], view.padded)  # (R, T, H, h)
        q = tf.transpose(q, (0, 2, 1, 3))  # (R, H, T, h)
        context = dot_product_attention(q, keys, values, view.bias)
        context = tf.transpose(context, (0, 2, 1, 3))  # (R, T, H, h)
        return tf.gather_nd(context, view.places)[:, :, None]  # (n, H, 1, h)


def _largest(values):
    """The largest of (R,) int32 values; 1 if there are none."""
    return tf.reduce_max(tf.concat([values, [1]], 0))
