"""From texts to a padded batch of token ids: the same for training, Python and serving."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

CHUNK_BYTES = 1 << 20  # of text for the tokenizer at once: its working memory is a multiple


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
      row_splits: (n + 1,) int64, where each begins and the last ends.
      num_truncated: texts that lost their end.
    """

    values: np.ndarray
    row_splits: np.ndarray
    num_truncated: int


class Encoded(NamedTuple):
    """tokens: (B, None) int32, at least one in each row. truncated: (B,) bool, lost its end."""

    tokens: tf.RaggedTensor
    truncated: tf.Tensor


def encode(texts, tokenizer, max_length: int, filler: int) -> Encoded:
    """Texts as a model takes them whole: cut to `max_length`, and `filler` for an empty one.

    Training, Python and serving have their tokens from here.

    Args:
      texts: (B,) string.
      tokenizer: see `gpt_keras.tokenizers`.
      max_length: tokens, at least 1.
      filler: see `filler`.
    """
    tokens = tokenizer.tokenize(texts)  # (B, None)
    truncated = tokens.row_lengths() > max_length
    tokens = tokens[:, :max_length]
    empty = tf.cast(tokens.row_lengths() == 0, tokens.row_splits.dtype)
    fillers = tf.fill([tf.reduce_sum(empty)], tf.constant(filler, tokens.dtype))
    fillers = tf.RaggedTensor.from_row_lengths(fillers, empty, validate=False)
    return Encoded(tf.concat([tokens, fillers], axis=1), truncated)


def encode_all(texts: Sequence[str], tokenizer, max_length: int, filler: int) -> Rows:
    """`encode` of any number of texts, in pieces."""
    values, lengths, truncated = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], 0
    for chunk in chunks(texts):
        encoded = encode(tf.constant(chunk), tokenizer, max_length, filler)
        values.append(encoded.tokens.values.numpy())
        lengths.append(encoded.tokens.row_lengths().numpy())
        truncated += int(encoded.truncated.numpy().sum())
    row_splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Rows(np.concatenate(values), row_splits, truncated)


def chunks(texts: Sequence[str]):
    """The texts in lists of CHUNK_BYTES or a little more."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text.encode())
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def batch(texts, tokenizer, config) -> Batch:
    """A padded batch of texts, each at most as long as the model's context; in the graph too."""
    fill = filler(config)
    tokens, _ = encode(texts, tokenizer, config.max_position_embeddings, fill)
    return pad(tokens, fill)


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
