"""Windows: long contexts in pieces that overlap, each behind its question."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gpt_keras import preprocessing
from gpt_keras.tokenizers.post_processor import SpecialTokens


class Windows(NamedTuple):
    """Pieces of contexts, (W, ...), those of a context one after the other.

    Attributes:
      tokens: (W, None) int32 ragged: a question, and a piece of its context, with special tokens.
      types: (W, None) int32 ragged, their token types.
      starts, ends: (W, None) int32 ragged, where in the context the tokens stand, in bytes; -1 for
        a token that is not of the context.
      rows: (W,) int32, the number of the context.
    """

    tokens: tf.RaggedTensor
    types: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor
    rows: tf.Tensor


@tf.autograph.experimental.do_not_convert
def split(questions, contexts, tokenizer, length: int, stride: int) -> Windows:
    """Questions with pieces of their contexts; works in a `tf.function` too.

    As SQuAD is learned by BERT (Devlin et al., 2019). A question is cut to half a window. Where the
    tokenizer puts no token between two texts, or none after them, a line break ends the question,
    or the window: a causal model says at its last token that there is no answer, which must be
    another token than one that ends answers.

    Args:
      questions, contexts: (B,) string.
      tokenizer: see `gpt_keras.tokenizers`.
      length: tokens of a window.
      stride: tokens from the beginning of one piece to that of the next; less where a piece is
        shorter.

    Raises:
      ValueError: `length` has no room for a question and a context.
    """
    around = tokenizer.post_processor.pair
    if not around.suffix.ids:
        with tf.init_scope():
            ending = tuple(tokenizer.tokenize(["\n"]).values.numpy().tolist())
        around = dataclasses.replace(around, suffix=SpecialTokens(ending, (0,) * len(ending)))
    room = length - around.num_tokens
    if room < 2:
        raise ValueError(
            f"--window_length={length}: {around.num_tokens} tokens come around a question and its "
            "context; give it more"
        )
    if not around.separator.ids:
        questions = tf.strings.join([questions, "\n"])
    asked = tokenizer.tokenize(questions)[:, : room // 2]
    context, starts, ends = tokenizer.tokenize_with_offsets(contexts)
    sizes = context.row_lengths()  # (B,)
    rooms = room - tf.cast(asked.row_lengths(), sizes.dtype)
    steps = tf.minimum(tf.cast(stride, sizes.dtype), rooms)
    more = tf.maximum(sizes - rooms, 0)
    counts = 1 + (more + steps - 1) // steps  # (B,)
    rows = tf.repeat(tf.range(tf.size(counts)), counts)  # (W,)
    begins = tf.ragged.range(counts).values * tf.gather(steps, rows)
    limits = tf.minimum(begins + tf.gather(rooms, rows), tf.gather(sizes, rows))
    firsts = tf.gather(context.row_starts(), rows)
    places = tf.ragged.range(firsts + begins, firsts + limits)  # (W, None)
    asked = tf.gather(asked, rows)
    texts = asked, places.with_values(tf.gather(context.values, places.values))

    nowhere = asked.with_values(tf.fill(tf.shape(asked.values), -1))

    def beside(values):
        of_context = places.with_values(tf.gather(values.values, places.values))
        return around.beside(nowhere, of_context, special=-1)

    return Windows(around.ids(*texts), around.types(*texts), beside(starts), beside(ends), rows)


def split_all(questions, contexts, tokenizer, length: int, stride: int) -> list[np.ndarray]:
    """`split` of any number of lists of str, in pieces.

    Returns:
      The values of `tokens`, `types`, `starts` and `ends`, (N,) int32, and of each window its
      length and its row, (W,).
    """
    columns, done = [[np.zeros(0, np.int32)] * 6], 0
    for chunk in preprocessing.chunks(list(zip(questions, contexts, strict=True))):
        some = split(*(tf.constant(x) for x in zip(*chunk, strict=True)), tokenizer, length, stride)
        values = [x.values.numpy() for x in some[:4]]
        columns.append([*values, some.tokens.row_lengths().numpy(), some.rows.numpy() + done])
        done += len(chunk)
    return [np.concatenate(parts) for parts in zip(*columns, strict=True)]
