"""What a request knows of its texts from visit to visit, see `batching`."""

import functools
from typing import NamedTuple

import tensorflow as tf

from gpt_keras.generated import Said

FINE, WAITED, LOST = 0, 1, 2  # what has become of a request
NEW, AT_DOOR, AT_TABLE = 0, 1, 2  # where it makes its visit


class Request(NamedTuple):
    """What visits know of a request with B texts.

    Attributes:
      slots: (B,) int32, the slot of each text that has one.
      tickets: (B,) int64, 0 for a text that has no slot.
      done: (B,) bool, answered.
      seen: (B,) int64, how far each text was at the last visit.
      since: () int64 ms, when one of the texts last got a slot.
      trouble: () int32, FINE, WAITED or LOST.
      lengths: (B,) int32, tokens of each answer that visits have taken along.
      stopped: (B,) bool, as in `Generated`.
      enough: (B,) bool, texts that are to end here, whatever they have come to.
      place: () int32, NEW, AT_DOOR or AT_TABLE.
    """

    slots: tf.Tensor
    tickets: tf.Tensor
    done: tf.Tensor
    seen: tf.Tensor
    since: tf.Tensor
    trouble: tf.Tensor
    lengths: tf.Tensor
    stopped: tf.Tensor
    enough: tf.Tensor
    place: tf.Tensor

    @classmethod
    def begin(cls, done, since) -> "Request":
        """One that has no slots yet."""
        zeros = tf.zeros_like(done, tf.int32)
        never = tf.zeros_like(done)
        return cls(
            slots=zeros,
            tickets=tf.cast(zeros, tf.int64),
            done=done,
            seen=tf.cast(zeros, tf.int64),
            since=since,
            trouble=tf.constant(FINE),
            lengths=zeros,
            stopped=never,
            enough=never,
            place=tf.constant(NEW),
        )

    @classmethod
    def specs(cls) -> "Request":
        """Of its tensors."""
        vector = functools.partial(tf.TensorSpec, [None])
        scalar = functools.partial(tf.TensorSpec, [])
        return cls(
            slots=vector(tf.int32),
            tickets=vector(tf.int64),
            done=vector(tf.bool),
            seen=vector(tf.int64),
            since=scalar(tf.int64),
            trouble=scalar(tf.int32),
            lengths=vector(tf.int32),
            stopped=vector(tf.bool),
            enough=vector(tf.bool),
            place=scalar(tf.int32),
        )


class News(NamedTuple):
    """The m tokens that a visit takes along, of all texts of the request.

    Attributes:
      text, column: (m,) int32, where they belong in `Said`.
      token, logprob: (m,) int32 and float32.
      top_logprobs, top_tokens: (m, n) float32 and int32.
    """

    text: tf.Tensor
    column: tf.Tensor
    token: tf.Tensor
    logprob: tf.Tensor
    top_logprobs: tf.Tensor
    top_tokens: tf.Tensor

    @classmethod
    def specs(cls) -> "News":
        """Of its tensors."""
        vector = functools.partial(tf.TensorSpec, [None])
        matrix = functools.partial(tf.TensorSpec, [None, None])
        return cls(
            text=vector(tf.int32),
            column=vector(tf.int32),
            token=vector(tf.int32),
            logprob=vector(tf.float32),
            top_logprobs=matrix(tf.float32),
            top_tokens=matrix(tf.int32),
        )

    @classmethod
    def nothing(cls) -> "News":
        """No tokens."""
        return cls(*(tf.zeros([0] * spec.shape.rank, spec.dtype) for spec in cls.specs()))

    def added_to(self, said: Said) -> Said:
        """With these tokens in their places."""
        where = tf.stack([self.text, self.column], axis=1)

        def put(part):
            pairs = zip(said[part], self[2:][part], strict=True)
            return tuple(tf.tensor_scatter_nd_update(old, where, new) for old, new in pairs)

        tokens, tops = slice(2), slice(2, 4)
        asked = tf.size(self.top_tokens) > 0
        return Said(*put(tokens), *tf.cond(asked, lambda: put(tops), lambda: said[tops]))


def waits(request):
    """(B,) bool: texts without a slot whose answer is still to come."""
    return (request.tickets == 0) & ~request.done


def owned(table, request):
    """(B,) bool: texts that have a slot."""
    return (request.tickets > 0) & (tf.gather(table.slots.ticket, request.slots) == request.tickets)


def progress(table, request):
    """(B,) int64, a number that grows with each step of a text; of no meaning without a slot."""
    return tf.gather(table.slots.filled + table.slots.length, request.slots)


def put(tensor, rows, values):
    """`tensor` with other entries at `rows`, (n,) int."""
    return tf.tensor_scatter_nd_update(tensor, rows[:, None], values)


def chosen(tensor, mask):
    """Entries of `tensor` (n,) where `mask` (n,) is; `tf.boolean_mask` takes six times the ops."""
    return tf.gather(tensor, tf.squeeze(tf.where(mask), 1))
