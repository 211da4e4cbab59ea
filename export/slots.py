"""The table of the texts in work: a slot for each, and what happens to slots.

Everything here is a pure function of tensors. `batching` reads the table once it holds the lock,
applies these, and writes the table back in one op: a request that is stopped on the way has
changed nothing.
"""

from typing import NamedTuple

import tensorflow as tf

RUNNING, STOPPED, FULL = 0, 1, 2  # values of `finish`
CREDIT = 4  # steps that a text is taken along without its owner having come by
LEASE_MS = 2_000  # a slot is taken from its owner when he has been away for so long ...
LEASE_ROUNDS = 8  # ... and everybody else may have come so often: a pause ends no lease
ABSENT_MS, ABSENT_ROUNDS = 500, 2  # the same for the place of whoever is first in the queue


class Slots(NamedTuple):
    """One entry for each slot, (S,) int64.

    Attributes:
      ticket: proof of ownership, a number never used before; 0 where the slot is free.
      prompt_length: tokens of the prompt.
      limit: tokens of prompt and answer at which the text ends.
      seed, top_k: see `GenerationOptions`.
      filled: tokens whose keys and values are in the pool; in a free slot what is left of them.
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
      shared_tokens: of prompts, not computed: another text with the same beginning had them.
    """

    visits: tf.Tensor
    steps: tf.Tensor
    tokens: tf.Tensor
    prompt_tokens: tf.Tensor
    shared_tokens: tf.Tensor

    def plus(self, **more):
        """With something added."""
        return self._replace(
            **{k: getattr(self, k) + tf.cast(v, tf.int64) for k, v in more.items()}
        )


class First(NamedTuple):
    """The request that gets room before all others that wait, scalar int64.

    Attributes:
      since: ms, when it began to wait; 0 where there is none.
      visited_ms, visited: as of a slot.
    """

    since: tf.Tensor
    visited_ms: tf.Tensor
    visited: tf.Tensor

    def or_else(self, other: "First", visitors: int) -> "First":
        """The first of this one and of another, which is here now; see `away` for `visitors`."""
        gone = (self.since == 0) | away(
            self, other.visited_ms, other.visited, ABSENT_MS, ABSENT_ROUNDS * visitors
        )
        earlier = gone | (other.since <= self.since)
        return First(*(tf.where(earlier, b, a) for a, b in zip(self, other, strict=True)))

    def without(self, since, gives_up) -> "First":
        """None, if it is the one that waits `since` then and gives its place up, () bool."""
        mine = gives_up & (self.since == since)
        return self._replace(since=tf.where(mine, tf.zeros_like(since), self.since))


class Table(NamedTuple):
    """Kept as one matrix (S + 1, 11) int64, the slots first, all else in its last row."""

    slots: Slots
    counters: Counters
    first: First

    @staticmethod
    def shape(num_slots):
        """Of the matrix."""
        return (num_slots + 1, len(Slots._fields))

    @classmethod
    def of(cls, matrix):
        """The table in a matrix."""
        columns, row = tf.unstack(matrix[:-1], axis=1), tf.unstack(matrix[-1])
        n, m = len(Counters._fields), len(First._fields)
        return cls(Slots(*columns), Counters(*row[:n]), First(*row[n : n + m]))

    def matrix(self):
        """The matrix of the table."""
        row = tf.stack([*self.counters, *self.first])
        row = tf.pad(row, [[0, len(Slots._fields) - row.shape[0]]])
        return tf.concat([tf.stack(self.slots, axis=1), row[None]], axis=0)


def visitors(num_slots: int) -> int:
    """The most requests that visit the table in turn: owners, and one who waits at the door."""
    return num_slots + 1


def away(visitor: Slots | First, now_ms, visit, milliseconds, visits):
    """Whether a visitor has been away for longer than both of these.

    Time alone would not do, since machines stand still, rounds of visits may be long, and clocks
    are set; nor visits, of which there are thousands a second where there is nothing to compute.
    """
    return (now_ms - visitor.visited_ms > milliseconds) & (visit - visitor.visited > visits)


