"""Rows of different lengths as flat values and row splits, without a padded matrix in between.

`tf.repeat` and what TensorFlow builds on it pad every row to the longest one; one long word among a
million would cost gigabytes.
"""

import dataclasses

import tensorflow as tf


def mark(positions, size):
    """(size,) bool: True at `positions`, int64 in [0, size]; one that equals size has no effect."""
    shape = tf.cast(size, tf.int64)[tf.newaxis] + 1
    hits = tf.scatter_nd(positions[:, tf.newaxis], tf.ones_like(positions, tf.int32), shape)
    return hits[:-1] > 0


def row_ids(splits):
    """(splits[-1],) int64: the row of each value, from the (rows + 1,) int64 row splits."""
    shape = splits[-1:] + 1
    steps = tf.scatter_nd(splits[1:, tf.newaxis], tf.ones_like(splits[1:]), shape)
    return tf.cumsum(steps)[:-1]


def row_splits(ids, num_rows):
    """(num_rows + 1,) int64 row splits of values whose sorted row ids are `ids`."""
    return tf.searchsorted(ids, tf.range(num_rows + 1, dtype=ids.dtype), out_type=tf.int64)


def previous(values, fill):
    """Each value's left neighbour, `fill` before the first one."""
    return tf.concat([tf.cast([fill], values.dtype), values[:-1]], 0)


def following(values, fill):
    """Each value's right neighbour, `fill` after the last one."""
    return tf.concat([values[1:], tf.cast([fill], values.dtype)], 0)


@dataclasses.dataclass(frozen=True)
class Rows:
    """n rows, each a range of a pool of values.

    Attributes:
      pool: (v, ...).
      starts, limits: (n,) int64, where each row begins and ends.
    """

    pool: tf.Tensor
    starts: tf.Tensor
    limits: tf.Tensor

    def replace(self, at, index, values, splits) -> "Rows":
        """Other rows at `at`, (m,) int64: rows `index`, (m,) int64, of (values, splits)."""
        splits += tf.shape(self.pool, tf.int64)[0]
        at = at[:, tf.newaxis]
        return Rows(
            tf.concat([self.pool, values], 0),
            tf.tensor_scatter_nd_update(self.starts, at, tf.gather(splits, index)),
            tf.tensor_scatter_nd_update(self.limits, at, tf.gather(splits, index + 1)),
        )

    def to_splits(self):
        """(values (w, ...), splits (n + 1,) int64)."""
        picked = tf.ragged.range(self.starts, self.limits)
        return tf.gather(self.pool, picked.values), picked.row_splits
