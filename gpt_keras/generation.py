"""Generation: the prompt in one pass, then a token a step, all inside the graph.

Every row has its own options, and its answer does not depend on its neighbours. The stop token
ends a row and is not part of its answer.
"""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras.attention import MASKED, visibility
from gpt_keras.cache import PrefillCache, Prefix, StepCache, Tail, empty_tail, join
from gpt_keras.sampling import Sampler, fresh_seeds

CHUNK = 32  # steps between two joins of the tail to the prefix


class GenerationOptions(NamedTuple):
    """Options of each row, tensors of shape (B,).

    Attributes:
      max_new_tokens: int32, >= 0. A row also ends where the model's context does.
      temperature: float32; 0 takes the best token at each step (greedy).
      top_k: int32; 0 is off.
      top_p: float32 in (0, 1]; 1 is off.
      seed: int64; a negative one is replaced by a random one.
    """

    max_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    seed: tf.Tensor

    @classmethod
    def make(cls, rows, max_new_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=-1):
        """Scalars or (B,) values broadcast to `rows` rows."""

        def column(value, dtype):
            return tf.broadcast_to(tf.cast(tf.convert_to_tensor(value), dtype), [rows])

        return cls(
            column(max_new_tokens, tf.int32),
            column(temperature, tf.float32),
            column(top_k, tf.int32),
            column(top_p, tf.float32),
            column(seed, tf.int64),
        )


class Generated(NamedTuple):
    """What was generated.

    Attributes:
      tokens: (B, N) int32, the answers, padded with 0 on the right.
      lengths: (B,) int32, tokens of each answer.
      stopped: (B,) bool, True where a stop token ended the row, False where a limit did.
      logprob: (B,) float32, sum of the answer's log-probabilities under the model itself.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    stopped: tf.Tensor
    logprob: tf.Tensor


class _State(NamedTuple):
    """Loop state after `step` decided tokens, the last of which lies in the tails."""

    step: tf.Tensor  # int32
    logits: tf.Tensor  # (B, V), of the token to decide next
    active: tf.Tensor  # (B,) bool
    lengths: tf.Tensor  # (B,) int32, of the answers
    stopped: tf.Tensor  # (B,) bool
    logprob: tf.Tensor  # (B,) float32
    tokens: tf.Tensor  # (B, step) int32
    tails: tuple[Tail, ...]

    def shapes(self):
        """Its shapes, with what a step lengthens left open."""
        shapes = tf.nest.map_structure(lambda x: x.shape, self)
        return shapes._replace(
            tokens=_any_length(self.tokens, 1),
            tails=tuple(Tail(*(_any_length(x, 2) for x in tail)) for tail in self.tails),
        )


@tf.autograph.experimental.do_not_convert
def generate_tokens(model, token_ids, lengths, options: GenerationOptions) -> Generated:
    """Continues every row of `token_ids`.

    Args:
      model: a `CausalLM`.
      token_ids: (B, T) int32, padded on the right.
      lengths: (B,) int32, tokens of each prompt, 1 to T.
      options: see `GenerationOptions`.
    """
    config = model.config
    room = config.max_position_embeddings - lengths
    limit = tf.minimum(options.max_new_tokens, room)  # (B,)
    sampler = Sampler(options.temperature, options.top_k, options.top_p, fresh_seeds(options.seed))
    logits, prefixes = _prefill(model, token_ids, lengths)
    T = tf.shape(token_ids)[1]
    B = tf.shape(token_ids)[0]
    bias = tf.where(tf.range(T) < lengths[:, None], 0.0, MASKED)  # (B, T)
    state = _State(
        step=tf.constant(0),
        logits=logits,
        active=limit > 0,
        lengths=tf.zeros_like(lengths),
        stopped=tf.zeros([B], tf.bool),
        logprob=tf.zeros([B]),
        tokens=tf.zeros([B, 0], tf.int32),
        tails=tuple(map(empty_tail, prefixes)),
    )

    def chunk(state, prefixes, bias):
        def step(state):
            return (_step(model, state, prefixes, bias, sampler, lengths, limit),)

        end = state.step + CHUNK
        (state,) = tf.while_loop(
            lambda state: tf.reduce_any(state.active) & (state.step < end),
            step,
            (state,),
            shape_invariants=(state.shapes(),),
            parallel_iterations=1,
        )
        grown = tf.shape(state.tails[0].keys)[2]
        prefixes = tuple(map(join, prefixes, state.tails))
        state = state._replace(tails=tuple(map(empty_tail, prefixes)))
        return state, prefixes, tf.pad(bias, [[0, 0], [0, grown]])

    state, _, _ = tf.while_loop(
        lambda state, *_: tf.reduce_any(state.active),
        chunk,
        (state, prefixes, bias),
        shape_invariants=(
            state.shapes(),
            tuple(Prefix(*map(_any_length, prefix, (3, 2))) for prefix in prefixes),
            _any_length(bias, 1),
        ),
        parallel_iterations=1,
    )
    longest = tf.reduce_max(tf.concat([state.lengths, [0]], 0))
    kept = tf.sequence_mask(state.lengths, longest)
    tokens = tf.where(kept, state.tokens[:, :longest], 0)  # (B, N)
    return Generated(tokens, state.lengths, state.stopped, state.logprob)


def _any_length(tensor, axis):
    """The tensor's shape with one axis left open."""
    shape = tensor.shape.as_list()
    shape[axis] = None
    return tf.TensorShape(shape)


def _prefill(model, token_ids, lengths):
    """Logits (B, V) after each prompt, and every layer's Prefix."""
    T = tf.shape(token_ids)[1]
    # Padding on the right: no real token sees it, so the causal mask is enough.
    seen = visibility(model.config, T)
    caches = [PrefillCache(seen.bias) for _ in model.backbone.blocks]
    hidden, caches = model.backbone.decode(token_ids, seen.positions, caches)
    last = tf.gather(hidden, lengths - 1, batch_dims=1)  # (B, D)
    return model.logits(last), tuple(cache.stored for cache in caches)


def _step(model, state: _State, prefixes, bias, sampler, prompt_lengths, limit):
    """Decides one token of every active row, and computes the logits of the next."""
    token = sampler(state.logits, state.step)  # (B,)
    stop = tf.zeros_like(state.active)
    for eos in model.config.eos_token_ids:
        stop |= token == eos
    said = state.active & ~stop
    lengths = state.lengths + tf.cast(said, tf.int32)
    caches = [
        StepCache(prefix, tail, bias[:, None, None])
        for prefix, tail in zip(prefixes, state.tails, strict=True)
    ]
    # A row that has ended is computed on with its neighbours, but not beyond its context.
    last = model.config.max_position_embeddings - 1
    positions = tf.minimum(prompt_lengths + state.step, last)  # (B,)
    hidden, caches = model.backbone.decode(token[:, None], positions[:, None], caches)
    return _State(
        step=state.step + 1,
        logits=model.logits(hidden[:, 0]),
        active=said & (lengths < limit),
        lengths=lengths,
        stopped=state.stopped | (state.active & stop),
        logprob=state.logprob + tf.where(said, _logprob(state.logits, token), 0.0),
        tokens=tf.concat([state.tokens, token[:, None]], axis=1),
        tails=tuple(cache.tail for cache in caches),
    )


def _logprob(logits, token):
    """(B, V), (B,) -> (B,) log-probability of each row's token."""
    return tf.gather(logits, token, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)
