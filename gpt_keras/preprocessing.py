"""From texts to a padded batch of token ids: the same for training, Python and serving."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

CHUNK_BYTES = 1 << 20  # of text for the tokenizer at once: its working memory is a multiple
_NONE = np.zeros(0, np.int32)


class Batch(NamedTuple):
    """token_ids: (B, T) int32, padded on the right. lengths: (B,) int32, real tokens, 1 to T."""

    token_ids: tf.Tensor
    lengths: tf.Tensor

    @property
    def padding_mask(self):
        """(B, T) bool, False on padding."""
        return tf.sequence_mask(self.lengths, tf.shape(self.token_ids)[1])


def pad(tokens: tf.RaggedTensor, filler: int) -> Batch:
    """Rows of tokens (B, None) int32, padded on the right with `filler`.

    A row without tokens becomes the one token `filler`: a model needs something to look at, and
    what it says then must not depend on the other rows.
    """
    token_ids = at_least_one_column(tokens.to_tensor(filler), filler)  # (B, T)
    return Batch(token_ids, tf.maximum(tf.cast(tokens.row_lengths(), tf.int32), 1))


class Rows(NamedTuple):
    """Tokens of many texts, as NumPy arrays.

    Attributes:
      values: (N,) int32, the token ids of all texts end to end.
      types: (N,) int32, their token types.
      row_splits: (n + 1,) int64, where each begins and the last ends.
      num_truncated: texts that lost their end.
      starts, ends, text_ids: (N,) int32, see `Offsets`; None where nobody asked for them.
    """

    values: np.ndarray
    types: np.ndarray
    row_splits: np.ndarray
    num_truncated: int
    starts: np.ndarray | None = None
    ends: np.ndarray | None = None
    text_ids: np.ndarray | None = None


class Offsets(NamedTuple):
    """Where tokens stand, (B, None) int32 each.

    Attributes:
      starts, ends: bytes of the text, see `tokenizers.Tokens`; 0 for a token that is in none.
      text_ids: 0 for a token of the first text, 1 of the second, -1 for one that is in none.
    """

    starts: tf.RaggedTensor
    ends: tf.RaggedTensor
    text_ids: tf.RaggedTensor


class Encoded(NamedTuple):
    """Texts as a model takes them.

    Attributes:
      tokens: (B, None) int32, at least one in each row.
      types: (B, None) int32, their token types, see `GPTConfig.token_types`.
      truncated: (B,) bool, lost an end.
      offsets: where the tokens stand, or None where nobody asked for it.
    """

    tokens: tf.RaggedTensor
    types: tf.RaggedTensor
    truncated: tf.Tensor
    offsets: Offsets | None = None


def encode(
    texts, tokenizer, max_length: int, filler: int, pairs=None, with_offsets=False
) -> Encoded:
    """Texts with the tokenizer's special tokens, cut to `max_length`; `filler` for an empty one.

    Training, Python and serving have their tokens from here. Of two texts the longer loses its
    end first, as by "longest_first" of Hugging Face `tokenizers`.

    Args:
      texts: (B,) string.
      tokenizer: see `gpt_keras.tokenizers`.
      max_length: tokens.
      filler: see `filler`.
      pairs: (B,) string, a second text for each, or None.
      with_offsets: whether to say where the tokens stand.

    Raises:
      ValueError: `max_length` has no room for the special tokens and one of a text.
    """
    around = tokenizer.post_processor.single if pairs is None else tokenizer.post_processor.pair
    room = max_length - around.num_tokens
    if room < 1:
        raise ValueError(
            f"--max_length={max_length}: the tokenizer adds {around.num_tokens} special tokens to "
            "a text; give it more"
        )
    given = [text for text in (texts, pairs) if text is not None]
    if with_offsets:
        columns = [tokenizer.tokenize_with_offsets(text) for text in given]
    else:
        columns = [(tokenizer.tokenize(text),) for text in given]
    lengths = [ids.row_lengths() for ids, *_ in columns]  # (B,) each
    truncated = tf.add_n(lengths) > room
    if pairs is None:
        columns = [[column[:, :room] for column in columns[0]]]
    else:
        columns = [
            [_first(column, size) for column in text]
            for text, size in zip(columns, _share(*lengths, room), strict=True)
        ]
    tokens, *places = zip(*columns, strict=True)
    types = around.types(*tokens)
    ids = around.ids(*tokens)
    empty = tf.cast(ids.row_lengths() == 0, ids.row_splits.dtype)
    offsets = None
    if with_offsets:
        starts, ends = (_fill(around.beside(*x, special=0), empty, 0) for x in places)
        which = [x.with_values(tf.fill(tf.shape(x.values), i)) for i, x in enumerate(tokens)]
        offsets = Offsets(starts, ends, _fill(around.beside(*which, special=-1), empty, -1))
    return Encoded(_fill(ids, empty, filler), _fill(types, empty, 0), truncated, offsets)


def _share(first, second, room: int):
    """Tokens (B,) that two texts of these lengths keep of a room for both."""
    half = room // 2
    shorter = tf.minimum(first, second)
    shorter = tf.where(2 * shorter > room, tf.cast(half, shorter.dtype), shorter)
    both = first + second > room
    longer = room - shorter
    first_is_shorter = first <= second
    return (
        tf.where(both, tf.where(first_is_shorter, shorter, longer), first),
        tf.where(both, tf.where(first_is_shorter, longer, shorter), second),
    )


def _first(tokens, sizes):
    """The first tokens of each row, as many as `sizes` (B,) says."""
    position = tf.ragged.range(tokens.row_lengths())
    kept = position.values < tf.repeat(sizes, tokens.row_lengths())
    return tf.ragged.boolean_mask(tokens, position.with_values(kept))


def _fill(tokens, empty, filler):
    """One `filler` for each row that is `empty` (B,), 1 or 0."""
    fillers = tf.fill([tf.reduce_sum(empty)], tf.cast(filler, tokens.dtype))
    fillers = tf.RaggedTensor.from_row_lengths(fillers, empty, validate=False)
    return tf.concat([tokens, fillers], axis=1)


def encode_all(
    texts: Sequence[str], tokenizer, max_length: int, filler: int, pairs=None, with_offsets=False
) -> Rows:
    """`encode` of any number of texts, in pieces."""
    pairs = pairs or [None] * len(texts)
    lengths, truncated = [np.zeros(0, np.int64)], 0
    columns = [[_NONE] * (5 if with_offsets else 2)]
    for chunk in chunks(list(zip(texts, pairs, strict=True))):
        first, second = zip(*chunk, strict=True)
        second = None if second[0] is None else tf.constant(second)
        encoded = encode(tf.constant(first), tokenizer, max_length, filler, second, with_offsets)
        found = (encoded.tokens, encoded.types, *(encoded.offsets or ()))
        columns.append([column.values.numpy() for column in found])
        lengths.append(encoded.tokens.row_lengths().numpy())
        truncated += int(encoded.truncated.numpy().sum())
    row_splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    values, types, *places = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Rows(values, types, row_splits, truncated, *places)


def chunks(texts: Sequence):
    """Texts, or tuples of them, in lists of CHUNK_BYTES or a little more."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        parts = text if isinstance(text, tuple) else (text,)
        size += sum(len(part.encode()) for part in parts if part)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def batch(texts, tokenizer, config, pairs=None) -> dict[str, tf.Tensor]:
    """Texts as a batch to train on has them, each at most as long as the model's context.

    Works in a `tf.function` too.

    Args: as of `encode`.

    Returns:
      `token_ids` (B, T) int32, `padding_mask` (B, T) bool and, where the model tells token types
      apart, `token_type_ids` (B, T) int32.
    """
    fill = filler(config)
    encoded = encode(texts, tokenizer, config.max_position_embeddings, fill, pairs)
    padded = pad(encoded.tokens, fill)
    found = {"token_ids": padded.token_ids, "padding_mask": padded.padding_mask}
    if config.token_types:
        found["token_type_ids"] = pad(encoded.types, 0).token_ids
    return found


def at_least_one_column(token_ids, filler: int):
    """(B, T) -> (B, max(T, 1)): a batch without rows or with empty ones may have no columns."""
    missing = tf.maximum(1 - tf.shape(token_ids)[1], 0)
    return tf.pad(token_ids, [[0, 0], [0, missing]], constant_values=filler)


def filler(config) -> int:
    """The token that stands for an empty text and, where nobody looks, for padding.

    The one that begins a text or, in models without, the one that ended the text before.
    """
    candidates = (config.bos_token_id, *config.eos_token_ids, config.pad_token_id, 0)
    return next(token for token in candidates if token is not None)


def can_be_empty(config) -> bool:
    """Whether the model has a token from which to generate without a prompt."""
    return config.bos_token_id is not None or bool(config.eos_token_ids)
