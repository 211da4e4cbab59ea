"""Generation: the prompt in few passes, then a token a step, all inside the graph.

Every row has its own options, and its answer does not depend on its neighbours. The stop token
ends a row and is not part of its answer. So does a stop string, but its tokens are counted.
"""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras import cache
from gpt_keras.attention import MASKED, SMALL
from gpt_keras.generated import Generated, Said, largest, likeliest, logprob_of
from gpt_keras.sampling import History, Penalties, Sampler, fresh_seeds
from gpt_keras.stop_strings import StopStrings

CHUNK = 32  # steps between two joins of the tail to the prefix
PREFILL = 512  # tokens of a prompt in one pass, so that scores grow with the prompt, not its square
NOWHERE = tf.int32.max  # position of padding: no token comes after it


class GenerationOptions(NamedTuple):
    """Options of each row, tensors of shape (B,).

    Attributes:
      max_new_tokens: int32, >= 0. A row also ends where the model's context does.
      temperature: float32; 0 takes the best token at each step (greedy).
      top_k: int32; 0 is off.
      top_p: float32 in (0, 1]; 1 is off.
      min_p: float32 in [0, 1]; 0 is off.
      repetition_penalty, presence_penalty, frequency_penalty: float32, see `sampling.Penalties`.
      seed: int64; a negative one is replaced by a random one.
      logprobs: int32, how many of the likeliest tokens to tell of at each step; 0 is off.
    """

    max_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    repetition_penalty: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    seed: tf.Tensor
    logprobs: tf.Tensor

    @classmethod
    def make(
        cls,
        rows,
        max_new_tokens=64,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=-1,
        logprobs=0,
    ):
        """Scalars or (B,) values broadcast to `rows` rows."""

        def column(value, dtype):
            return tf.broadcast_to(tf.cast(tf.convert_to_tensor(value), dtype), [rows])

        return cls(
            column(max_new_tokens, tf.int32),
            column(temperature, tf.float32),
            column(top_k, tf.int32),
            column(top_p, tf.float32),
            column(min_p, tf.float32),
            column(repetition_penalty, tf.float32),
            column(presence_penalty, tf.float32),
            column(frequency_penalty, tf.float32),
            column(seed, tf.int64),
            column(logprobs, tf.int32),
        )


class _Past(NamedTuple):
    """What lies before the tails.

    positions: (B, S) int32, each token's place in its row's text, NOWHERE for padding.
    """

    positions: tf.Tensor
    prefixes: tuple[cache.Prefix, ...]

    def shapes(self):
        """Its shapes, with rows and number of tokens left open."""
        return _Past(
            _open(self.positions, 0, 1),
            tuple(cache.Prefix(_open(p.keys, 0, 3), _open(p.values, 0, 2)) for p in self.prefixes),
        )


class _State(NamedTuple):
    """Loop state after `step` decided tokens, the last of which lies in the tails."""

    step: tf.Tensor  # int32
    logits: tf.Tensor  # (B, V), of the token to decide next
    active: tf.Tensor  # (B,) bool
    lengths: tf.Tensor  # (B,) int32, of the answers
    stopped: tf.Tensor  # (B,) bool
    said: Said  # of `step` columns
    text_tail: tf.Tensor  # (B,) string, see `StopStrings.follow`
    tails: tuple[cache.Tail, ...]

    def shapes(self):
        """Its shapes, with rows and what a step lengthens left open."""
        return tf.nest.map_structure(lambda x: _open(x, 0), self)._replace(
            said=Said(*(_open(x, 0, 1) for x in self.said)),
            tails=tuple(cache.Tail(*(_open(x, 0, 2) for x in tail)) for tail in self.tails),
        )


