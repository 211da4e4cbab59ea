"""Continuous batching inside the graph: requests that run at once share each step.

Every request is a loop of visits to a table of slots, one visit at a time. A visitor who finds that
his texts have not moved since his last visit computes a step or two for ALL texts in the table,
their next tokens and a piece of the prompts that are new; the others then find their work done
(flat combining; Hendler, Incze, Shavit & Tzafrir, 2010). Texts join and leave at any step.
Requests that find no slot for any of their texts queue at a door; the first of them visits alone.

Requests may be stopped at any op, by a deadline above all. So nothing counts until the table is
written, in one op, at the end of a visit; whatever else was written before lies beyond what the
table says is there, and the next visitor writes the same again. An owner who stays away is not
worked for, and loses his slots in the end.

A visitor takes the new tokens of his texts along. Between visits he looks for stop strings in them,
which the step knows nothing of; a few tokens too many may have been computed by then.
"""

import uuid

import tensorflow as tf

from export import checks
from export.admission import Admission
from export.capacity import Capacity, memories
from export.kv_blocks import BlockPool
from export.memory import Memory
from export.requests import (
    AT_DOOR,
    AT_TABLE,
    FINE,
    LOST,
    NEW,
    WAITED,
    News,
    Request,
    chosen,
    owned,
    progress,
    put,
    waits,
)
from export.slots import CREDIT, LEASE_MS, RUNNING, STOPPED, Table, release
from export.step import Step
from export.turns import Turns
from gpt_keras.generated import Generated, Said, largest
from gpt_keras.generation import GenerationOptions
from gpt_keras.options import generation_options
from gpt_keras.sampling import fresh_seeds
from gpt_keras.stop_strings import NEVER, StopStrings

STEPS = 2  # of a visit: the visits of the others between them cost several milliseconds


