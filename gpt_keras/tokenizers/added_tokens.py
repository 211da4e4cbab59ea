"""Finds the added tokens of a tokenizer, `<|im_start|>` and the like, in texts."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables

_MARK = b"\xff"  # in no valid UTF-8
# White space as Rust's `char::is_whitespace` has it; RE2's \s knows ASCII only.
_SPACE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


class AddedTokenFinder(tf.Module):
    """Cuts texts at added tokens: the leftmost one first, and the longest that begins there.

    As in `tokenizers`, those that are `normalized` are looked for only in what the others leave.
    """

    def __init__(self, tokens, name=None):
        """
        Args:
          tokens: dict `tokenizer_json.AddedToken` -> id.
        """
        super().__init__(name=name)
        self._patterns = [
            _pattern([token for token in tokens if token.normalized == normalized])
            for normalized in (False, True)
            if any(token.normalized == normalized for token in tokens)
        ]
        self._all_special = all(token.special for token in tokens)
        self._ids = _table(tokens)
        self._plain_ids = _table({t: i for t, i in tokens.items() if not t.special})
        # White space that a token takes with it, at id + 1, so that text, -1, is in the table too.
        size = max(tokens.values(), default=0) + 2
        self._takes_before, self._takes_after = np.zeros([2, size], bool)
        for token, i in tokens.items():
            self._takes_before[i + 1], self._takes_after[i + 1] = token.lstrip, token.rstrip

    def __call__(self, texts, allow_special):
        """Cuts valid UTF-8 texts, inside a graph.

        Args:
          texts: (B,) string.
          allow_special: bool; False leaves special tokens in the text as they are written.

        Returns:
          parts, (P,) string; ids, (P,) int32, of those that are tokens and -1 for those that are
          text; and (B + 1,) int64 row splits. Parts of text may be empty.
        """
        ids = tf.fill(tf.shape(texts), -1)
        splits = tf.range(tf.size(texts, out_type=tf.int64) + 1)
        if self._all_special and not allow_special:
            return texts, ids, splits
        for pattern in self._patterns:
            texts, ids, inner = self._cut(texts, ids, pattern, allow_special)
            splits = tf.gather(inner, splits)
        return texts, ids, splits

    def _cut(self, texts, ids, pattern, allow_special):
        """Cuts the parts of text among `texts` by one pattern, to the same three results."""
        is_text = ids < 0
        marked = tf.where(
            is_text, tf.strings.regex_replace(texts, pattern, _MARK + rb"\0" + _MARK), texts
        )
        cut = tf.strings.split(marked, _MARK)  # text, token, text, ..., text in each row
        parts, splits = cut.values, cut.row_splits
        rows = ragged.row_ids(splits)
        is_token = (tf.range(tf.size(parts, out_type=tf.int64)) - tf.gather(splits, rows)) % 2 == 1
        found = (self._ids if allow_special else self._plain_ids).lookup(parts)
        ids = tf.where(is_token, found, tf.gather(ids, rows))
        if not allow_special and not self._all_special:
            parts, ids, splits = _join_text(parts, ids, splits)
        return self._strip(parts, ids), ids, splits

    def _strip(self, parts, ids):
        """Takes the white space from parts of text that belongs to the token before or after."""
        if self._takes_after.any():
            taken = tf.concat([[False], tf.gather(self._takes_after, ids[:-1] + 1)], 0) & (ids < 0)
            parts = tf.where(taken, tf.strings.regex_replace(parts, f"^{_SPACE}+", ""), parts)
        if self._takes_before.any():
            taken = tf.concat([tf.gather(self._takes_before, ids[1:] + 1), [False]], 0) & (ids < 0)
            parts = tf.where(taken, tf.strings.regex_replace(parts, f"{_SPACE}+$", ""), parts)
        return parts


def _join_text(parts, ids, splits):
    """Joins neighbouring parts of text of a row: special tokens that were found but not allowed."""
    size = tf.size(parts, out_type=tf.int64)
    before = tf.concat([[0], ids[:-1]], 0)
    starts = ragged.mark(splits[:-1], size) | (ids >= 0) | (before >= 0)
    joined = tf.cumsum(tf.cast(starts, tf.int64)) - 1
    starts = tf.where(starts)[:, 0]
    parts = tf.strings.unsorted_segment_join(parts, joined, tf.size(starts))
    return parts, tf.gather(ids, starts), tf.searchsorted(starts, splits, out_type=tf.int64)


def _pattern(tokens):
    """RE2 pattern of the tokens, the longest alternative first."""
    contents = sorted((token.content for token in tokens), key=lambda c: -len(c.encode()))
    return "|".join(
        "".join(
            char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}"
            for char in content
        )
        for content in contents
    )


def _table(tokens):
    contents = [token.content.encode() for token in tokens]
    return tables.lookup_table(contents, list(tokens.values()), default=-1)