def release(slots: Slots, now_ms, visit) -> Slots:
    """Frees the slots whose owner is gone for good.

    At once and for all who look, or the text would go on in blocks that another has got meanwhile.
    """
    gone = away(slots, now_ms, visit, LEASE_MS, LEASE_ROUNDS * visitors(slots.ticket.shape[0]))
    return slots._replace(ticket=tf.where(gone, tf.zeros_like(slots.ticket), slots.ticket))


def remembered(slots: Slots, tokens, prompt, block):
    """How much of a prompt the blocks of each slot hold already, in work or left over.

    Args:
      slots: entries of S slots.
      tokens: (S, T) int32, the texts in them.
      prompt: (T,) int32, the tokens of one prompt.
      block: int, tokens of a block.

    Returns:
      (S,) int32, blocks at the beginning. Never the whole prompt: its last token decides the next.
    """
    same = tf.math.cumprod(tf.cast(tokens == prompt, tf.int32), axis=1)  # (S, T)
    most = tf.minimum(tf.cast(slots.filled, tf.int32), tf.size(prompt) - 1)
    return tf.minimum(tf.reduce_sum(same, axis=1), most) // block


class Room(NamedTuple):
    """A slot for a text, and blocks.

    Attributes:
      fits: () bool; nothing else counts where it is False.
      slot: () int32.
      pages: (M,) int32, the text's blocks: first those it shares; 0 where it needs no more.
      shared: () int32, blocks whose keys and values are there already.
      filled: (S,) int64, what is left of the texts in free slots, the given one included.
    """

    fits: tf.Tensor
    slot: tf.Tensor
    pages: tf.Tensor
    shared: tf.Tensor
    filled: tf.Tensor


def find_room(slots: Slots, pages, num_blocks, block, needed, known) -> Room:
    """A slot and blocks for a text, if there are any.

    Blocks that several slots have are free when none of these is in work. What the texts in free
    slots have left behind goes as late as possible, the oldest first.

    Args:
      slots: entries of S slots.
      pages: (S, M) int32, blocks of the texts that are or were in them.
      num_blocks: int, blocks of the pool, numbered from 1.
      block: int, tokens of a block.
      needed: () int32, blocks that the text may come to need, at most M.
      known: (S,) int32, blocks of its beginning that a slot's text has, see `remembered`.
    """
    M, free = pages.shape[1], slots.ticket == 0
    columns = tf.range(M)
    source = tf.argmax(known)
    shared = known[source]
    own = tf.where(columns < shared, pages[source], 0)  # (M,)

    held = tf.concat([tf.where(free[:, None], 0, pages), own[None]], 0)  # (S+1, M)
    used = tf.scatter_nd(held[..., None], tf.ones_like(held), [num_blocks + 1])
    left = free[:, None] & (columns * block < tf.cast(slots.filled, tf.int32)[:, None])  # (S, M)
    since = tf.where(free & (slots.filled > 0), slots.visited, -1)  # (S,)
    age = tf.tensor_scatter_nd_max(
        tf.fill([num_blocks + 1], tf.constant(-1, tf.int64)),
        tf.where(left, pages, 0)[..., None],
        tf.broadcast_to(since[:, None], tf.shape(pages)),
    )
    unused = tf.squeeze(tf.where(used[1:] == 0), 1) + 1  # (U,)
    unused = tf.gather(unused, tf.argsort(tf.gather(age, unused), stable=True))
    given = tf.cast(unused[: needed - shared], tf.int32)
    slot = tf.argmin(tf.where(free, since, tf.int64.max), output_type=tf.int32)

    gone = tf.scatter_nd(given[:, None], tf.ones_like(given), [num_blocks + 1]) > 0
    intact = tf.reduce_min(tf.where(tf.gather(gone, pages), columns, M), axis=1)  # (S,)
    intact = tf.where(tf.range(tf.size(intact)) == slot, 0, intact)
    filled = tf.minimum(slots.filled, tf.cast(intact * block, tf.int64))
    row = tf.concat([own[:shared], given], 0)
    return Room(
        fits=tf.reduce_any(free) & (tf.size(given) == needed - shared),
        slot=slot,
        pages=tf.pad(row, [[0, M - tf.size(row)]]),
        shared=shared,
        filled=tf.where(free, filled, slots.filled),
    )