class Batcher:
    """The table, the pool, and the step that all requests share.

    Args:
      model: a `CausalLM`. Its weights are copied, block by block, into stacks.
      capacity: see `Capacity`.
    """

    def __init__(self, model, capacity: Capacity):
        self.capacity = capacity
        self._model = model
        name = f"batcher_{uuid.uuid4().hex}"
        self._memories = {
            key: Memory(f"{name}_{key}", spec.shape, spec.dtype)
            for key, spec in memories(model.config, capacity, model.compute_dtype).items()
        }
        self._table = self._memories["table"]
        self._tokens, self._logprobs = self._memories["tokens"], self._memories["logprobs"]
        self._top_logprobs = self._memories["top_logprobs"]
        self._top_tokens = self._memories["top_tokens"]
        self._pool = BlockPool(self._memories["pool"], model.config, capacity.blocks)
        self._step = Step(model, self._pool, self._memories)
        self._admission = Admission(capacity, self._pool, self._memories)
        accepted = generation_options(capacity.context)
        numbers, matrix = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None], tf.int32)
        options = GenerationOptions(**{o.name: tf.TensorSpec([None], o.dtype) for o in accepted})
        specs = Request.specs(), matrix, numbers, options
        results = Request.specs(), News.specs()
        self._visits = Turns(f"{name}_visits", self._visit, specs, results)
        self._door = Turns(f"{name}_door", self._enter, specs, results)

    @property
    def state(self):
        """All variables that the step reads, and the memories, for a SavedModel to hold."""
        inside = {id(v) for block in self._model.backbone.blocks for v in block.variables}
        outside = [v.value for v in self._model.variables if id(v) not in inside]
        return [*outside, *self._step.weights, *self._memories.values()]

    @property
    def decode(self):
        """`StackedBackbone.decode` of the weights that `state` has."""
        return self._step.decode

    def generate(
        self, token_ids, lengths, options: GenerationOptions, stop: StopStrings | None = None
    ) -> Generated:
        """As `generation.generate_tokens`, together with whatever other requests there are."""
        options = options._replace(
            seed=fresh_seeds(options.seed),
            max_new_tokens=tf.minimum(options.max_new_tokens, self.capacity.context - lengths),
        )
        request = Request.begin(options.max_new_tokens <= 0, since=_now_ms())
        said = Said.nothing(
            tf.size(lengths), largest(options.max_new_tokens), largest(options.logprobs)
        )
        text_tail = tf.fill(tf.shape(lengths), "")  # this and the next: `StopStrings.follow_all`
        count = tf.fill(tf.shape(lengths), NEVER)

        def turn(request, said, text_tail, count):
            before, inputs = request.lengths, (request, token_ids, lengths, options)
            # At first straight to the table, so that those who come together begin together.
            request, news = tf.cond(
                (request.place != NEW) & tf.reduce_all(request.tickets == 0),
                lambda: self._door(*inputs),
                lambda: self._visits(*inputs),
            )
            said = news.added_to(said)
            if stop is not None:
                text_tail, count = stop.follow_all(
                    text_tail, count, said.tokens, before, request.lengths
                )
            request = request._replace(enough=count < NEVER, place=tf.constant(AT_TABLE))
            return request, said, text_tail, count

        state = (request, said, text_tail, count)
        shapes = tf.nest.map_structure(lambda x: tf.TensorShape([None] * len(x.shape)), state)
        request, said, _, count = tf.while_loop(
            lambda request, *_: ~tf.reduce_all(request.done),
            turn,
            state,
            shape_invariants=shapes,
            parallel_iterations=1,
        )
        capacity = self.capacity
        problems = [
            checks.once(
                f"no room for {capacity.wait:g} s: other requests hold the {capacity.slots} slots "
                f"or the {capacity.tokens} tokens of cache; try again, or export with larger "
                "--max_slots or --cache_tokens",
                request.trouble == WAITED,
            ),
            checks.once(
                f"a slot was given away as this request did not run for {LEASE_MS // 1000} s",
                request.trouble == LOST,
            ),
        ]
        request = checks.guarded(problems, request)
        stopped = request.stopped | (count < NEVER)
        return Generated.of(said, tf.minimum(request.lengths, count), stopped, options.logprobs)

    def stats(self):
        """Name -> (1,) int64: the table's state, for monitoring."""
        slots, counters, _ = Table.of(self._table.read())
        taken = release(slots, _now_ms(), counters.visits).ticket > 0
        figures = {"slots_in_use": tf.reduce_sum(tf.cast(taken, tf.int64))}
        return {k: v[None] for k, v in (figures | counters._asdict()).items()}

    def _enter(self, request: Request, prompts, lengths, options) -> tuple[Request, News]:
        """Visits until a text has a slot, while other requests that have none wait outside.

        Or each of them would visit in turn, and those who have slots would wait for them all.
        """
        return tf.while_loop(
            lambda request, _: tf.reduce_all(request.tickets == 0) & ~tf.reduce_all(request.done),
            lambda request, _: self._visits(request, prompts, lengths, options),
            (request._replace(place=tf.constant(AT_DOOR)), News.nothing()),
            shape_invariants=tf.nest.map_structure(lambda spec: spec.shape, self._visits.results),
            parallel_iterations=1,
        )

    def _visit(self, request: Request, prompts, lengths, options) -> tuple[Request, News]:
        now = _now_ms()
        table = Table.of(self._table.read())
        counters = table.counters.plus(visits=1)
        table = table._replace(slots=release(table.slots, now, counters.visits), counters=counters)
        here = owned(table, request)
        lost = tf.reduce_any((request.tickets > 0) & ~here)
        slots = table.slots.put(
            chosen(request.slots, here),
            credit=CREDIT,
            visited_ms=now,
            visited=table.counters.visits,
        )
        slots = slots.put(chosen(request.slots, here & request.enough), finish=STOPPED)
        table = table._replace(slots=slots)
        tickets = request.tickets
        table, request = tf.cond(
            tf.reduce_any(waits(request)),
            lambda: self._admission(table, request, prompts, lengths, options, now),
            lambda: (table, request),
        )
        # Whoever has come to let a text go need not wait for a step, and whoever has got room lets
        # those in who came with him: they would each begin a step later than the one before.
        moved = owned(table, request) & (
            (progress(table, request) != request.seen)
            | request.enough
            | (request.tickets != tickets)
        )
        table = tf.cond(tf.reduce_any(moved), lambda: table, lambda: self._steps(table))
        request = request._replace(seen=progress(table, request))
        request, news = self._fetch(table, request, options)

        finish = tf.gather(table.slots.finish, request.slots)
        ended = owned(table, request) & (finish != RUNNING)
        table, request = tf.cond(
            tf.reduce_any(ended),
            lambda: self._leave(table, request, ended),
            lambda: (table, request),
        )
        # Whoever has no slot, and goes to the door next, will stand behind others there.
        goes = (request.place != AT_DOOR) & tf.reduce_all(request.tickets == 0)
        table = table._replace(first=table.first.without(request.since, goes))
        longest_wait = int(self.capacity.wait * 1000)
        late = tf.reduce_any(waits(request)) & (now - request.since > longest_wait)
        trouble = tf.where(lost, LOST, tf.where(late, WAITED, FINE))
        table, request = tf.cond(
            trouble != FINE,
            lambda: self._give_up(table, request, trouble),
            lambda: (table, request),
        )
        with tf.control_dependencies([self._table.assign(table.matrix())]):
            return tf.nest.map_structure(tf.identity, (request, news))

    def _steps(self, table):
        """Up to STEPS steps; one alone where texts wait for their first token."""

        def more(i, table):
            return (i == 0) | ((i < STEPS) & ~self._step.has_prompts(table))

        _, table = tf.while_loop(
            more,
            lambda i, table: (i + 1, self._step(table)),
            (tf.constant(0), table),
            parallel_iterations=1,
        )
        return table

    def _fetch(self, table, request, options):
        """Takes along what was decided since the last visit."""
        mine = table.slots.take(request.slots)
        prompt = tf.cast(mine.prompt_length, tf.int32)  # (B,)
        lengths = tf.where(
            owned(table, request), tf.cast(mine.length, tf.int32) - prompt, request.lengths
        )
        count = lengths - request.lengths
        new = tf.where(tf.range(tf.reduce_max(count)) < count[:, None])  # (m, 2)
        text, column = tf.unstack(tf.cast(new, tf.int32), axis=1)
        column += tf.gather(request.lengths, text)
        slots, position = tf.gather(request.slots, text), tf.gather(prompt, text) + column
        where = tf.stack([slots, position], axis=1)
        lately = tf.stack([slots, position % CREDIT], axis=1)
        n = tf.reduce_max(options.logprobs)
        news = News(
            text,
            column,
            self._tokens.at(where),
            self._logprobs.at(where),
            self._top_logprobs.at(lately)[:, :n],
            self._top_tokens.at(lately)[:, :n],
        )
        return request._replace(lengths=lengths), news

    def _leave(self, table, request, ended):
        """Frees the slots of texts that have ended, (B,) bool."""
        texts = tf.squeeze(tf.where(ended), 1)  # (n,)
        slots = tf.gather(request.slots, texts)
        finish = tf.gather(table.slots.finish, slots)
        request = request._replace(
            tickets=put(request.tickets, texts, tf.zeros_like(finish)),
            done=request.done | ended,
            stopped=put(request.stopped, texts, finish == STOPPED),
        )
        return table._replace(slots=table.slots.put(slots, ticket=0)), request

    def _give_up(self, table, request, trouble):
        """Frees all slots of the request, and ends it."""
        slots = chosen(request.slots, owned(table, request))
        request = request._replace(done=tf.ones_like(request.done), trouble=trouble)
        return table._replace(slots=table.slots.put(slots, ticket=0)), request


def _now_ms():
    return tf.cast(tf.timestamp() * 1000.0, tf.int64)
