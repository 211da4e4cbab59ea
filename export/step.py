"""The step that all texts in work share: the next token of each, and a piece of the new prompts.

What it finds it writes beyond what the table says is there; the table it returns says more.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from export.apart import apart
from export.capacity import SETTINGS
from export.kv_blocks import BlockCache, BlockPool, Tokens, View
from export.memory import Memory
from export.requests import chosen
from export.slots import CREDIT, FULL, RUNNING, STOPPED, Table
from gpt_keras.generated import likeliest, logprob_of
from gpt_keras.options import LOGPROBS
from gpt_keras.sampling import History, Penalties, Sampler
from gpt_keras.stacked import StackedBackbone

CHUNK = 128  # tokens of prompts in one step
BESIDE = 64  # of them where texts go on beside them, which wait for the step


class Step:
    """One step of the texts in a table of slots.

    Args:
      model: a `CausalLM`. The weights of its blocks are copied into stacks.
      pool: where keys and values are.
      memories: by name; see `capacity.memories`.
    """

    def __init__(self, model, pool: BlockPool, memories: Mapping[str, Memory]):
        self._model, self._pool = model, pool
        self._stack = StackedBackbone(model.backbone)
        self._pages, self._settings = memories["pages"], memories["settings"]
        self._tokens, self._logprobs = memories["tokens"], memories["logprobs"]
        self._top_logprobs, self._top_tokens = memories["top_logprobs"], memories["top_tokens"]

    @property
    def weights(self):
        """The stacks, for a SavedModel to hold."""
        return self._stack.weights

    @property
    def decode(self):
        """`StackedBackbone.decode` of the stacks."""
        return self._stack.decode

    def __call__(self, table: Table) -> Table:
        """The table after one step of all texts whose owners are there."""
        slots, ready = table.slots, self._ready(table)
        singles = tf.squeeze(tf.where(ready & (slots.length - slots.filled == 1)), 1)
        others = tf.squeeze(tf.where(ready & (slots.length - slots.filled > 1)), 1)
        others = tf.gather(others, tf.argsort(tf.gather(slots.ticket, others), stable=True))
        pending = tf.gather(slots.length - slots.filled, others)  # (P,)
        most = tf.where(tf.size(singles) > 0, tf.constant(BESIDE, tf.int64), CHUNK)
        room = most - tf.cumsum(pending, exclusive=True)
        others = chosen(others, room > 0)
        counts = tf.minimum(pending, room)[: tf.size(others)]

        def step(*texts):
            columns, counters = apart(self._compute, table, *texts)
            return table._replace(
                slots=slots._replace(**columns), counters=table.counters._replace(**counters)
            )

        def without():
            return tf.cond(tf.size(singles) > 0, lambda: step(singles), lambda: table)

        return tf.cond(tf.size(others) > 0, lambda: step(singles, others, counts), without)

    def has_prompts(self, table: Table):
        """() bool: whether the next step computes a piece of a prompt."""
        pending = table.slots.length - table.slots.filled
        return tf.reduce_any(self._ready(table) & (pending > 1))

    @staticmethod
    def _ready(table):
        """(S,) bool, texts that the next step takes along."""
        slots = table.slots
        return (slots.ticket > 0) & (slots.finish == RUNNING) & (slots.credit > 0)

    def _compute(self, table, singles, others=None, counts=None):
        """One step of texts with one token to compute, and of others with `counts` tokens each."""
        ones = tf.ones_like(singles)
        if others is None:
            rows, counts = singles, ones
        else:
            rows = tf.concat([singles, others], 0)
            counts = tf.concat([ones, counts], 0)
        slots = table.slots.take(rows)  # (R,)
        starts, n = tf.cast(slots.filled, tf.int32), tf.cast(counts, tf.int32)
        texts = self._pages.rows(rows), starts, n
        tokens = Tokens.of(*texts)
        positions = tokens.positions  # (N,)
        where = tf.stack([tf.gather(tf.cast(rows, tf.int32), tokens.rows), positions], axis=1)
        token_ids = self._tokens.at(where)  # (N,)

        first, second = tokens, None
        if others is not None:
            R = tf.size(singles)
            first = Tokens.of(*(x[:R] for x in texts))
            second = View.of(self._pool, Tokens.of(*(x[R:] for x in texts)), before=R)
        cache = BlockCache(
            self._pool, None, self._pool.places(tokens), View.of(self._pool, first), second
        )
        longest = None
        if self._model.config.by_length:
            longest = tf.gather(tf.cast(slots.limit, tf.int32), tokens.rows)[:, None]
        hidden = self._stack.decode(
            token_ids[:, None],
            positions[:, None],
            lambda i: dataclasses.replace(cache, layer=i),
            longest,
        )  # (N, 1, D)
        return self._decide(table, rows, slots, n, hidden[:, 0])

    def _decide(self, table, rows, slots, counts, hidden):
        """The next token of each text that is computed to its end.

        Args:
          table: as it was before the step.
          rows: (R,) int64, slots of the texts.
          slots: their entries.
          counts: (R,) int32, tokens that were computed.
          hidden: (N, D), of all these tokens.

        Returns:
          What is new in the table: by name, columns of its slots, and counters.
        """
        filled = slots.filled + tf.cast(counts, tf.int64)
        complete = filled == slots.length
        last = chosen(tf.cumsum(counts) - 1, complete)
        rows_, deciding = chosen(rows, complete), slots.take(tf.squeeze(tf.where(complete), 1))
        logits = self._model.logits(tf.gather(hidden, last))  # (d, V)
        settings = dict(zip(SETTINGS, tf.unstack(self._settings.rows(rows_), axis=1), strict=True))
        penalties = Penalties(
            settings["repetition_penalty"],
            settings["presence_penalty"],
            settings["frequency_penalty"],
        )
        sampler = Sampler(
            settings["temperature"],
            tf.cast(deciding.top_k, tf.int32),
            settings["top_p"],
            settings["min_p"],
            deciding.seed,
        )
        step = deciding.length - deciding.prompt_length
        token = sampler(penalties(logits, lambda: self._history(rows_, deciding)), step)  # (d,)
        stop = tf.zeros_like(token, tf.bool)
        for eos in self._model.config.eos_token_ids:
            stop |= token == eos
        length = deciding.length + tf.where(stop, tf.constant(0, tf.int64), 1)
        finish = tf.where(stop, STOPPED, tf.where(length >= deciding.limit, FULL, RUNNING))
        place = tf.stack([rows_, deciding.length], axis=1)  # (d, 2)
        writes = [
            self._tokens.put_at(place, token),
            self._logprobs.put_at(place, logprob_of(logits, token)),
            self._put_likeliest(tf.squeeze(tf.where(settings["logprobs"] > 0.0), 1), place, logits),
        ]
        after = table.slots.put(rows, filled=filled, credit=slots.credit - 1)
        after = after.put(rows_, length=length, finish=finish)
        counters = table.counters.plus(
            steps=1,
            tokens=tf.size(token),
            prompt_tokens=tf.reduce_sum(
                tf.minimum(filled, slots.prompt_length)
                - tf.minimum(slots.filled, slots.prompt_length)
            ),
        )
        new = (
            {name: getattr(after, name) for name in ("filled", "length", "finish", "credit")},
            {name: getattr(counters, name) for name in ("steps", "tokens", "prompt_tokens")},
        )
        with tf.control_dependencies(writes):
            return tf.nest.map_structure(tf.identity, new)

    def _put_likeliest(self, asking, place, logits):
        """Writes down the likeliest tokens of the texts that ask for them, (a,) of (d,)."""

        def put():
            lately = tf.gather(place, asking) % [self._tokens.shape[0], CREDIT]
            logprobs, tokens = likeliest(tf.gather(logits, asking), LOGPROBS)
            writes = [
                self._top_logprobs.put_at(lately, logprobs),
                self._top_tokens.put_at(lately, tokens),
            ]
            with tf.control_dependencies(writes):
                return tf.size(asking)

        return tf.cond(tf.size(asking) > 0, put, lambda: tf.size(asking))

    def _history(self, rows, slots):
        """The texts in slots (d,) so far, which have these entries in the table."""
        longest = tf.reduce_max(slots.length)
        columns = tf.range(longest)
        in_prompt = columns < slots.prompt_length[:, None]
        in_answer = ~in_prompt & (columns < slots.length[:, None])
        return History(self._tokens.rows(rows)[:, :longest], in_prompt, in_answer)
