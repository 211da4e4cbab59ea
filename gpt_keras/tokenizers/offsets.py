"""Where in a text its tokens stand, as Hugging Face `tokenizers` says it."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged


def size_table(sizes) -> np.ndarray:
    """(highest id + 1,) int64 of a dict token id -> bytes of a word that the token stands for."""
    table = np.zeros(max(sizes) + 1, np.int64)
    table[list(sizes)] = list(sizes.values())
    return table


def end_to_end(words, splits, sizes):
    """Where tokens stand in words whose bytes they share out among them.

    Args:
      words: (W,) string.
      splits: (W + 1,) int64, row splits of the tokens of each word.
      sizes: (v,) int64, bytes of each token.

    Returns:
      starts, limits: (v,) int64, in the bytes of all words end to end.
    """
    limits = tf.cumsum(sizes)
    ends = tf.concat([[0], limits], 0)
    shifts = tf.cumsum(tf.cast(tf.strings.length(words), tf.int64), exclusive=True)
    shifts = tf.gather(shifts - tf.gather(ends, splits[:-1]), ragged.row_ids(splits))  # (v,)
    return limits - sizes + shifts, limits + shifts


def unknown_sizes(unknown, kept, lengths):
    """Bytes of each unknown token.

    Args:
      unknown: (S,) bool, symbols that the vocabulary lacks.
      kept: (S,) bool, symbols that are tokens; the others go with the one before.
      lengths: (S,) int64, bytes of each symbol.

    Returns:
      (u,) int64.
    """
    runs = tf.cumsum(tf.cast(kept & unknown, tf.int64)) - 1
    lengths, runs = tf.boolean_mask(lengths, unknown), tf.boolean_mask(runs, unknown)
    return tf.math.segment_sum(lengths, runs)


def put_unknown(sizes, values, unknown_id, unknown):
    """`sizes` of tokens `values`, (v,) each, with those of the unknown ones, (u,), in order."""
    at = tf.where(values == unknown_id)
    return tf.tensor_scatter_nd_update(sizes, at, unknown)


class Trim:
    """Leaves out the blanks that a token begins or ends with.

    Source: `process_offsets` in tokenizers/src/pre_tokenizers/byte_level.rs of
    https://github.com/huggingface/tokenizers.
    """

    def __init__(self, tokens, blank, has_prefix):
        """
        Args:
          tokens: dict id -> how the vocabulary writes it.
          blank: how it writes a blank.
          has_prefix: whether a blank that begins a text may have been put there.
        """
        leading, trailing = {}, {}
        for i, token in tokens.items():
            is_blank = [char == blank or char.isspace() for char in token]
            leading[i] = [*is_blank, False].index(False)
            trailing[i] = [*is_blank[::-1], False].index(False)
        self._leading, self._trailing = size_table(leading), size_table(trailing)
        self._has_prefix = has_prefix

    def __call__(self, ids, begins, ends, splits, firsts):
        """Trims tokens of rows.

        Args:
          ids: (v,) int32.
          begins, ends: (v,) int64, in the characters of all rows end to end.
          splits: (B + 1,) int64, row splits of the tokens.
          firsts: (v,) int64, where the row of each begins.
        """
        leading, trailing = tf.gather(self._leading, ids), tf.gather(self._trailing, ids)
        if self._has_prefix:
            # One may have been put there, more were not.
            is_first = ragged.mark(splits[:-1], tf.size(ids)) | (begins == firsts)
            leading = tf.where(is_first & (leading == 1), tf.zeros_like(leading), leading)
        begins = tf.minimum(begins + leading, ends)
        fits = ends - firsts >= trailing
        return begins, tf.where(fits, tf.maximum(ends - trailing, begins), ends)
