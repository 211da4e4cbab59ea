"""Byte-pair merges (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909) on flat arrays."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import tables

_RANK_SHIFT = 2**32  # room for the position below the rank in one int64


class Merges(tf.Module):
    """Merges symbols of many words at once, exactly as one word after the other would be.

    The reference merges, in each word, the pair of lowest rank, the leftmost one if there are
    several, again and again. One such merge at a time would take as many rounds as the longest word
    has merges. But what is new after a merge of rank r has a rank that can be known beforehand: at
    least the lowest of all pairs that the merged symbol is in. So a round takes the lowest of these
    bounds over the pairs that a word now has, and all pairs below it, of which none can be touched
    by anything new: where two of them overlap, the lower rank wins, and the other one waits. A word
    of 20,000 random letters needs 30 rounds instead of 1,200.
    """

    def __init__(self, pairs, merged, vocab_size, name=None):
        """
        Args:
          pairs: (R, 2) ids in the order of their ranks, best first.
          merged: (R,) ids of what they merge to.
          vocab_size: V, above all ids.
        """
        super().__init__(name=name)
        pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
        merged = np.asarray(merged, np.int32).reshape(-1)
        self._vocab_size, self._num_merges = vocab_size, len(pairs)
        keys = pairs[:, 0] * vocab_size + pairs[:, 1]
        ranks = np.arange(len(pairs), dtype=np.int32)
        self._ranks = tables.lookup_table(keys, ranks, len(pairs), tf.int64)
        lowest = np.full(vocab_size, len(pairs) + 1, np.int64)  # rank of a pair a symbol is in
        np.minimum.at(lowest, pairs.reshape(-1), np.repeat(ranks, 2))
        # One more for "no merge", which bounds nothing.
        self._merged = tf.constant(np.append(merged, 0), tf.int32)
        self._next_rank = tf.constant(np.append(lowest[merged], len(pairs) + 1), tf.int64)

    def __call__(self, symbols, words):
        """Merges until nothing can be merged, inside a graph.

        Args:
          symbols: (S,) int32 ids.
          words: (S,) int64, the word of each, ascending.

        Returns:
          the same two for what is left.
        """
        vector = tf.TensorShape([None])
        symbols, words, _ = tf.while_loop(
            lambda symbols, words, ranks: tf.reduce_any(ranks < self._num_merges),
            self._round,
            (symbols, words, self._find_ranks(symbols, words)),
            shape_invariants=(vector, vector, vector),
            parallel_iterations=1,
        )
        return symbols, words

    def _find_ranks(self, symbols, words):
        """(S,) int32: rank of each symbol with the one after it, or R."""
        symbols = tf.cast(symbols, tf.int64)
        ranks = self._ranks.lookup(symbols[:-1] * self._vocab_size + symbols[1:])
        ranks = tf.where(words[:-1] == words[1:], ranks, self._num_merges)
        return tf.concat([ranks, tf.fill(tf.shape(symbols[-1:]), self._num_merges)], 0)

    def _round(self, symbols, words, ranks):
        chosen = self._choose(words, ranks)  # (S,) bool
        symbols = tf.where(chosen, tf.gather(self._merged, ranks), symbols)
        kept = tf.squeeze(tf.where(~tf.concat([[False], chosen[:-1]], 0)), 1)
        symbols, words = tf.gather(symbols, kept), tf.gather(words, kept)
        return symbols, words, self._find_ranks(symbols, words)

    def _choose(self, words, ranks):
        """(S,) bool: which symbols merge with the one after them in this round."""
        # Pairs merge in the order of rank, then of position.
        size = tf.size(ranks, out_type=tf.int64)
        rank = tf.cast(ranks, tf.int64)
        order = rank * _RANK_SHIFT + tf.range(size)
        next_rank = tf.gather(self._next_rank, ranks)
        bounds = tf.where(next_rank > rank, next_rank * _RANK_SHIFT, order + 1)
        bounds = tf.gather(tf.math.segment_min(bounds, words), words)
        left = tf.concat([[self._num_merges + 1], ranks[:-1]], 0)
        right = tf.concat([ranks[1:], [self._num_merges]], 0)
        is_pair = ranks < self._num_merges

        def of_run():
            """Of overlapping pairs that are equal, as in "aaaa", every other one merges."""
            starts = ranks != left
            index = tf.cumsum(tf.cast(starts, tf.int64)) - 1
            start = tf.gather(tf.squeeze(tf.where(starts), 1), index)
            return (tf.gather(left, start) > ranks) & ((tf.range(size) - start) % 2 == 0)

        is_repeated = tf.reduce_any((ranks == left) & is_pair)
        is_lowest = tf.cond(is_repeated, of_run, lambda: left > ranks) & (right >= ranks)
        return is_pair & (order < bounds) & is_lowest
