"""Admission: which waiting texts get a slot, and blocks for their keys and values."""

from collections.abc import Mapping

import tensorflow as tf

from export.apart import apart
from export.capacity import SETTINGS, Capacity
from export.kv_blocks import BlockPool
from export.memory import Memory
from export.requests import Request, chosen, put, waits
from export.slots import CREDIT, RUNNING, First, Table, find_room, remembered, visitors
from gpt_keras.generation import GenerationOptions


class Admission:
    """Gives slots to texts that wait for one.

    Args:
      capacity: see `Capacity`.
      pool: where keys and values are.
      memories: by name; see `capacity.memories`.
    """

    def __init__(self, capacity: Capacity, pool: BlockPool, memories: Mapping[str, Memory]):
        self._capacity, self._pool = capacity, pool
        self._table, self._pages = memories["table"], memories["pages"]
        self._tokens, self._settings = memories["tokens"], memories["settings"]

    def __call__(self, table: Table, request: Request, prompts, lengths, options, now):
        """(table, request) after texts of the request got slots, if no other has waited longer."""
        inputs = (table, request, prompts, lengths, options, now)
        slots, counters, first, news = apart(self._compute, *inputs)
        counters = table.counters._replace(**counters)
        return Table(slots, counters, first), request._replace(**news)

    def _compute(self, table, request, prompts, lengths, options, now):
        """What is new then: slots, counters by name, first, and entries of the request by name."""
        began, visit = request.since, table.counters.visits
        first = table.first.or_else(First(began, now, visit), visitors(self._capacity.slots))
        mine = first.since == began
        table, request = tf.cond(
            mine,
            lambda: self._admit(table, request, prompts, lengths, options, now),
            lambda: (table, request),
        )
        # Whoever has got something makes room, and begins to wait anew if he wants more.
        served = mine & ((request.since != began) | ~tf.reduce_any(waits(request)))
        return (
            table.slots,
            {"shared_tokens": table.counters.shared_tokens},
            first.without(began, served),
            {name: getattr(request, name) for name in ("slots", "tickets", "seen", "since")},
        )

    def _admit(self, table, request, prompts, lengths, options, now):
        """Gives slots to waiting texts of the request, in order, as far as there is room."""
        waiting = tf.squeeze(tf.where(waits(request)), 1)  # (W,)

        def next_one(i, _, table, request):
            text = tf.gather(waiting, i)
            of_text = (tf.gather(x, text) for x in (prompts, lengths, *options))
            fits, table, request = self._admit_one(table, request, text, now, *of_text)
            return i + 1, fits, table, request

        state = (tf.constant(0), tf.constant(True), table, request)
        _, _, table, request = tf.while_loop(
            lambda i, fits, *_: fits & (i < tf.size(waiting)),
            next_one,
            state,
            shape_invariants=tf.nest.map_structure(lambda x: x.shape, state),
            parallel_iterations=1,
        )
        return table, request

    def _admit_one(self, table, request, text, now, prompt, length, *options):
        """Gives a slot to a text, () int64, if there is room: (whether, table, request)."""
        options = GenerationOptions(*options)
        capacity, visit = self._capacity, table.counters.visits
        prompt = prompt[:length]  # (T,)
        every = tf.range(capacity.slots)
        limit = length + options.max_new_tokens
        held = remembered(table.slots, self._tokens.rows(every)[:, :length], prompt, capacity.block)
        if self._pool.config.by_length:  # a text of another length has other keys
            held = tf.zeros_like(held)
        given = find_room(
            table.slots,
            self._pages.rows(every),
            capacity.blocks,
            capacity.block,
            (limit + capacity.block - 1) // capacity.block,
            held,
        )
        shared = given.shared * capacity.block  # tokens

        def take():
            # If this visit is stopped, the next one must not believe what is overwritten now.
            before = Table.of(self._table.read())
            filled = tf.minimum(before.slots.filled, given.filled)
            before = before._replace(slots=before.slots._replace(filled=filled))
            with tf.control_dependencies([self._table.assign(before.matrix())]):
                row = tf.pad(prompt, [[0, capacity.context + 1 - length]])[None]  # (1, C+1)
                settings = [tf.cast(getattr(options, name), tf.float32) for name in SETTINGS]
                slot, new = given.slot[None], given.pages[given.shared :]
                writes = [
                    self._pages.put_rows(slot, given.pages[None]),
                    self._pool.clear(chosen(new, new > 0)),
                    self._tokens.put_rows(slot, row),
                    self._settings.put_rows(slot, tf.stack(settings)[None]),
                ]
            taken = table.slots._replace(filled=given.filled).put(
                slot,
                ticket=visit,
                prompt_length=length,
                limit=limit,
                seed=options.seed,
                top_k=options.top_k,
                filled=shared,
                length=length,
                finish=RUNNING,
                credit=CREDIT,
                visited_ms=now,
                visited=visit,
            )
            with tf.control_dependencies(writes):
                slots = tf.nest.map_structure(tf.identity, taken)
            counters = table.counters.plus(shared_tokens=shared)
            at = text[None]
            return Table(slots, counters, table.first), request._replace(
                slots=put(request.slots, at, slot),
                tickets=put(request.tickets, at, visit[None]),
                seen=put(request.seen, at, tf.cast(length + shared, tf.int64)[None]),
                since=now,
            )

        return given.fits, *tf.cond(given.fits, take, lambda: (table, request))
