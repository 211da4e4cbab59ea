"""Rows in pieces: as all at once, and never more than a piece."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import pieces


def looking_at(lengths):
    """What is said of rows of such lengths: their values doubled; how many came with each; T."""
    values = np.arange(3 * len(lengths), dtype=np.float32).reshape(-1, 3)

    def function(rows, longest):
        counts = tf.tile([[tf.size(rows), longest]], [tf.size(rows), 1])
        return 2 * tf.gather(values, rows), counts

    empty = [tf.zeros([0, 3]), tf.zeros([0, 2], tf.int32)]
    run = tf.function(lambda x: pieces.map_rows(function, x, empty))
    for found in (run, run.python_function):
        doubled, counts = found(tf.constant(lengths, tf.int32))
        np.testing.assert_array_equal(doubled, 2 * values)
    return counts.numpy().tolist()


@pytest.mark.parametrize("rows", [0, 1, 70])
def test_few_short_rows_go_at_once(rows):
    lengths = np.random.default_rng(0).integers(0, 20, rows).tolist()
    longest = max([1, *lengths])
    assert looking_at(lengths) == [[rows, longest]] * rows


def test_rows_go_with_those_of_their_length():
    """A long one by itself, shorter ones as many as have room, in whatever order they come."""
    lengths = np.array([9000, 4096] + [512] * 40 + [64] * 300)
    order = np.random.default_rng(1).permutation(len(lengths))
    found = np.empty((len(lengths), 2), int)
    found[order] = looking_at(lengths[order].tolist())
    assert found[:2].tolist() == [[1, 9000], [1, 4096]]
    assert found[2:42].tolist() == [[32, 512]] * 40  # the last eight with the first of the others
    counts = collections.Counter(map(tuple, found[42:].tolist()))
    assert counts == {(32, 512): 24, (256, 64): 256, (20, 64): 20}


def test_batches():
    """Padding that the rows of a piece have in common is cut off."""
    tokens = tf.ragged.range([3, 600, 0, 5])
    batch = {"token_ids": tokens.to_tensor(), "padding_mask": tf.sequence_mask([3, 600, 0, 5])}

    def sums(token_ids, padding_mask):
        mask = tf.cast(padding_mask, tf.int32)
        return [tf.reduce_sum(token_ids * mask, 1), tf.tile(tf.shape(mask)[1:], tf.shape(mask)[:1])]

    empty = [tf.zeros([0], tf.int32), tf.zeros([0], tf.int32)]
    for limit, widths in ((2**14, [600] * 4), (600, [5, 600, 5, 5])):
        pieces.TOKENS, before = limit, pieces.TOKENS
        total, width = pieces.map_batch(sums, batch, empty)
        pieces.TOKENS = before
        assert total.numpy().tolist() == [3, 179700, 0, 10]
        assert width.numpy().tolist() == widths
