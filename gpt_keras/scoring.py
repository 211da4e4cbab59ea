"""Scoring: how likely a language model finds a text after another."""

import dataclasses
import functools

import tensorflow as tf

from gpt_keras import preprocessing
from gpt_keras.attention import MASKED, by_queries, dot_product_attention, part_heads
from gpt_keras.config import GPTConfig
from gpt_keras.generated import logprob_of

POSITIONS = 256  # tokens whose logits exist at once: with 50,000 in the vocabulary, 50 MB of them


@dataclasses.dataclass(frozen=True)
class TextCache:
    """LayerCache of whole texts: no token stands before them, and none is kept.

    layer: its number, an int or a scalar int32 tensor.
    """

    config: GPTConfig
    layer: object

    def attend(self, heads):
        config = self.config
        q, k, v = part_heads(heads, config.num_heads, config.num_kv_heads)
        windows = [config.window_of(i) or 2**30 for i in range(config.num_layers)]
        window = tf.gather(windows, self.layer)
        context = by_queries(_in_window, q, k, v, window, config.attention_softcap)  # (B, H, T, h)
        return tf.transpose(context, (0, 2, 1, 3)), self  # (B, T, H, h)


def _in_window(q, first, k, v, window, softcap):
    """What queries (B, H, t, h) from the place `first` on take from `window` tokens before them."""
    queries, keys = tf.shape(q)[2], tf.shape(k)[2]
    distance = (first + tf.range(queries))[:, None] - tf.range(keys)  # (t, T)
    bias = tf.cast((distance < 0) | (distance >= window), tf.float32) * MASKED
    return dot_product_attention(q, k, v, bias[None, None], softcap)


def join(prompts, completions, config) -> tuple[preprocessing.Batch, tf.Tensor]:
    """Prompts with what comes after them, and where that begins.

    Args:
      prompts, completions: (B, None) int32 ragged; a prompt without tokens gets the one that stands
        for an empty text.
      config: of the model.

    Returns:
      A batch, and the tokens of each prompt (B,) int32.
    """
    filler = preprocessing.filler(config)
    token_ids, starts = preprocessing.pad(prompts, filler)
    prompts = tf.RaggedTensor.from_tensor(token_ids, starts)
    completions = completions.with_row_splits_dtype(prompts.row_splits.dtype)
    return preprocessing.pad(tf.concat([prompts, completions], axis=1), filler), starts


@tf.autograph.experimental.do_not_convert
def logprobs(model, token_ids, lengths, starts, decode=None):
    """Log-probability of the tokens from `starts` on, given those before them.

    Works in a `tf.function` too.

    Args:
      model: a `CausalLM`.
      token_ids: (B, T) int32, padded on the right.
      lengths: (B,) int32, tokens of each row.
      starts: (B,) int32, 1 to `lengths`.
      decode: `StackedBackbone.decode` of the model's blocks; None for the blocks themselves.

    Returns:
      (B,) float32, natural logarithm; 0 for a row without such tokens.
    """
    B, T = tf.unstack(tf.shape(token_ids))
    positions = tf.broadcast_to(tf.range(T), [B, T])
    longest = lengths[:, None] if model.config.by_length else None
    cache_of = functools.partial(TextCache, model.config)
    if decode is None:
        caches = list(map(cache_of, range(model.config.num_layers)))
        hidden, _ = model.backbone.decode(token_ids, positions, caches, longest)
    else:
        hidden = decode(token_ids, positions, cache_of, longest)  # (B, T, D)
    at = tf.range(1, T)
    said = (at >= starts[:, None]) & (at < lengths[:, None])  # (B, T-1)
    hidden, targets = tf.boolean_mask(hidden[:, :-1], said), tf.boolean_mask(token_ids[:, 1:], said)

    def some(first, before):
        here = slice(first, first + POSITIONS)
        found = logprob_of(model.logits(hidden[here]), targets[here])  # (n,)
        return first + POSITIONS, tf.concat([before, found], 0)

    _, found = tf.while_loop(
        lambda first, _: first < tf.size(targets),
        some,
        (tf.constant(0), tf.zeros([0])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
        parallel_iterations=1,
    )
    return tf.math.unsorted_segment_sum(found, tf.where(said)[:, 0], B)
