"""Stop strings: texts at which an answer ends, found in the bytes of its tokens.

A string may begin and end inside tokens. Special tokens have no bytes. An answer ends with the
token that makes the first of its strings complete, and its text is cut before the string; where
that token makes several complete, before the one that begins first.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers.tokenizer import Tokenizer

MOST = 16  # strings of a row
LONGEST = 256  # bytes of a string
EXPECTED = f"at most {MOST} strings of 1 to {LONGEST} bytes"
NEVER = tf.int32.max  # place of a string that is not there


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """The strings of each row, and the tokenizer that says what tokens stand for.

    Attributes:
      strings: (B, K) string tensor, "" where a row has fewer than K.
      tokenizer: of the model.
    """

    strings: tf.Tensor
    tokenizer: Tokenizer

    def follow(self, tail, tokens, said):
        """Looks at one more token of each text.

        Args:
          tail: (B,) string, what an earlier call gave; "" at the beginning.
          tokens: (B,) int32.
          said: (B,) bool, where the token belongs to the answer.

        Returns:
          complete: (B,) bool, True where the token makes a string complete.
          tail: (B,) string, the text's end, as far as it may begin a string.
        """

        def look():
            added = tf.where(said, self._text_of(tokens), "")
            text = tf.strings.join([tail, added])
            complete = self._first(text, tf.strings.length(added)) < NEVER
            return complete, _last(text, self._longest() - 1)

        return tf.cond(tf.size(self.strings) > 0, look, lambda: (tf.zeros_like(said), tail))

    def follow_all(self, tail, count, tokens, start, end):
        """Looks at several tokens of each text, `tokens[start:end]`.

        Args:
          tail: as in `follow`.
          count: (B,) int32, tokens up to the one that made a string complete, NEVER before it.
          tokens: (B, W) int32, the texts.
          start, end: (B,) int32.

        Returns:
          tail, count: as they are then.
        """

        def one(i, tail, count):
            column = start + i  # (B,)
            said = column < end
            token = tf.gather(tokens, tf.where(said, column, 0), batch_dims=1)
            complete, tail = self.follow(tail, token, said)
            return i + 1, tail, tf.where(complete, tf.minimum(count, column + 1), count)

        most = tf.where(tf.size(self.strings) > 0, tf.reduce_max(end - start), 0)
        _, tail, count = tf.while_loop(
            lambda i, *_: i < most, one, (tf.constant(0), tail, count), parallel_iterations=1
        )
        return tail, count

    def cut(self, texts, tokens, lengths):
        """The texts of answers, cut before the string that their last token makes complete.

        Args:
          texts: (B,) string, what the tokens stand for.
          tokens: (B, N) int32. lengths: (B,) int32, how many of each row count.
        """

        def cut():
            last = tf.gather(
                tf.pad(tokens, [[0, 0], [0, 1]]), tf.maximum(lengths - 1, 0), batch_dims=1
            )
            added = tf.where(lengths > 0, self._text_of(last), "")
            new = tf.strings.length(added)
            end = _last(texts, self._longest() - 1 + new)
            first = self._first(end, new)
            size = tf.strings.length(texts)
            kept = tf.where(first < NEVER, size - tf.strings.length(end) + first, size)
            return tf.strings.substr(texts, tf.zeros_like(kept), kept)

        return tf.cond(tf.size(self.strings) > 0, cut, lambda: texts)

    def _text_of(self, tokens):
        texts = self.tokenizer.detokenize(tokens[:, None], skip_special_tokens=True, continues=True)
        return tf.ensure_shape(texts, [None])

    def _longest(self):
        return tf.reduce_max(tf.strings.length(self.strings))

    def _first(self, texts, new):
        """Where a string begins that ends among the last `new` (B,) bytes; the first such one.

        Returns:
          (B,) int32, NEVER where there is none.
        """
        lengths, sizes = tf.strings.length(texts), tf.strings.length(self.strings)  # (B,), (B, K)
        ends = (lengths - new + 1)[:, None] + tf.range(tf.reduce_max(new))  # (B, E)
        starts = ends[..., None] - sizes[:, None]  # (B, E, K)
        fits = (ends <= lengths[:, None])[..., None] & (starts >= 0) & (sizes > 0)[:, None]
        row, _, which = tf.unstack(tf.where(fits), axis=1)  # (n,)
        wanted = tf.gather_nd(self.strings, tf.stack([row, which], axis=1))
        starts = tf.boolean_mask(starts, fits)
        there = tf.strings.substr(tf.gather(texts, row), starts, tf.strings.length(wanted))
        starts = tf.where(there == wanted, starts, NEVER)
        return tf.math.unsorted_segment_min(starts, row, tf.size(texts))


def checked(stop, rows) -> np.ndarray:
    """Python's stop strings as a matrix.

    Args:
      stop: list of str for all rows, or a list of such lists, one for each.
      rows: int, B.

    Returns:
      (B, K) bytes, b"" where a row has fewer than K.

    Raises:
      ValueError: something else, or too many or too long strings.
    """
    what = f"stop={stop!r}: expected"
    lists = stop
    if isinstance(stop, list | tuple) and all(isinstance(string, str) for string in stop):
        lists = [stop] * rows
    if not isinstance(lists, list | tuple) or not all(
        isinstance(each, list | tuple) and all(isinstance(string, str) for string in each)
        for each in lists
    ):
        raise ValueError(f"{what} a list of texts, or one such list for each prompt")
    if len(lists) != rows:
        raise ValueError(f"{what} {rows} lists, one for each prompt, or one list of texts for all")
    encoded = [[string.encode() for string in each] for each in lists]
    if any(len(e) > MOST or not all(1 <= len(s) <= LONGEST for s in e) for e in encoded):
        raise ValueError(f"{what} {EXPECTED}")
    most = max(map(len, encoded), default=0)
    matrix = [each + [b""] * (most - len(each)) for each in encoded]
    return np.array(matrix, object).reshape(rows, most)


def _last(texts, n):
    """The last n, () or (B,) int32, bytes of the texts (B,), or all."""
    sizes = tf.strings.length(texts)
    starts = tf.maximum(sizes - n, 0)
    return tf.strings.substr(texts, starts, sizes - starts)
