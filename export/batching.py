"""Continuous batching inside the graph: requests that run at once share each step.

Every request is a loop of visits to a table of slots, one visit at a time. A visitor who finds that
his texts have not moved since his last visit computes a step or two for ALL texts in the table,
their next tokens and a piece of the prompts that are new; the others then find their work done
(flat combining; Hendler, Incze, Shavit & Tzafrir, 2010). Texts join and leave at any step.

Requests may be stopped at any op, by a deadline above all. So nothing counts until the table is
written, in one op, at the end of a visit; whatever else was written before lies beyond what the
table says is there, and the next visitor writes the same again. An owner who stays away is not
worked for, and loses his slots in the end.

A visitor takes the new tokens of his texts along. Between visits he looks for stop strings in them,
which the step knows nothing of; a few tokens too many may have been computed by then.
"""

import functools
import uuid

import tensorflow as tf

from export import checks
from export.capacity import SETTINGS, Capacity, memories
from export.kv_blocks import BlockPool
from export.memory import Memory
from export.requests import FINE, LOST, WAITED, News, Request, owned, progress, waits
from export.slots import CREDIT, LEASE_MS, RUNNING, STOPPED, Table, admit, release, remembered
from export.step import Step
from gpt_keras.generation import Generated, GenerationOptions, Said, largest
from gpt_keras.options import generation_options
from gpt_keras.sampling import fresh_seeds
from gpt_keras.stop_strings import NEVER, StopStrings

STEPS = 2  # of a visit: the visits of the others between them cost several milliseconds
QUEUE = 4096  # visits that wait for their turn, at most one a request


