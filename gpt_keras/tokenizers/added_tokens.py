"""Finds the added tokens of a tokenizer, `<|im_start|>` and the like, in texts."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, unicode_data, utf8

_MARK = b"\xff"  # in no valid UTF-8


class AddedTokenFinder(tf.Module):
    """Cuts texts at added tokens: the leftmost one first, and the longest that begins there."""

    def __init__(self, tokens, name=None):
        """
        Args:
          tokens: dict `tokenizer_json.AddedToken` -> id; their contents as the texts have them.
        """
        super().__init__(name=name)
        self._pattern = _pattern(tokens)
        self._all_special = all(token.special for token in tokens)
        self._ids = _table(tokens)
        self._plain_ids = _table({t: i for t, i in tokens.items() if not t.special})
        # White space that a token takes with it, at id + 1, so that text, -1, is in the table too.
        size = max(tokens.values(), default=0) + 2
        self._takes_before, self._takes_after = np.zeros([2, size], bool)
        for token, i in tokens.items():
            self._takes_before[i + 1], self._takes_after[i + 1] = token.lstrip, token.rstrip
        self._single = np.zeros(size, bool)
        self._single[[i + 1 for token, i in tokens.items() if token.single_word]] = True

    def __call__(self, parts, ids, splits, allow_special):
        """Cuts valid UTF-8 texts, inside a graph.

        Args:
          parts: (P,) string.
          ids: (P,) int32, of those that are tokens already, and -1 for those that are text.
          splits: (B + 1,) int64, row splits of the parts.
          allow_special: bool; False leaves special tokens in the text as they are written.

        Returns:
          the same three. Parts of text may be empty.
        """
        if self._all_special and not allow_special:  # or none at all
            return parts, ids, splits
        marked = tf.strings.regex_replace(parts, self._pattern, _MARK + rb"\0" + _MARK)
        cut = tf.strings.split(tf.where(ids < 0, marked, parts), _MARK)
        parts, rows = cut.values, ragged.row_ids(cut.row_splits)  # text, token, text, ..., text
        place = tf.range(tf.size(parts, out_type=tf.int64)) - tf.gather(cut.row_splits, rows)
        found = (self._ids if allow_special else self._plain_ids).lookup(parts)
        found = tf.where(place % 2 == 1, found, -1)
        if self._single.any():
            found = tf.where(self._is_in_word(parts, found, place), -1, found)
        ids = tf.where(place % 2 == 1, found, tf.gather(ids, rows))
        splits = tf.gather(cut.row_splits, splits)
        if self._single.any() or not (allow_special or self._all_special):
            parts, ids, found, splits = _join_text(parts, ids, found, splits)
        return self._strip(parts, ids, found), ids, splits

    def _is_in_word(self, parts, found, place):
        """(P,) bool: tokens that must be words, with a letter or the like before or after them."""
        word = "".join(
            f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in unicode_data.word_chars()
        )
        ends = tf.strings.regex_full_match(parts, f"(?s).*[{word}]")
        begins = tf.strings.regex_full_match(parts, f"(?s)[{word}].*")
        # Between two tokens there may be nothing.
        is_empty = parts == ""
        before, after = ragged.previous(ends, False), ragged.following(begins, False)
        other_before = (place > 2) & ragged.previous(ragged.previous(ends, False), False)
        other_after = ragged.following(ragged.following(begins, False), False)
        is_last = ragged.following(ragged.following(place, 0), 0) == 0
        before |= ragged.previous(is_empty, False) & other_before
        after |= ragged.following(is_empty, False) & other_after & ~is_last
        return tf.gather(self._single, found + 1) & (before | after)

    def _strip(self, parts, ids, found):
        """Takes the white space from parts of text that belongs to the token before or after."""
        for takes, beside, pattern in (
            (self._takes_after, ragged.previous(found, -1), f"^{utf8.SPACE}+"),
            (self._takes_before, ragged.following(found, -1), f"{utf8.SPACE}+$"),
        ):
            if takes.any():
                taken = tf.gather(takes, beside + 1) & (ids < 0)
                parts = tf.where(taken, tf.strings.regex_replace(parts, pattern, ""), parts)
        return parts


def _join_text(parts, ids, found, splits):
    """Joins neighbouring parts of text of a row: tokens that were found but do not count."""
    size = tf.size(parts, out_type=tf.int64)
    starts = ragged.mark(splits[:-1], size) | (ids >= 0) | (ragged.previous(ids, 0) >= 0)
    joined = tf.cumsum(tf.cast(starts, tf.int64)) - 1
    starts = tf.where(starts)[:, 0]
    parts = tf.strings.unsorted_segment_join(parts, joined, tf.size(starts))
    splits = tf.searchsorted(starts, splits, out_type=tf.int64)
    return parts, tf.gather(ids, starts), tf.gather(found, starts), splits


def _pattern(tokens):
    """RE2 pattern of the tokens, the longest alternative first."""
    contents = sorted((token.content for token in tokens), key=lambda c: -len(c.encode()))
    return "|".join(map(utf8.escape, contents))


def _table(tokens):
    contents = [token.content.encode() for token in tokens]
    return tables.lookup_table(contents, list(tokens.values()), default=-1)
