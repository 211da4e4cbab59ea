"""Keys and values of many texts in one memory, in blocks that are handed out as texts need them.

Paged attention (Kwon et al., 2023, https://arxiv.org/abs/2309.06180): a text's tokens lie in blocks
anywhere in the memory, and its page table says where.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from export.memory import Memory
from gpt_keras.attention import MASKED, SMALL, dot_product_attention, product
from gpt_keras.layers import softcapped


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

    def places(self, tokens: "Tokens"):
        """(N, 2K, 2) int32: where the first layer keeps each token's keys and values.

        Row of the memory, and place in it.
        """
        positions = tokens.positions
        index = tf.stack([tokens.rows, positions // self.block_size], axis=1)
        keys = self.heads(tf.gather_nd(tokens.pages, index))  # (N, K)
        rows = tf.concat([keys, keys + self.layer_rows], axis=1)  # (N, 2K)
        offsets = tf.broadcast_to((positions % self.block_size)[:, None], tf.shape(rows))
        return tf.stack([rows, offsets], axis=-1)

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
      rows: (n,) int32, the text that each token belongs to.
      places: (n,) int32, its place among the tokens of that text here.
    """

    pages: tf.Tensor
    starts: tf.Tensor
    counts: tf.Tensor
    rows: tf.Tensor
    places: tf.Tensor

    @classmethod
    def of(cls, pages, starts, counts) -> "Tokens":
        """The next `counts` tokens of each text."""
        real = tf.where(tf.range(_largest(counts)) < counts[:, None])  # (n, 2)
        return cls(pages, starts, counts, *tf.unstack(tf.cast(real, tf.int32), axis=1))

    @property
    def positions(self):
        """(n,) int32, each token's place in its text."""
        return tf.gather(self.starts, self.rows) + self.places


class View(NamedTuple):
    """What the tokens of some texts see of the pool, the same in every layer.

    Attributes:
      blocks: (2, R, K, M') int32, rows of the memory with each text's first layer of keys, values.
      bias: (R, 1, T, S) float32, 0 where a token sees a position, else MASKED; where layers have
        different windows (W, R, 1, T, S), one for each of `GPTConfig.windows`.
      queries: (R, H, T) int32, which of all tokens' heads asks as head H of a text's t-th token;
        anything beyond its last.
      places: (n, H) int32, where in (R, H, T) each token's heads stand.
      small: () bool, whether the keys are, see `attention.product`.
    """

    blocks: tf.Tensor
    bias: tf.Tensor
    queries: tf.Tensor
    places: tf.Tensor
    small: tf.Tensor

    @classmethod
    def of(cls, pool: BlockPool, tokens: Tokens, before=0):
        """The view of tokens of the pool's texts, with `before` others computed before them."""
        config, size = pool.config, pool.block_size
        H = config.num_heads
        ends = tokens.starts + tokens.counts  # (R,)
        used = (_largest(ends) + size - 1) // size
        T = _largest(tokens.counts)
        columns = tf.range(T)  # (T,)
        queries = tokens.starts[:, None] + columns  # (R, T)
        distance = queries[..., None] - tf.range(used * size)  # (R, T, S)
        biases = []
        for window in config.windows:
            hidden = distance < 0
            if window:
                hidden |= distance >= window
            biases.append((tf.cast(hidden, tf.float32) * MASKED)[:, None])
        firsts = tf.cumsum(tokens.counts, exclusive=True)  # (R,)
        n = tf.size(tokens.rows)
        padded = before + tf.minimum(firsts[:, None] + columns, n - 1)  # (R, T)
        head = tf.range(H)
        blocks = pool.heads(tokens.pages[:, :used])  # (R, K, used)
        return cls(
            tf.stack([blocks, blocks + pool.layer_rows]),
            tf.stack(biases) if len(biases) > 1 else biases[0],
            padded[:, None] * (H + 2 * config.num_kv_heads) + head[:, None],
            (tokens.rows[:, None] * H + head) * T + tokens.places[:, None],
            tf.size(blocks) * size * config.head_dim <= SMALL,
        )


