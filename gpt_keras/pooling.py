"""From the hidden states of a text's tokens to one vector: (B, T, D) -> (B, D).

Padding, on either side, is where the (B, T) bool mask is False; None is none at all.
"""

import dataclasses

import tensorflow as tf
from keras import ops


def first(hidden, padding_mask=None):
    """The vector of the first real token."""
    if padding_mask is None:
        return hidden[:, 0]
    return _at(hidden, ops.argmax(ops.cast(padding_mask, "int32"), axis=1))


def last(hidden, padding_mask=None):
    """The vector of the last real token."""
    if padding_mask is None:
        return hidden[:, -1]
    # Wherever the padding is: the largest index that is not padding.
    index = ops.arange(ops.shape(hidden)[1], dtype="int32")
    return _at(hidden, ops.max(index * ops.cast(padding_mask, "int32"), axis=1))


def mean(hidden, padding_mask=None):
    """The mean of the real tokens' vectors."""
    if padding_mask is None:
        return ops.mean(hidden, axis=1)
    mask = ops.cast(padding_mask, hidden.dtype)[:, None]  # (B, 1, T)
    total = ops.squeeze(ops.matmul(mask, hidden), axis=1)  # (B, D)
    return total / ops.maximum(ops.sum(mask, axis=-1), 1)


def _at(hidden, index):
    place = ops.one_hot(index, ops.shape(hidden)[1], dtype=hidden.dtype)  # (B, T)
    return ops.squeeze(ops.matmul(place[:, None], hidden), axis=1)


POOLINGS = {"mean": mean, "first": first, "last": last}


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding:
    """How the vectors of a text's tokens become its embedding.

    Attributes:
      pooling: "mean" of all tokens, the "first" or the "last".
      normalize: whether its length becomes 1.
      max_length: tokens of the longest text, what the tokenizer adds included; a longer one loses
        its end. None for all that the model takes.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: expected one of {', '.join(POOLINGS)}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length={self.max_length}: expected 1 or more, or None")

    def __call__(self, hidden, padding_mask=None):
        """(B, T, D) -> (B, D) float32."""
        pooled = ops.cast(POOLINGS[self.pooling](hidden, padding_mask), "float32")
        # An epsilon far below any square that matters: as torch.nn.functional.normalize has it.
        return tf.math.l2_normalize(pooled, -1, epsilon=1e-24) if self.normalize else pooled