class Batcher:
    """The table, the pool, and the step that all requests share.

    Args:
      model: a `CausalLM`. Its weights are copied, block by block, into stacks.
      capacity: see `Capacity`.
    """

    def __init__(self, model, capacity: Capacity):
        self.capacity = capacity
        self._model = model
        self._name = f"batcher_{uuid.uuid4().hex}"
        self._memories = {
            name: Memory(f"{self._name}_{name}", spec.shape, spec.dtype)
            for name, spec in memories(model.config, capacity, model.compute_dtype).items()
        }
        self._table, self._pages = self._memories["table"], self._memories["pages"]
        self._tokens, self._logprobs = self._memories["tokens"], self._memories["logprobs"]
        self._top_logprobs = self._memories["top_logprobs"]
        self._top_tokens = self._memories["top_tokens"]
        self._settings = self._memories["settings"]
        self._pool = BlockPool(self._memories["pool"], model.config, capacity.blocks)
        self._step = Step(model, self._pool, self._memories)
        self._visits = self._function_of_visits()

    @property
    def state(self):
        """All variables that the step reads, and the memories, for a SavedModel to hold."""
        inside = {id(v) for block in self._model.backbone.blocks for v in block.variables}
        outside = [v.value for v in self._model.variables if id(v) not in inside]
        return [*outside, *self._step.weights, *self._memories.values()]

    def generate(
        self, token_ids, lengths, options: GenerationOptions, stop: StopStrings | None = None
    ) -> Generated:
        """As `generation.generate_tokens`, together with whatever other requests there are."""
        prompts = token_ids
        arrival = _now_ms()
        options = options._replace(
            seed=fresh_seeds(options.seed),
            max_new_tokens=tf.minimum(options.max_new_tokens, self.capacity.context - lengths),
        )
        B = tf.shape(lengths)[0]
        request = Request(
            slots=tf.zeros([B], tf.int32),
            tickets=tf.zeros([B], tf.int64),
            done=options.max_new_tokens <= 0,
            seen=tf.zeros([B], tf.int64),
            since=arrival,
            trouble=tf.constant(FINE),
            lengths=tf.zeros([B], tf.int32),
            stopped=tf.zeros([B], tf.bool),
            enough=tf.zeros([B], tf.bool),
        )
        said = Said.nothing(B, largest(options.max_new_tokens), largest(options.logprobs))
        text_tail, count = tf.fill([B], ""), tf.fill([B], NEVER)  # see `StopStrings.follow_all`

        def turn(request, said, text_tail, count):
            before = request.lengths
            request, news = self._in_turn(request, prompts, lengths, options)
            said = news.added_to(said)
            if stop is not None:
                text_tail, count = stop.follow_all(
                    text_tail, count, said.tokens, before, request.lengths
                )
            return request._replace(enough=count < NEVER), said, text_tail, count

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

    def _in_turn(self, *inputs) -> tuple[Request, News]:
        """`_visit`, when all earlier visits are over, whichever requests they are of.

        A batch function with one thread and batches of one is a lock that a deadline cannot break.
        TensorFlow's mutex is none: when a request is stopped that waits for it, it is unlocked
        whoever holds it. (This never merges requests, so none runs under another's deadline.)
        """
        function = self._visits
        outputs = tf.raw_ops.BatchFunction(
            in_tensors=[tensor[None] for tensor in tf.nest.flatten(inputs)],
            captured_tensors=function.captured_inputs,
            f=function,
            Tout=[output.dtype for output in function.outputs],
            num_batch_threads=1,
            max_batch_size=1,
            batch_timeout_micros=0,
            max_enqueued_batches=QUEUE,
            shared_name=f"{self._name}_visits",
        )
        for output, inside in zip(outputs, function.outputs, strict=True):
            output.set_shape(inside.shape)
        form = (inputs[0], News(*News._fields))
        return tf.nest.pack_sequence_as(form, [output[0] for output in outputs])

    def _function_of_visits(self):
        """`_visit` as a function of tensors that have one more dimension, of size 1, in front."""
        vector = functools.partial(tf.TensorSpec, [1, None])
        number = functools.partial(tf.TensorSpec, [1])
        request = Request(
            slots=vector(tf.int32),
            tickets=vector(tf.int64),
            done=vector(tf.bool),
            seen=vector(tf.int64),
            since=number(tf.int64),
            trouble=number(tf.int32),
            lengths=vector(tf.int32),
            stopped=vector(tf.bool),
            enough=vector(tf.bool),
        )
        matrix = functools.partial(tf.TensorSpec, [1, None, None])
        news = News(
            text=vector(tf.int32),
            column=vector(tf.int32),
            token=vector(tf.int32),
            logprob=vector(tf.float32),
            top_logprobs=matrix(tf.float32),
            top_tokens=matrix(tf.int32),
        )
        accepted = generation_options(self.capacity.context)
        options = GenerationOptions(**{option.name: vector(option.dtype) for option in accepted})
        specs = (request, matrix(tf.int32), vector(tf.int32), options)

        def visits(*tensors):
            inputs = tf.nest.pack_sequence_as(specs, [tensor[0] for tensor in tensors])
            outputs = tf.nest.flatten(self._visit(*inputs))
            pairs = zip(outputs, tf.nest.flatten((request, news)), strict=True)
            return [tf.ensure_shape(x, spec.shape[1:])[None] for x, spec in pairs]

        function = tf.function(visits, autograph=False)
        return function.get_concrete_function(*tf.nest.flatten(specs))

    def _visit(self, request: Request, prompts, lengths, options) -> tuple[Request, News]:
        now = _now_ms()
        table = Table.of(self._table.read())
        counters = table.counters.plus(visits=1)
        table = table._replace(slots=release(table.slots, now, counters.visits), counters=counters)
        here = owned(table, request)
        lost = tf.reduce_any((request.tickets > 0) & ~here)
        table = table._replace(
            slots=table.slots.put(
                tf.boolean_mask(request.slots, here),
                credit=CREDIT,
                visited_ms=now,
                visited=table.counters.visits,
            ).put(
                tf.boolean_mask(request.slots, here & request.enough),
                finish=STOPPED,
            )
        )
        tickets = request.tickets
        table, request = tf.cond(
            tf.reduce_any(waits(request)),
            lambda: self._queue(table, request, prompts, lengths, options, now),
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
        """Up to STEPS steps; one alone where texts wait for their first token, or for room."""

        def more(i, table):
            none_waits = ~self._step.has_prompts(table) & (table.first.since == 0)
            return (i == 0) | ((i < STEPS) & none_waits)

        _, table = tf.while_loop(
            more,
            lambda i, table: (i + 1, self._step(table)),
            (tf.constant(0), table),
            parallel_iterations=1,
        )
        return table

    def _queue(self, table, request, prompts, lengths, options, now):
        """Admits texts of the request if no other has waited longer."""
        began = request.since
        first = table.first.or_else(began, now)
        table = table._replace(first=first)
        mine = first.since == began
        table, request = tf.cond(
            mine,
            lambda: self._admit(table, request, prompts, lengths, options, now),
            lambda: (table, request),
        )
        # Whoever has got something makes room, and begins to wait anew if he wants more.
        served = mine & ((request.since != began) | ~tf.reduce_any(waits(request)))
        since = tf.where(served, tf.zeros_like(began), first.since)
        return table._replace(first=first._replace(since=since)), request

    def _admit(self, table, request, prompts, lengths, options, now):
        """Gives slots to waiting texts of the request, in order, as far as there is room."""
        waiting = tf.where(waits(request))[:, 0]  # (W,)

        def next_one(i, _, table, request):
            text = waiting[i]
            fits, table, request = self._admit_one(
                table, request, text, prompts[text], lengths[text],
                GenerationOptions(*(option[text] for option in options)), now,
            )  # fmt: skip
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

    def _admit_one(self, table, request, text, prompt, length, options, now):
        """Gives a slot to a text, () int64, if there is room: (whether, table, request)."""
        capacity, visit = self.capacity, table.counters.visits
        prompt = prompt[:length]  # (T,)
        every = tf.range(capacity.slots)
        limit = length + options.max_new_tokens
        given = admit(
            table.slots,
            self._pages.rows(every),
            capacity.blocks,
            capacity.block,
            (limit + capacity.block - 1) // capacity.block,
            remembered(table.slots, self._tokens.rows(every)[:, :length], prompt, capacity.block),
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
                    self._pool.clear(tf.boolean_mask(new, new > 0)),
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
                slots=_put(request.slots, at, slot),
                tickets=_put(request.tickets, at, visit[None]),
                seen=_put(request.seen, at, tf.cast(length + shared, tf.int64)[None]),
                since=now,
            )

        return given.fits, *tf.cond(given.fits, take, lambda: (table, request))

    def _fetch(self, table, request, options):
        """Takes along what was decided since the last visit."""
        mine = table.slots.take(request.slots)
        prompt = tf.cast(mine.prompt_length, tf.int32)  # (B,)
        lengths = tf.where(
            owned(table, request), tf.cast(mine.length, tf.int32) - prompt, request.lengths
        )
        text = tf.repeat(tf.range(tf.size(lengths)), lengths - request.lengths)  # (m,)
        column = tf.ragged.range(request.lengths, lengths).flat_values
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
        texts = tf.where(ended)[:, 0]  # (n,)
        slots = tf.gather(request.slots, texts)
        finish = tf.gather(table.slots.finish, slots)
        request = request._replace(
            tickets=_put(request.tickets, texts, tf.zeros_like(finish)),
            done=request.done | ended,
            stopped=_put(request.stopped, texts, finish == STOPPED),
        )
        return table._replace(slots=table.slots.put(slots, ticket=0)), request

    def _give_up(self, table, request, trouble):
        """Frees all slots of the request, and ends it."""
        slots = tf.boolean_mask(request.slots, owned(table, request))
        request = request._replace(done=tf.ones_like(request.done), trouble=trouble)
        return table._replace(slots=table.slots.put(slots, ticket=0)), request


def _now_ms():
    return tf.cast(tf.timestamp() * 1000.0, tf.int64)


def _put(tensor, rows, values):
    """`tensor` with other entries at `rows`, (n,) int."""
    return tf.tensor_scatter_nd_update(tensor, rows[:, None], values)
