"""From texts to a padded batch of token ids: the same for training, Python and serving."""

from typing import NamedTuple

import tensorflow as tf


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
