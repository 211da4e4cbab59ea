"""Replaces code points of flat texts, each by none, one or several."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables


class CharMap:
    """Puts for each code point none, one or several."""

    def __init__(self, mapping, more=()):
        """
        Args:
          mapping: dict code point -> sequence of code points; others stay.
          more: further sequences that `replace` is to know.
        """
        texts = {tuple(text): None for text in (*mapping.values(), *more)}
        lengths = [len(text) for text in texts]
        # Row 0 is that of the code points that stay.
        self.row_of = rows = {text: i for i, text in enumerate(texts, 1)}
        self._rows = tables.dense({c: rows[tuple(text)] for c, text in mapping.items()})
        self._lengths = np.array([1, *lengths], np.int64)
        self._starts = np.cumsum([0, 0, *lengths], dtype=np.int64)[:-1]
        self._pool = np.array([*(c for text in texts for c in text), 0], np.int32)

    def __call__(self, code_points, splits):
        rows = self.rows(code_points)
        return tf.cond(
            tf.reduce_any(rows > 0),
            lambda: self.replace(code_points, splits, rows),
            lambda: unchanged(code_points, splits),
        )

    def rows(self, code_points):
        """(C,) int32: of each code point what `row_of` says of its sequence, 0 if it stays."""
        return tf.cast(tables.gather_dense(self._rows, code_points), tf.int32)

    def replace(self, code_points, splits, rows):
        """A step: with other sequences, (C,) int32 of `row_of`, in the place of code points."""
        if (self._lengths == 1).all():  # nothing moves
            new = tf.gather(self._pool, tf.gather(self._starts, rows))
            return unchanged(tf.where(rows > 0, new, code_points), splits)
        lengths = tf.gather(self._lengths, rows)
        ends = tf.concat([[0], tf.cumsum(lengths)], 0)  # (C + 1,)
        owners = ragged.row_ids(ends)
        rows = tf.gather(rows, owners)
        place = tf.range(tf.size(owners, tf.int64)) - tf.gather(ends, owners)
        new = tf.gather(self._pool, tf.gather(self._starts, rows) + tf.where(rows > 0, place, 0))
        new = tf.where(rows > 0, new, tf.gather(code_points, owners))
        return new, tf.gather(ends, splits), owners


def unchanged(code_points, splits):
    """The step of a `normalizer.Normalizer` that does nothing."""
    return code_points, splits, tf.range(tf.size(code_points, tf.int64))