@tf.autograph.experimental.do_not_convert
def generate_tokens(
    model, token_ids, lengths, options: GenerationOptions, stop: StopStrings | None = None
) -> Generated:
    """Continues every row of `token_ids`.

    Args:
      model: a `CausalLM`.
      token_ids: (B, T) int32, padded on the right.
      lengths: (B,) int32, tokens of each prompt, 1 to T.
      options: see `GenerationOptions`.
      stop: texts that end answers; a token that makes one complete belongs to the answer.
    """
    config = model.config
    room = config.max_position_embeddings - lengths
    limit = tf.minimum(options.max_new_tokens, room)  # (B,)
    sampler = Sampler(
        options.temperature, options.top_k, options.top_p, options.min_p, fresh_seeds(options.seed)
    )
    penalties = Penalties(
        options.repetition_penalty, options.presence_penalty, options.frequency_penalty
    )

    n = largest(options.logprobs)

    def choose(state) -> Said:
        """The next token of every row, (B, 1)."""
        logits, said = state.logits, state.said.tokens

        def history():
            prompt = tf.sequence_mask(lengths, tf.shape(token_ids)[1])
            return History(
                tf.concat([token_ids, said], 1),
                tf.pad(prompt, [[0, 0], [0, state.step]]),
                tf.pad(tf.ones_like(said, tf.bool), [[0, 0], [tf.shape(prompt)[1], 0]]),
            )

        token = sampler(penalties(logits, history), state.step)  # (B,)
        nothing = Said.nothing(tf.size(token), 1, n)
        top_logprobs, top_tokens = tf.cond(
            tf.reduce_any(state.active & (options.logprobs > 0)),
            lambda: tuple(x[:, None] for x in likeliest(logits, n)),
            lambda: (nothing.top_logprobs, nothing.top_tokens),
        )
        logprobs = logprob_of(logits, token)[:, None]
        return Said(token[:, None], logprobs, top_logprobs, top_tokens)

    longest = None  # (B, 1), how long each text may become
    if config.by_length:
        longest = (lengths + tf.maximum(limit, 0))[:, None]
    logits, past = _prefill(model, token_ids, lengths, longest)
    B = tf.shape(token_ids)[0]
    state = _State(
        step=tf.constant(0),
        logits=logits,
        active=limit > 0,
        lengths=tf.zeros_like(lengths),
        stopped=tf.zeros([B], tf.bool),
        said=Said.nothing(B, 0, n),
        text_tail=tf.fill([B], ""),
        tails=tuple(map(cache.empty_tail, past.prefixes)),
    )

    def chunk(state, past):
        def step(state):
            said = choose(state)
            return (_step(model, state, past, said, lengths, limit, longest, stop),)

        first, end = state.step, state.step + CHUNK
        (state,) = tf.while_loop(
            lambda state: tf.reduce_any(state.active) & (state.step < end),
            step,
            (state,),
            shape_invariants=(state.shapes(),),
            parallel_iterations=1,
        )
        past = _Past(
            tf.concat([past.positions, lengths[:, None] + tf.range(first, state.step)], axis=1),
            tuple(map(cache.join, past.prefixes, state.tails)),
        )
        return state._replace(tails=tuple(map(cache.empty_tail, past.prefixes))), past

    state, _ = tf.while_loop(
        lambda state, _: tf.reduce_any(state.active),
        chunk,
        (state, past),
        shape_invariants=(state.shapes(), past.shapes()),
        parallel_iterations=1,
    )
    return Generated.of(state.said, state.lengths, state.stopped, options.logprobs)


def _open(tensor, *axes):
    """The tensor's shape with some axes left open."""
    return tf.TensorShape([None if i in axes else n for i, n in enumerate(tensor.shape)])


