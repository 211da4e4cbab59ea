"""Regular expressions of words that cannot be split by looking at neighbours alone.

Where each match would end, if one began there, is computed for all places at once, from the ends of
runs of characters of a kind; then those places are found that matches lead to, one after the other.
"""

import functools

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import tables, unicode_data
from gpt_keras.tokenizers.char_classes import LETTER, NUMBER, SPACE

_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_WORD = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = _WORD.replace("%s", _SUFFIX) + r"|\p{N}{1,3}" + _REST
"""GPT-4o and gpt-oss. Source: https://github.com/openai/tiktoken."""
TEKKEN = _WORD.replace("%s", "") + r"|\p{N}" + _REST
"""Mistral NeMo and what came after it."""


def word_starts(code_points, classes, first, contractions, digits):
    """Which code points start a word of `O200K` or `TEKKEN`.

    Args:
      code_points, classes, first: see `word_splitting.gpt2_word_starts`.
      contractions: whether words end with 's, 't and so on.
      digits: how many numbers are one word at most.

    Returns:
      (C,) bool.
    """
    runs = _Runs(code_points, first)
    ends = runs.word_ends(code_points, classes, contractions)
    numbers = tf.minimum(runs.ends(classes == NUMBER), runs.place + digits)
    is_other = (classes != LETTER) & (classes != NUMBER) & (classes != SPACE)
    others = runs.other_ends(code_points, is_other)
    spaces = runs.space_ends(code_points, classes == SPACE)
    # The first alternative that matches; each ends where it begins if it does not.
    for found in (numbers, others, spaces):
        ends = tf.where(ends > runs.place, ends, found)
    return _reached(ends, first, runs.text_ends)


class _Runs:
    """Ends of runs, all (C,) int32 places, in texts that are one after the other."""

    def __init__(self, code_points, first):
        self._first = first
        self.size = tf.size(code_points)
        self.place = tf.range(self.size)
        self.text_ends = self._next(first)

    def _next(self, flags):
        """The next place after each one that has the flag, or C."""
        places = tf.concat([tf.cast(tf.squeeze(tf.where(flags), 1), tf.int32), [self.size]], 0)
        return tf.gather(places, tf.cumsum(tf.cast(flags, tf.int32)))

    def _last(self, flags):
        """The last place up to each one that has the flag, or -1."""
        places = tf.concat([[-1], tf.cast(tf.squeeze(tf.where(flags), 1), tf.int32)], 0)
        return tf.gather(places, tf.cumsum(tf.cast(flags, tf.int32)))

    def ends(self, flags):
        """Where the run of flags that a place is in ends, in its text; the place itself if none."""
        return tf.where(flags, self._next(~flags | self._first), self.place)

    def at(self, values, places, origin=None):
        """Values at places; a place that is beyond the text of its origin gives the place."""
        inside = places < (self.text_ends if origin is None else origin)
        safe = tf.minimum(places, self.size - 1)
        return tf.where(inside, tf.gather(values, safe), places)

    def word_ends(self, code_points, classes, contractions):
        """Ends of words of letters and marks, with what one character before them they take."""
        case = tables.gather_dense(_cases(), code_points)
        upper, lower = (case == _UPPER) | (case >= _BOTH), case >= _LOWER
        upper_ends, lower_ends = self.ends(upper), self.ends(lower)
        last_both = self._last(case >= _BOTH)
        newline = (code_points == ord("\r")) | (code_points == ord("\n"))
        takes = (classes != LETTER) & (classes != NUMBER) & ~newline
        after = tf.where(takes, tf.minimum(self.place + 1, self.text_ends), self.place)
        # Upper case, then lower case, of which what is both may be either, ...
        middle = upper_ends
        end = self.at(lower_ends, middle)
        both = tf.gather(last_both, tf.maximum(middle - 1, 0))
        to_lower = tf.where(end > middle, end, tf.where(both >= self.place, both + 1, self.place))
        # ... or else upper case alone.
        ends = self.place
        for values in (to_lower, upper_ends):
            for places in (after, self.place):
                found = self.at(values, places)
                ends = tf.where(ends > self.place, ends, tf.where(found > places, found, ends))
        if contractions:
            ends = self._with_contractions(code_points, ends)
        return ends

    def _with_contractions(self, code_points, ends):
        at = tf.where((ends > self.place) & (self.at(code_points, ends) == ord("'")))
        at = tf.boolean_mask(at[:, 0], tf.gather(ends < self.text_ends, at[:, 0]))
        quotes, limits = tf.gather(ends, at), tf.gather(self.text_ends, at)
        second, third = (
            tf.where(
                quotes + i < limits,
                tf.gather(code_points, tf.minimum(quotes + i, self.size - 1)),
                0,
            )
            for i in (1, 2)
        )
        second, third = (tf.where((x >= 65) & (x <= 90), x + 32, x) for x in (second, third))
        second = tf.where(second == ord("ſ"), ord("s"), second)  # as s in upper case is S
        added = tf.zeros_like(second)
        for letter in "stmd":
            added = tf.where(second == ord(letter), 2, added)
        for pair in ("re", "ve", "ll"):
            added = tf.where((second == ord(pair[0])) & (third == ord(pair[1])), 3, added)
        return tf.tensor_scatter_nd_add(ends, at[:, tf.newaxis], added)

    def other_ends(self, code_points, is_other):
        """Ends of a blank, characters that are none of the others, and ends of lines or slashes."""
        is_blank = code_points == ord(" ")
        after = tf.where(is_blank, tf.minimum(self.place + 1, self.text_ends), self.place)
        middle = self.at(self.ends(is_other), after)
        lines = (code_points == ord("\n")) | (code_points == ord("\r")) | (code_points == ord("/"))
        return tf.where(middle > after, self.at(self.ends(lines), middle), self.place)

    def space_ends(self, code_points, space):
        """Ends of white space: after its last line, before what it is given away to, or all."""
        end = self.ends(space)
        newline = (code_points == ord("\r")) | (code_points == ord("\n"))
        line = tf.gather(self._last(newline), tf.maximum(end - 1, 0))
        given = tf.where((end < self.text_ends) & (end - 1 > self.place), end - 1, end)
        return tf.where(space, tf.where(line >= self.place, line + 1, given), self.place)


def _reached(ends, first, text_ends):
    """(C,) bool: the first place of each text, and those that the ends lead to from there."""
    size = tf.size(ends)
    jump = tf.concat([tf.where(ends < text_ends, ends, size), [size]], 0)  # C leads nowhere
    starts = tf.concat([first, [False]], 0)

    def go(jump, starts):
        reached = tf.boolean_mask(jump, starts)
        starts = tf.tensor_scatter_nd_update(
            starts, reached[:, tf.newaxis], tf.ones_like(reached, tf.bool)
        )
        return tf.gather(jump, jump), starts

    _, starts = tf.while_loop(
        lambda jump, starts: tf.reduce_any(tf.boolean_mask(jump, starts) < size),
        go,
        (jump, starts),
        parallel_iterations=1,
    )
    return starts[:size]


_UPPER, _LOWER, _BOTH, _MARK = 1, 2, 3, 4  # marks are both, too


@functools.cache
def _cases() -> np.ndarray:
    return tables.dense(unicode_data.cases())
