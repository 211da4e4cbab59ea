"""Words: what a splitter makes of texts."""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras.tokenizers import normalizer, ragged, utf8


class Words(NamedTuple):
    """Words of P texts, one after the other.

    Attributes:
      texts: (W,) string, none empty.
      splits: (P + 1,) int64, row splits of the words of each text.
      code_points: (C,) int32, of all words end to end.
      origin: (C,) int64, which of the code points that came in each was made of.
    """

    texts: tf.Tensor
    splits: tf.Tensor
    code_points: tf.Tensor
    origin: tf.Tensor

    @classmethod
    def cut(cls, code_points, splits, first, origin) -> "Words":
        """Of texts, as code points (C,) and row splits (P + 1,), and (C,) bool, where words start.

        Each text that is not empty starts one.
        """
        starts = tf.squeeze(tf.where(first), 1)  # (W,)
        texts = utf8.from_code_points(code_points, starts)
        splits = tf.searchsorted(starts, splits, out_type=tf.int64)
        return cls(texts, splits, code_points, origin)


def put_before(code_points, splits, first, at, char):
    """Puts a character before the code points that `at`, (C,) bool, marks: where words start.

    Returns:
      code points, splits, where words start, and what each comes from.
    """
    code_points, splits, origin = normalizer.insert(code_points, splits, at, char)
    # What is put before a code point starts the word in its place.
    first = tf.gather(first, origin) & (ragged.previous(origin, -1) != origin)
    return code_points, splits, first, origin