@dataclasses.dataclass(frozen=True)  # no tuple: Keras would look into that for tensors
class BlockCache:
    """LayerCache of one layer, for tokens that stand each in a row of its own.

    The texts that go on by a single token come first, then the tokens of the others.

    Attributes:
      pool: where keys and values are kept.
      layer: () int32.
      writes: (N, 2K, 2) int32, see `BlockPool.places`.
      singles: view of the texts with one token each, or None.
      others: view of the texts with several, or None.
    """

    pool: BlockPool
    layer: tf.Tensor
    writes: tf.Tensor
    singles: View | None
    others: View | None

    def attend(self, heads):
        """As LayerCache says, with T = 1: heads (N, 1, H+2K, h)."""
        memory, H = self.pool.memory, self.pool.config.num_heads
        first = 2 * self.layer * self.pool.layer_rows  # of this layer's keys
        where = self.writes + tf.stack([first, 0])  # (N, 2K, 2)
        with tf.control_dependencies([memory.put_at(where, heads[:, 0, H:])]):
            return self._context(heads, first), self

    def _context(self, heads, first):
        """(N, 1, H, h)"""
        if self.others is None:
            return self._of_singles(heads, first)
        if self.singles is None:
            return self._of_others(heads, first)
        R, others = tf.shape(self.singles.bias)[-4], self._of_others(heads, first)
        # A prompt often comes alone, and nothing costs as many ops as something.
        return tf.cond(
            R > 0,
            lambda: tf.concat([self._of_singles(heads[:R], first), others], 0),
            lambda: others,
        )

    def _read(self, view, first):
        """Keys and values (R, K, S, h) that a view looks at."""
        K, h = self.pool.config.num_kv_heads, self.pool.config.head_dim
        S = tf.shape(view.bias)[-1]
        blocks = self.pool.memory.rows(view.blocks + first)  # (2, R, K, M', size, h)
        return tf.unstack(tf.reshape(blocks, (2, -1, K, S, h)))

    def _bias(self, view):
        """(R, 1, T, S), what is hidden from this layer."""
        config = self.pool.config
        if len(config.windows) == 1:
            return view.bias
        which = [config.windows.index(config.window_of(i)) for i in range(config.num_layers)]
        return view.bias[tf.gather(tf.constant(which), self.layer)]

    def _of_singles(self, heads, first):
        keys, values = self._read(self.singles, first)
        K, h = keys.shape[1], keys.shape[3]
        H = self.pool.config.num_heads
        q = tf.reshape(heads[:, 0, :H], (-1, K, H // K, h))  # (R, K, G, h)
        scores = product(q, keys, self.singles.small, adj_y=True)  # (R, K, G, S)
        scores = softcapped(tf.cast(scores, tf.float32), self.pool.config.attention_softcap)
        scores += self._bias(self.singles)
        # Not tf.nn.softmax: oneDNN's takes 60 us for a few numbers.
        weights = tf.exp(scores - tf.reduce_max(scores, -1, keepdims=True))
        weights = tf.cast(weights / tf.reduce_sum(weights, -1, keepdims=True), values.dtype)
        context = product(weights, values, self.singles.small)  # (R, K, G, h)
        return tf.reshape(context, (-1, 1, H, h))  # (R, 1, H, h)

    def _of_others(self, heads, first):
        view = self.others
        keys, values = self._read(view, first)
        h = heads.shape[3]
        # Whole heads are looked up in the order wanted, which moves them once, not twice.
        q = tf.gather(tf.reshape(heads, (-1, h)), view.queries)  # (R, H, T, h)
        softcap = self.pool.config.attention_softcap
        context = dot_product_attention(q, keys, values, self._bias(view), softcap)  # (R, H, T, h)
        return tf.gather(tf.reshape(context, (-1, h)), view.places)[:, None]  # (n, 1, H, h)


def _largest(values):
    """The largest of (R,) int32 values; 1 if there are none."""
    return tf.reduce_max(tf.concat([values, [1]], 0))