def _prefill(model, token_ids, lengths, longest) -> tuple[tf.Tensor, _Past]:
    """Logits (B, V) after each prompt, and the prompts."""
    config, dtype = model.config, model.compute_dtype
    B, T = tf.unstack(tf.shape(token_ids))

    def some(start, last, past):
        ids = token_ids[:, start : start + PREFILL]  # (B, t)
        here = tf.range(start, start + tf.shape(ids)[1])  # (t,)
        queries = tf.broadcast_to(here, tf.shape(ids))  # (B, t)
        keys = tf.where(here < lengths[:, None], queries, NOWHERE)
        positions = tf.concat([past.positions, keys], axis=1)  # (B, S+t)
        biases = _biases(config, queries, positions)
        caches = [
            cache.PrefillCache(prefix, biases[config.window_of(i)], config.attention_softcap)
            for i, prefix in enumerate(past.prefixes)
        ]
        hidden, caches = model.backbone.decode(ids, queries, caches, longest)  # (B, t, D)
        ends = lengths[:, None] - 1 == here  # (B, t)
        last += tf.reduce_sum(hidden * tf.cast(ends, dtype)[..., None], axis=1)  # (B, D)
        past = _Past(positions, tuple(c.prefix for c in caches))
        return start + PREFILL, last, past

    past = _Past(
        tf.zeros([B, 0], tf.int32),
        tuple(cache.empty_prefix(config, B, dtype) for _ in model.backbone.blocks),
    )
    last = tf.zeros([B, config.hidden_size], dtype)
    _, last, past = tf.while_loop(
        lambda start, *_: start < T,
        some,
        (tf.constant(0), last, past),
        shape_invariants=(tf.TensorShape([]), _open(last, 0), past.shapes()),
        parallel_iterations=1,
    )
    return model.logits(last), past


def _biases(config, queries, keys):
    """Positions (B, T) of queries and (B, S) of keys -> (B, 1, T, S), 0 where seen else MASKED.

    One for each of `config.windows`.
    """
    distance, biases = queries[:, :, None] - keys[:, None], {}  # (B, T, S)
    for window in config.windows:
        hidden = distance < 0
        if window:
            hidden |= distance >= window
        biases[window] = (tf.cast(hidden, tf.float32) * MASKED)[:, None]
    return biases


def _step(model, state: _State, past: _Past, chosen: Said, prompt_lengths, limit, longest, stop):
    """Adds a token to every active row, and computes the logits of the next."""
    config = model.config
    token = chosen.tokens[:, 0]  # (B,)
    ends = tf.zeros_like(state.active)
    for eos in config.eos_token_ids:
        ends |= token == eos
    said = state.active & ~ends
    complete, text_tail = tf.zeros_like(said), state.text_tail
    if stop is not None:
        complete, text_tail = stop.follow(text_tail, token, said)
    lengths = state.lengths + tf.cast(said, tf.int32)
    # A row that has ended is computed on with its neighbours, but not beyond its context.
    positions = tf.minimum(prompt_lengths + state.step, config.max_position_embeddings - 1)  # (B,)
    biases = _biases(config, positions[:, None], past.positions)  # (B, 1, 1, S)
    tail_biases = dict.fromkeys(config.windows)
    for window in filter(None, config.windows):
        age = tf.range(tf.shape(state.tails[0].keys)[2], -1, -1)  # (C+1,)
        tail_biases[window] = tf.cast(age >= window, tf.float32) * MASKED
    small = tf.size(past.prefixes[0].values) <= SMALL
    caches = [
        cache.StepCache(
            prefix, tail, biases[window], tail_biases[window], small, config.attention_softcap
        )
        for i, (prefix, tail) in enumerate(zip(past.prefixes, state.tails, strict=True))
        for window in [config.window_of(i)]
    ]
    hidden, caches = model.backbone.decode(token[:, None], positions[:, None], caches, longest)
    return _State(
        step=state.step + 1,
        logits=model.logits(hidden[:, 0]),
        active=said & ~complete & (lengths < limit),
        lengths=lengths,
        stopped=state.stopped | (state.active & ends) | complete,
        said=Said(*(tf.concat(pair, axis=1) for pair in zip(state.said, chosen, strict=True))),
        text_tail=text_tail,
        tails=tuple(c.tail for c in caches),
    )
