"""Where the regular expressions of byte-level tokenizers start their words, on flat arrays.

RE2, the one engine that a stock server has, knows neither look-ahead nor Unicode's white space. All
that these expressions say of a place in the text depends on a few code points around it, so whole
batches are split by comparing arrays with themselves, moved by one or two places.
"""

import functools

import tensorflow as tf

from gpt_keras.tokenizers.char_classes import LETTER, NUMBER, OTHER, SPACE
from gpt_keras.tokenizers.ragged import following, previous
from gpt_keras.tokenizers.word_matching import O200K, TEKKEN, word_starts

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The `tokenizer.json` of Llama 3, DBRX and Phi-4."""

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""The same in the words of https://github.com/openai/tiktoken."""

QWEN2 = LLAMA3.replace("{1,3}", "")
"""The `tokenizer.json` of Qwen2, Qwen2.5 and Qwen3: every number by itself."""

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
    before, after = previous(classes, OTHER), following(classes, OTHER)
    # A blank belongs to the word after it, any other white space does not.
    not_joined = previous(code_points, 0) != _BLANK
    change = (classes != before) & not_joined
    # `\s+(?!\S)` gives the last one of several white spaces away, but at the end of the text.
    given_away = (classes == SPACE) & (before == SPACE) & (after != SPACE) & ~following(first, True)
    starts = first | change | given_away
    quotes = (code_points == ord("'")) & (first | ((before != OTHER) & not_joined))
    return _cut_contractions(starts, code_points, first, tf.squeeze(tf.where(quotes), 1))


def llama3_word_starts(code_points, classes, first):
    """As `gpt2_word_starts`, of `LLAMA3`."""
    starts = qwen2_word_starts(code_points, classes, first)
    # Every number starts a word there; of a run of them only every third one does here.
    numbers = classes == NUMBER
    is_first = numbers & (first | (previous(classes, OTHER) != NUMBER))
    at = tf.squeeze(tf.where(numbers), 1)
    runs = tf.squeeze(tf.where(is_first), 1)
    place = at - tf.gather(runs, tf.searchsorted(runs, at, side="right") - 1)
    dropped = tf.boolean_mask(at, place % 3 != 0)
    return tf.tensor_scatter_nd_update(
        starts, dropped[:, tf.newaxis], tf.zeros_like(dropped, tf.bool)
    )


def qwen2_word_starts(code_points, classes, first):
    """As `gpt2_word_starts`, of `QWEN2`."""
    before = previous(classes, OTHER)
    space, was_space = classes == SPACE, (before == SPACE) & ~first
    newline = (code_points == ord("\r")) | (code_points == ord("\n"))
    was_newline = previous(newline, False)
    was_blank = previous(code_points, 0) == _BLANK
    # What is neither letter, number nor space: runs begin with the blank before them, or start.
    opens = (classes == OTHER) & (first | ((before != OTHER) & ~was_blank))
    # A letter takes one thing before it into its word: white space, but for the end of a line, or
    # a character of another kind that starts a word.
    takes = ((before == SPACE) & ~was_newline) | ((before == OTHER) & previous(opens, False))
    letters = (classes == LETTER) & (before != LETTER) & ~takes
    # Ends of lines go with the characters of other kinds before them. All white space up to the
    # last end of a line is one word, and the last white space is given away as in `GPT2`.
    begins = space & ~was_space & ~(newline & (before == OTHER))
    ends = space & (following(classes, OTHER) != SPACE) & ~following(first, True)
    given_away = was_space & ends & ~newline & ~was_newline
    starts = first | opens | letters | (classes == NUMBER) | begins | given_away
    starts = _cut_after_lines(starts, classes, first, newline, space & was_space)
    quotes = tf.squeeze(tf.where(opens & (code_points == ord("'"))), 1)
    return _cut_contractions(starts, code_points, first, quotes, ignore_case=True)


def _cut_after_lines(starts, classes, first, newline, inside):
    """`starts` with the white space after the last end of a line, or after one that is taken.

    Args:
      inside: (C,) bool, white space after white space.
    """
    at = tf.squeeze(tf.where(inside & previous(newline, False) & ~newline), 1)  # (K,)

    def cut():
        newlines = tf.squeeze(tf.where(newline), 1)
        # The end of the run of white space that each one is in.
        ends = (classes == SPACE) & ((following(classes, OTHER) != SPACE) | following(first, True))
        ends = tf.squeeze(tf.where(ends), 1)
        end = tf.gather(ends, tf.searchsorted(ends, at))
        is_last = tf.searchsorted(newlines, end, side="right") == tf.searchsorted(newlines, at)
        # Where the ends of lines before it begin, and whether they go with what is before them.
        begin = tf.squeeze(tf.where(newline & ~(previous(newline, False) & ~first)), 1)
        begin = tf.gather(begin, tf.searchsorted(begin, at) - 1)
        is_taken = ~tf.gather(first, begin) & (
            tf.gather(classes, tf.maximum(begin - 1, 0)) == OTHER
        )
        return tf.tensor_scatter_nd_update(starts, at[:, tf.newaxis], is_last | is_taken)

    return tf.cond(tf.size(at) > 0, cut, lambda: starts)


def _cut_contractions(starts, code_points, first, quotes, ignore_case=False):
    """`starts` with 's, 't, 're, 've, 'm, 'll and 'd as words, from (A,) quotes that start one."""
    count = tf.size(starts, out_type=tf.int64)
    # Two more code points, each the first of a text, so that there always are two after a quote.
    code_points = tf.concat([code_points, [0, 0]], 0)
    first = tf.concat([first, [True, True]], 0)
    second = tf.gather(code_points, quotes + 1)
    third = tf.where(tf.gather(first, quotes + 2), 0, tf.gather(code_points, quotes + 2))
    if ignore_case:
        second, third = (tf.where(_either(x, _CAPITALS), x + 32, x) for x in (second, third))
        second = tf.where(second == _LONG_S, ord("s"), second)
    short, long = _either(second, "stmd"), tf.zeros_like(second, tf.bool)
    for pair in ("re", "ve", "ll"):
        long |= (second == ord(pair[0])) & (third == ord(pair[1]))
    found = tf.squeeze(tf.where((short | long) & ~tf.gather(first, quotes + 1)), 1)
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


_CAPITALS, _LONG_S = "STREVMLD", ord("ſ")  # as s in upper case is S
WORD_STARTS = {
    GPT2: gpt2_word_starts,
    LLAMA3: llama3_word_starts,
    CL100K: llama3_word_starts,
    QWEN2: qwen2_word_starts,
    O200K: functools.partial(word_starts, contractions=True, digits=3),
    TEKKEN: functools.partial(word_starts, contractions=False, digits=1),
}
"""Pattern -> function like `gpt2_word_starts`: the patterns that can be expressed."""
