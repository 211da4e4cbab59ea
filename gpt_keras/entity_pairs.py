"""Pairs of entities of a text, marked in it; in the graph.

Marks around both (Zhou & Chen, 2022, https://arxiv.org/abs/2102.01373), @ around what the relation
begins at: `@ Ada @ lives in # London #`.
"""

import itertools

import tensorflow as tf

from gpt_keras.tokenizers import ragged

HEAD, TAIL = " @ ", " # "


def of_rows(starts, ends, most: int):
    """Ordered pairs of the entities of each row, without those in which one is over the other.

    Args:
      starts, ends: ragged (B, None) int32.
      most: pairs of a row; the others are left out.

    Returns:
      rows, heads, tails: (R,) int64: the row, and which two of its entities.
    """
    counts = starts.row_lengths()
    squares = tf.ragged.range(counts * counts)
    rows, place = squares.value_rowids(), squares.values
    n = tf.gather(counts, rows)
    heads, tails = place // tf.maximum(n, 1), place % tf.maximum(n, 1)
    first = tf.gather(starts.row_splits, rows)
    begins, limits = (
        (tf.gather(x.values, first + heads), tf.gather(x.values, first + tails))
        for x in (starts, ends)
    )
    is_apart = (limits[0] <= begins[1]) | (limits[1] <= begins[0])
    rows, heads, tails = (tf.boolean_mask(x, is_apart) for x in (rows, heads, tails))
    splits = ragged.row_splits(rows, tf.size(counts, tf.int64))
    place = tf.range(tf.size(rows, tf.int64)) - tf.gather(splits, rows)
    return tuple(tf.boolean_mask(x, place < most) for x in (rows, heads, tails))


def mark(texts, heads, tails, closing: bool):
    """Texts with marks around two entities each.

    Args:
      texts: (R,) string.
      heads, tails: (R, 2) int32, where they begin and end, in bytes; one is before the other.
      closing: whether the marks behind the entities are looked for, or those before.

    Returns:
      texts: (R,) string.
      starts, ends: ragged (R, 2) int32: the mark of each in the new text, in its order.
      is_turned: (R,) bool: whether the tail comes first.
    """
    is_turned = tails[:, 0] < heads[:, 0]
    first = tf.where(is_turned[:, tf.newaxis], tails, heads)
    second = tf.where(is_turned[:, tf.newaxis], heads, tails)
    marks = [tf.where(is_turned, *pair) for pair in ((TAIL, HEAD), (HEAD, TAIL))]
    edges = [first[:, 0], first[:, 1], second[:, 0], second[:, 1]]
    limits = [tf.zeros_like(edges[0]), *edges, tf.strings.length(texts)]
    parts = [tf.strings.substr(texts, a, b - a) for a, b in itertools.pairwise(limits)]
    before, one, between, two, after = parts
    text = tf.strings.join(
        [before, marks[0], one, marks[0], between, marks[1], two, marks[1], after]
    )
    size = len(HEAD)
    places = [edge + i * size + 1 for i, edge in enumerate(edges)]
    starts = tf.stack(places[1::2] if closing else places[::2], axis=1)
    starts = tf.RaggedTensor.from_tensor(starts, row_splits_dtype=tf.int64)
    return text, starts, starts + 1, is_turned
