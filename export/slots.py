"""The table of the texts in work: a slot for each, and what happens to slots.

Everything here is a pure function of tensors. `batching` reads the table once it holds the lock,
applies these, and writes the table back in one op: a request that is stopped on the way has
changed nothing.
"""

from typing import NamedTuple

import tensorflow as tf

RUNNING, STOPPED, FULL = 0, 1, 2  # values of `finish`
CREDIT = 2  # steps that a text is taken along without its owner having come by
LEASE_MS = 2_000  # a slot is taken from its owner when he has been away for so long ...
LEASE_VISITS = 128  # ... and others have come by so often: a pause of the machine ends no lease


class Slots(NamedTuple):
    """One entry for each slot, (S,) int64.

    Attributes:
      ticket: proof of ownership, a number never used before; 0 where the slot is free.
      prompt_length: tokens of the prompt.
      limit: tokens of prompt and answer at which the text ends.
      seed, top_k: see `GenerationOptions`.
      filled: tokens whose keys and values are in the pool.
      length: tokens decided, prompt included.
      finish: RUNNING, STOPPED by a stop token or by the owner, or FULL.
      credit: steps left until the owner is to come by.
      visited_ms, visited: when the owner was here: time in milliseconds, and number of the visit.
    """

    ticket: tf.Tensor
    prompt_length: tf.Tensor
    limit: tf.Tensor
    seed: tf.Tensor
    top_k: tf.Tensor
    filled: tf.Tensor
    length: tf.Tensor
    finish: tf.Tensor
    credit: tf.Tensor
    visited_ms: tf.Tensor
    visited: tf.Tensor

    def put(self, slots, **columns):
        """With other entries at `slots`, (n,) int: name -> (n,) int64, or one for all."""
        n = tf.shape(slots)
        return self._replace(
            **{
                name: tf.tensor_scatter_nd_update(
                    getattr(self, name),
                    slots[:, None],
                    tf.broadcast_to(tf.cast(value, tf.int64), n),
                )
                for name, value in columns.items()
            }
        )

    def take(self, slots):
        """The entries at `slots`, (n,) int, as Slots of (n,) int64."""
        return Slots(*(tf.gather(column, slots) for column in self))


class Counters(NamedTuple):
    """What has happened since the model was loaded, scalar int64.

    Attributes:
      visits: of requests to the table.
      steps: common steps.
      tokens: decided, of answers.
      prompt_tokens: computed, of prompts.
    """

    visits: tf.Tensor
    steps: tf.Tensor
    tokens: tf.Tensor
    prompt_tokens: tf.Tensor

    def plus(self, **more):
        """With something added."""
        return self._replace(
            **{k: getattr(self, k) + tf.cast(v, tf.int64) for k, v in more.items()}
        )


class Table(NamedTuple):
    """Slots and counters, kept as one matrix (S + 1, 11) int64, the counters in its last row."""

    slots: Slots
    counters: Counters

    @staticmethod
    def shape(num_slots):
        """Of the matrix."""
        return (num_slots + 1, len(Slots._fields))

    @classmethod
    def of(cls, matrix):
        """The table in a matrix."""
        columns = tf.unstack(matrix[:-1], axis=1)
        return cls(Slots(*columns), Counters(*tf.unstack(matrix[-1, : len(Counters._fields)])))

    def matrix(self):
        """The matrix of the table."""
        row = tf.pad(tf.stack(self.counters), [[0, len(Slots._fields) - len(Counters._fields)]])
        return tf.concat([tf.stack(self.slots, axis=1), row[None]], axis=0)


def is_free(slots: Slots, now_ms, visit):
    """(S,) bool: nobody's, or of an owner who is gone for good."""
    gone = (now_ms - slots.visited_ms > LEASE_MS) & (visit - slots.visited > LEASE_VISITS)
    return (slots.ticket == 0) | gone


class Admission(NamedTuple):
    """Texts that get a slot.

    Attributes:
      texts: (n,) int32, which of those that wait; the first n.
      slots: (n,) int32.
      pages: (n, M) int32, their blocks, 0 where they need no more.
    """

    texts: tf.Tensor
    slots: tf.Tensor
    pages: tf.Tensor


def admit(free, pages, num_blocks, needed) -> Admission:
    """Gives slots and blocks to as many waiting texts, in order, as there are for.

    Args:
      free: (S,) bool, see `is_free`.
      pages: (S, M) int32, blocks of the texts in the slots; those of free slots do not count.
      num_blocks: int, blocks of the pool, numbered from 1.
      needed: (W,) int32, blocks that each waiting text may come to need, at most M.
    """
    M = pages.shape[1]
    held = tf.where(free[:, None], 0, pages)  # (S, M)
    used = tf.scatter_nd(tf.reshape(held, [-1, 1]), tf.ones([tf.size(held)], tf.int32),
                         [num_blocks + 1])  # fmt: skip
    unused = tf.cast(tf.where(used[1:] == 0)[:, 0], tf.int32) + 1  # (U,)
    slots = tf.cast(tf.where(free)[:, 0], tf.int32)  # (F,)
    ends = tf.cumsum(needed)  # (W,)
    fits = (ends <= tf.size(unused)) & (tf.range(tf.size(needed)) < tf.size(slots))
    n = tf.reduce_sum(tf.cast(fits, tf.int32))  # `ends` rises: those that fit are the first
    columns = tf.range(M)
    index = (ends - needed)[:n, None] + columns  # (n, M), into `unused`
    there = columns < needed[:n, None]
    given = tf.gather(tf.pad(unused, [[0, 1]]), tf.where(there, index, tf.size(unused)))
    return Admission(tf.range(n), slots[:n], given)  # beyond the end of `unused` stands a 0
