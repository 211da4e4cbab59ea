"""Where a regular expression of a byte-level tokenizer starts its words, on flat arrays.

RE2, the one engine that a stock server has, knows neither look-ahead nor Unicode's white space. All
that these expressions say of a place in the text depends on a few code points around it, so whole
batches are split by comparing arrays with themselves, moved by one or two places.
"""

import tensorflow as tf

from gpt_keras.tokenizers.char_classes import OTHER, SPACE

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py."""

_BLANK = ord(" ")


def gpt2_word_starts(code_points, classes, first):
    """Which code points start a word of `GPT2`.

    Args:
      code_points: (C,) int32, all texts one after the other.
      classes: (C,) uint8, of `char_classes`; DIGIT counts as OTHER here, and must have
        been replaced by it.
      first: (C,) bool, the first one of each text.

    Returns:
      (C,) bool.
    """
    before, after = _previous(classes, OTHER), _next(classes, OTHER)
    # A blank belongs to the word after it, any other white space does not.
    not_joined = _previous(code_points, 0) != _BLANK
    change = (classes != before) & not_joined
    # `\s+(?!\S)` gives the last one of several white spaces away, but at the end of the text.
    given_away = (classes == SPACE) & (before == SPACE) & (after != SPACE) & ~_next(first, True)
    starts = first | change | given_away
    quotes = (code_points == ord("'")) & (first | ((before != OTHER) & not_joined))
    return _cut_contractions(starts, code_points, first, tf.where(quotes)[:, 0])


def _cut_contractions(starts, code_points, first, quotes):
    """`starts` with 's, 't, 're, 've, 'm, 'll and 'd as words, from (A,) quotes that start one."""
    count = tf.size(starts, out_type=tf.int64)
    # Two more code points, each the first of a text, so that there always are two after a quote.
    code_points = tf.concat([code_points, [0, 0]], 0)
    first = tf.concat([first, [True, True]], 0)
    second = tf.gather(code_points, quotes + 1)
    third = tf.where(tf.gather(first, quotes + 2), 0, tf.gather(code_points, quotes + 2))
    short, long = _either(second, "stmd"), tf.zeros_like(second, tf.bool)
    for pair in ("re", "ve", "ll"):
        long |= (second == ord(pair[0])) & (third == ord(pair[1]))
    found = tf.where((short | long) & ~tf.gather(first, quotes + 1))[:, 0]
    quotes = tf.gather(quotes, found)
    ends = quotes + tf.where(tf.gather(short, found), tf.cast(2, tf.int64), 3)
    starts = tf.tensor_scatter_nd_update(
        tf.concat([starts, [True]], 0),
        tf.concat([quotes + 1, ends], 0)[:, tf.newaxis],
        tf.concat([tf.zeros_like(quotes, tf.bool), tf.ones_like(ends, tf.bool)], 0),
    )
    return starts[:count]


def _either(code_points, chars):
    return tf.reduce_any(code_points[:, tf.newaxis] == [ord(char) for char in chars], axis=1)


def _previous(values, fill):
    return tf.concat([tf.cast([fill], values.dtype), values[:-1]], 0)


def _next(values, fill):
    return tf.concat([values[1:], tf.cast([fill], values.dtype)], 0)


WORD_STARTS = {GPT2: gpt2_word_starts}
"""Pattern -> function like `gpt2_word_starts`: the patterns that can be expressed."""
