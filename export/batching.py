"""Continuous batching inside the graph: requests that run at once share each step.

Every request is a loop of visits to a table of slots, one visit at a time. A visitor who finds that
his texts have not moved since his last visit computes one step for ALL texts in the table, their
next tokens and a piece of the prompts that are new; the others then find their work done (flat
combining; Hendler, Incze, Shavit & Tzafrir, 2010). Texts join and leave at any step.

Requests may be stopped at any op, by a deadline above all. So nothing counts until the table is
written, in one op, at the end of a visit; whatever else was written before lies beyond what the
table says is there, and the next visitor writes the same again. An owner who stays away is not
worked for, and loses his slots in the end.

A visitor takes the new tokens of his texts along. Between visits he looks for stop strings in them,
which the step knows nothing of; a few tokens too many may have been computed by then.
"""

import dataclasses
import functools
import uuid

import tensorflow as tf

from export import checks
from export.capacity import SETTINGS, Capacity, memories
from export.kv_blocks import BlockCache, BlockPool, Tokens, View
from export.memory import Memory
from export.requests import FINE, LOST, WAITED, News, Request, owned, progress, waits
from export.slots import CREDIT, FULL, LEASE_MS, RUNNING, STOPPED, Table, admit, is_free, remembered
from gpt_keras.generation import (
    Generated,
    GenerationOptions,
    Said,
    largest,
    likeliest,
    logprob_of,
)
from gpt_keras.options import LOGPROBS, generation_options
from gpt_keras.sampling import History, Penalties, Sampler, fresh_seeds
from gpt_keras.stacked import StackedBackbone
from gpt_keras.stop_strings import NEVER, StopStrings

CHUNK = 128  # tokens of prompts in one step: the other texts wait for them
QUEUE = 4096  # visits that wait for their turn, at most one a request


class Batcher:
    """The table, the pool, and the step that all requests share.

    Args:
      model: a `CausalLM`. Its weights are copied, block by block, into stacks.
      capacity: see `Capacity`.
    """

    def __init__(self, model, capacity: Capacity):
        self.capacity = capacity
        self._model, self._config = model, model.config
        self._stack = StackedBackbone(model.backbone)
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
        self._visits = self._function_of_visits()

    @property
    def state(self):
        """All variables that the step reads, and the memories, for a SavedModel to hold."""
        inside = {id(v) for block in self._model.backbone.blocks for v in block.variables}
        outside = [v.value for v in self._model.variables if id(v) not in inside]
        return [*outside, *self._stack.weights, *self._memories.values()]

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
        taken = ~is_free(slots, _now_ms(), counters.visits)
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
        table = table._replace(counters=table.counters.plus(visits=1))
        # Where a lease has ended, a visit that was stopped may have written something already.
        expired = is_free(table.slots, now, table.counters.visits)
        safe = owned(table, request) & ~tf.gather(expired, request.slots)
        lost = tf.reduce_any((request.tickets > 0) & ~safe)
        table = table._replace(
            slots=table.slots.put(
                tf.boolean_mask(request.slots, safe),
                credit=CREDIT,
                visited_ms=now,
                visited=table.counters.visits,
            ).put(
                tf.boolean_mask(request.slots, safe & request.enough),
                finish=STOPPED,
            )
        )
        table, request = tf.cond(
            tf.reduce_any(waits(request)),
            lambda: self._queue(table, request, prompts, lengths, options, now),
            lambda: (table, request),
        )
        # Whoever has come to let a text go need not wait for a step.
        moved = owned(table, request) & (
            (progress(table, request) != request.seen) | request.enough
        )
        table = tf.cond(tf.reduce_any(moved), lambda: table, lambda: self._step(table))
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
            is_free(table.slots, now, visit),
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

    def _step(self, table: Table) -> Table:
        """One step of all texts whose owners are there."""
        slots = table.slots
        ready = (slots.ticket > 0) & (slots.finish == RUNNING) & (slots.credit > 0)
        singles = tf.where(ready & (slots.length - slots.filled == 1))[:, 0]
        others = tf.where(ready & (slots.length - slots.filled > 1))[:, 0]
        others = tf.gather(others, tf.argsort(tf.gather(slots.ticket, others), stable=True))
        pending = tf.gather(slots.length - slots.filled, others)  # (P,)
        room = CHUNK - tf.cumsum(pending, exclusive=True)
        others = tf.boolean_mask(others, room > 0)
        counts = tf.minimum(pending, room)[: tf.size(others)]

        def with_prompts():
            return self._compute(table, singles, others, counts)

        def without():
            return tf.cond(
                tf.size(singles) > 0, lambda: self._compute(table, singles), lambda: table
            )

        return tf.cond(tf.size(others) > 0, with_prompts, without)

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
        tokens = Tokens(self._pages.rows(rows), starts, n)
        positions = tokens.positions if others is not None else starts  # (N,)
        of = tokens.rows if others is not None else tf.range(tf.size(rows))  # (N,)
        where = tf.stack([tf.gather(tf.cast(rows, tf.int32), of), positions], axis=1)
        token_ids = self._tokens.at(where)  # (N,)

        block = self._pool.block_size
        pages = tf.gather_nd(tokens.pages, tf.stack([of, positions // block], axis=1))  # (N,)
        heads = self._pool.heads(pages)  # (N, K)
        offsets = tf.broadcast_to((positions % block)[:, None], tf.shape(heads))
        first, second = tokens, None
        if others is not None:
            R = tf.size(singles)
            first = Tokens(*(x[:R] for x in tokens))
            second = View.of(self._pool, Tokens(*(x[R:] for x in tokens)))
        cache = BlockCache(
            self._pool,
            None,
            tf.stack([heads, offsets], axis=-1),
            View.of(self._pool, first),
            second,
        )
        hidden = self._stack.decode(
            token_ids[:, None], positions[:, None], lambda i: dataclasses.replace(cache, layer=i)
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
        """
        filled = slots.filled + tf.cast(counts, tf.int64)
        complete = filled == slots.length
        last = tf.boolean_mask(tf.cumsum(counts) - 1, complete)
        rows_, deciding = tf.boolean_mask(rows, complete), slots.take(tf.where(complete)[:, 0])
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
        for eos in self._config.eos_token_ids:
            stop |= token == eos
        length = deciding.length + tf.where(stop, tf.constant(0, tf.int64), 1)
        finish = tf.where(stop, STOPPED, tf.where(length >= deciding.limit, FULL, RUNNING))
        place = tf.stack([rows_, deciding.length], axis=1)  # (d, 2)
        writes = [
            self._tokens.put_at(place, token),
            self._logprobs.put_at(place, logprob_of(logits, token)),
            self._put_likeliest(tf.where(settings["logprobs"] > 0.0)[:, 0], place, logits),
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
        with tf.control_dependencies(writes):
            return tf.nest.map_structure(tf.identity, Table(after, counters, table.first))

    def _put_likeliest(self, asking, place, logits):
        """Writes down the likeliest tokens of the texts that ask for them, (a,) of (d,)."""

        def put():
            lately = tf.gather(place, asking) % [self.capacity.slots, CREDIT]
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


def _now_ms():
    return tf.cast(tf.timestamp() * 1000.0, tf.int64)


def _put(tensor, rows, values):
    """`tensor` with other entries at `rows`, (n,) int."""
    return tf.tensor_scatter_nd_update(tensor, rows[:, None], values)
