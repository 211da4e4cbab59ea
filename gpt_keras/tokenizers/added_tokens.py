"""Finds the added tokens of a tokenizer, `<|im_start|>` and the like, in texts."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, unicode_data, utf8


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

    def __call__(self, parts: "Parts", allow_special) -> "Parts":
        """Cuts the parts that are text, valid UTF-8, inside a graph.

        Args:
          allow_special: bool; False leaves special tokens in the text as they are written.
        """
        if self._all_special and not allow_special:  # or none at all
            return parts
        texts, old_ids, splits = parts.texts, parts.ids, parts.splits
        marked = tf.strings.regex_replace(texts, self._pattern, utf8.MARK + rb"\0" + utf8.MARK)
        cut = tf.strings.split(tf.where(old_ids < 0, marked, texts), utf8.MARK)
        texts, rows = cut.values, ragged.row_ids(cut.row_splits)  # text, token, text, ..., text
        place = tf.range(tf.size(texts, out_type=tf.int64)) - tf.gather(cut.row_splits, rows)
        found = (self._ids if allow_special else self._plain_ids).lookup(texts)
        found = tf.where(place % 2 == 1, found, -1)
        if self._single.any():
            found = tf.where(self._is_in_word(texts, found, place), -1, found)
        ids = tf.where(place % 2 == 1, found, tf.gather(old_ids, rows))
        splits = tf.gather(cut.row_splits, splits)
        if self._single.any() or not (allow_special or self._all_special):
            texts, ids, found, rows, splits = _join_text(texts, ids, found, rows, splits)
        limits = tf.cumsum(_num_chars(texts))  # in the code points of all texts
        starts = limits - _num_chars(texts)
        texts, starts, limits = self._strip(texts, ids, found, starts, limits)
        # A token goes from the end of the text before it to the beginning of the one after.
        sources = tf.concat([parts.sources, [0]], 0)  # which may be none
        begins = tf.gather(sources, ragged.previous(limits, 0))
        ends = tf.gather(sources, tf.maximum(ragged.following(starts, 0) - 1, 0)) + 1
        text = tf.ragged.range(starts, tf.where(ids < 0, limits, starts)).values
        return Parts(
            texts,
            ids,
            splits,
            tf.gather(sources, text),
            tf.where(found < 0, tf.gather(parts.begins, rows), begins),
            tf.where(found < 0, tf.gather(parts.ends, rows), ends),
        )

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

    def _strip(self, texts, ids, found, starts, limits):
        """Takes the white space from parts of text that belongs to the token before or after."""
        for takes, beside, pattern in (
            (self._takes_after, ragged.previous(found, -1), f"^{utf8.SPACE}+"),
            (self._takes_before, ragged.following(found, -1), f"{utf8.SPACE}+$"),
        ):
            if takes.any():
                taken = tf.gather(takes, beside + 1) & (ids < 0)
                texts = tf.where(taken, tf.strings.regex_replace(texts, pattern, ""), texts)
                size = tf.where(taken, _num_chars(texts), limits - starts)
                if takes is self._takes_after:
                    starts = limits - size
                else:
                    limits = starts + size
        return texts, starts, limits


class Parts(NamedTuple):
    """What texts are cut into: tokens, and text between them.

    Attributes:
      texts: (P,) string, of those that are text.
      ids: (P,) int32, of those that are tokens, and -1 for text, which may be empty.
      splits: (B + 1,) int64, row splits of the parts of each text.
      sources: (C,) int64, which of all code points that the texts once had those of `texts` come
        from, all of them end to end.
      begins, ends: (P,) int64, where in these the tokens stand.
    """

    texts: tf.Tensor
    ids: tf.Tensor
    splits: tf.Tensor
    sources: tf.Tensor
    begins: tf.Tensor
    ends: tf.Tensor

    @classmethod
    def whole(cls, texts) -> "Parts":
        """Each of (B,) texts as one part."""
        rows = tf.range(tf.size(texts, out_type=tf.int64) + 1)
        sources = tf.range(tf.reduce_sum(_num_chars(texts)))
        return cls(texts, tf.fill(tf.shape(texts), -1), rows, sources, rows[:-1], rows[:-1])

    def code_points(self):
        """(C,) int32 code points of what is text, and (P + 1,) int64 row splits."""
        return utf8.to_code_points(tf.where(self.ids < 0, self.texts, ""))


def _num_chars(texts):
    return tf.cast(tf.strings.length(texts, unit="UTF8_CHAR"), tf.int64)


def _join_text(texts, ids, found, rows, splits):
    """Joins neighbouring parts of text of a row: tokens that were found but do not count."""
    size = tf.size(texts, out_type=tf.int64)
    starts = ragged.mark(splits[:-1], size) | (ids >= 0) | (ragged.previous(ids, 0) >= 0)
    joined = tf.cumsum(tf.cast(starts, tf.int64)) - 1
    starts = tf.squeeze(tf.where(starts), 1)
    texts = tf.strings.unsorted_segment_join(texts, joined, tf.size(starts))
    splits = tf.searchsorted(starts, splits, out_type=tf.int64)
    return texts, *(tf.gather(x, starts) for x in (ids, found, rows)), splits


def _pattern(tokens):
    """RE2 pattern of the tokens, the longest alternative first."""
    contents = sorted((token.content for token in tokens), key=lambda c: -len(c.encode()))
    return "|".join(map(utf8.escape, contents))


def _table(tokens):
    contents = [token.content.encode() for token in tokens]
    return tables.lookup_table(contents, list(tokens.values()), default=-1)
