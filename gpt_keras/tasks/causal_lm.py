"""CausalLM: the next token's distribution, and text made from it."""

import functools
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import checkpoint, generation, metrics, preprocessing, scoring, stop_strings
from gpt_keras.generated import Generated
from gpt_keras.losses import PLAIN, Loss, head_cross_entropy
from gpt_keras.options import generation_options
from gpt_keras.stop_strings import StopStrings
from gpt_keras.tasks.task import Task


class Scores(NamedTuple):
    """How likely texts are.

    Attributes:
      logprob: (B,) float32, natural logarithm of each text's probability.
      num_tokens: (B,) int32, tokens that it is the sum of.
    """

    logprob: np.ndarray
    num_tokens: np.ndarray


class CausalLM(Task):
    """Language model: token ids (B, T) int -> logits (B, T, V) float32."""

    NAME, PIPELINE_TAG = "causal_lm", "text-generation"
    METRICS = metrics.LanguageModelMetrics
    with_lm_head, has_own_format = True, False

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if not config.causal:
            raise ValueError(
                f"causal=False: a bidirectional model ({config.model_type}) continues no text; use "
                "MaskedLM, SequenceClassifier or TextEmbedder"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=False):
        """Logits of the token after each; arguments as in `GPTBackbone.call`."""
        hidden = self.backbone(
            token_ids, segment_ids=segment_ids, padding_mask=padding_mask, training=training
        )
        return self.logits(hidden)

    def logits(self, hidden):
        """(..., D) -> (..., V) float32."""
        return self.backbone.embedding.logits(hidden)

    def save_gguf(self, path: str | os.PathLike, type: str = "F16") -> None:
        """Writes a GGUF file for llama.cpp; it appears whole or not at all.

        Where llama.cpp knows no sliding window, as in Mistral's and StarCoder2's files, the context
        is written as long as the window, within which it makes no difference.

        Args:
          path: the file; one that is there is replaced.
          type: of the matrices: F32, F16 or Q8_0. Vectors are F32.

        Raises:
          ValueError: a family, a tokenizer or a field of the configuration that is not written as
            GGUF, by name; a value that F16 cannot hold.
        """
        if self.backbone.split:
            raise ValueError("the matrices are split: save the model before backbone.lay_out()")
        checkpoint.save_gguf(self, path, type)

    def save_keras_hub(self, path: str | os.PathLike, dtype: str | None = None) -> None:
        """Writes a preset for `keras_hub.models.CausalLM.from_preset`, whole or not at all.

        Args:
          path: the directory; a preset there is replaced, anything else is refused.
          dtype: of the weights in the file: float32, bfloat16 or float16. None: as they are.

        Raises:
          ValueError: a family, a rotary scaling, a tokenizer or whatever else KerasHub cannot
            express, by name; something else lies there.
        """
        if self.backbone.split:
            raise ValueError("the matrices are split: save the model before backbone.lay_out()")
        checkpoint.save_keras_hub(self, path, dtype)

    def generate(self, prompts, add_special_tokens=True, **options) -> list[str]:
        """Continues texts.

        Args:
          prompts: list of str.
          add_special_tokens: put those before a prompt that the tokenizer puts there, such as
            <s>; False for one that has them already, as those of a chat template.
          **options: `max_new_tokens` (64 unless said), `temperature` (0: the best token), `top_k`
            (0: off), `top_p` (1: off), `min_p` (0: off), `repetition_penalty` (1: off),
            `presence_penalty` and `frequency_penalty` (0: off), `seed` (negative: a new one); one
            value for all prompts, or a list with one for each. See `options.generation_options`.
            `stop`: list of str, or a list of such lists, one for each prompt. An answer ends where
            one of its strings would begin; see `stop_strings`.

        Returns:
          The answers, without the prompts and without special tokens.

        Raises:
          ValueError: no tokenizer, a prompt that the context cannot hold or that is empty where
            nothing else begins a text, an option out of range.
        """
        if isinstance(prompts, str | bytes):
            raise ValueError(f"prompts={prompts!r}: expected a list of texts")
        strings = stop_strings.checked(options.pop("stop", []), len(prompts))
        values = self._option_values(options, len(prompts))
        tokenizer = self.require_tokenizer()
        tokenize = tokenizer.encode if add_special_tokens else tokenizer.tokenize
        tokens = tokenize(list(prompts))  # (B, None)
        self._check_lengths(tokens.row_lengths().numpy())
        batch = preprocessing.pad(tokens, preprocessing.filler(self.config))
        values = generation.GenerationOptions.make(len(prompts), **values)
        strings = tf.constant(strings, tf.string, strings.shape)
        generated = Generated(*self._generate_tokens(*batch, *values, strings))
        answers = self.decode_answers(generated, self.stop_at(strings)).numpy()
        return [answer.decode(errors="replace") for answer in answers]

    def score(self, prompts, completions, add_special_tokens=True) -> Scores:
        """How likely completions are after prompts.

        Prompt and completion are tokenized apart, as in training: where words begin with a blank,
        so must the completion. The end of the text is not counted.

        Args:
          prompts, completions: lists of str, as many of these as of those.
          add_special_tokens: as of `generate`, to the prompts.

        Raises:
          ValueError: no tokenizer; a completion without tokens, or one that is too long together
            with its prompt; a prompt that is empty where nothing else begins a text.
        """
        if isinstance(prompts, str | bytes) or isinstance(completions, str | bytes):
            raise ValueError("prompts and completions: expected lists of texts")
        if len(prompts) != len(completions):
            raise ValueError(
                f"{len(completions)} completions for {len(prompts)} prompts: give one for each"
            )
        tokenizer = self.require_tokenizer()
        tokenize = tokenizer.encode if add_special_tokens else tokenizer.tokenize
        prompts, completions = tokenize(list(prompts)), tokenizer.tokenize(list(completions))
        num_tokens = completions.row_lengths().numpy().astype(np.int32)
        self._check_scored(prompts.row_lengths().numpy(), num_tokens)
        batch, starts = scoring.join(prompts, completions, self.config)
        return Scores(self._logprobs(*batch, starts).numpy(), num_tokens)

    def stop_at(self, strings) -> StopStrings | None:
        """Stop strings (B, K) of each row; None for a model that has no tokenizer to find them."""
        return self.tokenizer and StopStrings(strings, self.tokenizer)

    def decode_answers(self, generated: Generated, stop: StopStrings | None = None):
        """The bytes (B,) string of generated tokens, not always UTF-8.

        Special tokens are left out, and what comes from where a stop string begins.
        """
        tokens = tf.RaggedTensor.from_tensor(generated.tokens, generated.lengths)
        tokenizer = self.require_tokenizer()
        answers = tokenizer.detokenize(tokens, skip_special_tokens=True, continues=True)
        answers = tf.ensure_shape(answers, [None])
        return stop.cut(answers, generated.tokens, generated.lengths) if stop else answers

    @functools.cached_property
    def _generate_tokens(self):
        """`generation.generate_tokens` as one graph for all batches."""
        options = generation_options(self.config.max_position_embeddings)
        specs = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
        specs += [tf.TensorSpec([None], option.dtype) for option in options]
        specs += [tf.TensorSpec([None, None], tf.string)]

        def generate_tokens(token_ids, lengths, *values):
            *values, strings = values
            chosen = generation.GenerationOptions(*values)
            stop = self.stop_at(strings)
            return generation.generate_tokens(self, token_ids, lengths, chosen, stop)

        return tf.function(generate_tokens, input_signature=specs, autograph=False)

    @functools.cached_property
    def _logprobs(self):
        """`scoring.logprobs` as one graph for all batches."""
        vector = tf.TensorSpec([None], tf.int32)
        specs = [tf.TensorSpec([None, None], tf.int32), vector, vector]
        return tf.function(
            functools.partial(scoring.logprobs, self), input_signature=specs, autograph=False
        )

    def _option_values(self, given, rows):
        known = generation_options(self.config.max_position_embeddings)
        values = {option.name: option.default for option in known}
        for name in given:
            if name not in values:
                raise ValueError(f"{name}: no such option; there are {', '.join(values)}, stop")
        for option in known:
            if option.name in given:
                values[option.name] = value = option.checked(given[option.name])
                if value.ndim and len(value) not in (1, rows):
                    raise ValueError(
                        f"{option.name} has {len(value)} values for {rows} prompts: give one value "
                        "for all, or one for each"
                    )
        return values

    def _check_lengths(self, lengths):
        context = self.config.max_position_embeddings
        for row in np.flatnonzero(lengths >= context)[:1]:
            raise ValueError(
                f"prompt {row} has {lengths[row]} tokens and the context {context}: no room for an "
                "answer; shorten it"
            )
        self._check_begun(lengths)

    def _check_scored(self, prompts, completions):
        context = self.config.max_position_embeddings
        for row in np.flatnonzero(completions == 0)[:1]:
            raise ValueError(f"completion {row} is empty: there is nothing to score")
        self._check_begun(prompts)
        lengths = np.maximum(prompts, 1) + completions
        for row in np.flatnonzero(lengths > context)[:1]:
            raise ValueError(
                f"prompt {row} and its completion have {lengths[row]} tokens and the context "
                f"{context}; shorten them"
            )

    def _check_begun(self, lengths):
        if not preprocessing.can_be_empty(self.config) and not np.all(lengths):
            raise ValueError(
                f"prompt {np.argmin(lengths)} is empty, and no token of this model begins a text"
            )

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Next-token cross-entropy, see `Task.batch_loss`.

        `loss_mask` (B, T) float32 of the batch is the weight of predicting the token AT each
        position from those before it.
        """
        D = self.config.hidden_size
        hidden = self.backbone.final_norm(features[:, :-1])  # (B, T-1, D)
        weights = batch["loss_mask"][:, 1:]  # (B, T-1)
        total, terms = head_cross_entropy(
            ops.reshape(hidden, (-1, D)),
            self.backbone.embedding.head.value,
            ops.reshape(batch["token_ids"][:, 1:], (-1,)),
            ops.reshape(weights, (-1,)),
            regularizers,
            self.config.logits_softcap,
        )
        terms = ops.reshape(terms, ops.shape(weights))  # (B, T-1)
        rows = ops.stack([ops.sum(terms, axis=1), ops.sum(weights, axis=1)], axis=1)  # (B, 2)
        return Loss(total, ops.sum(weights), rows=rows)

    def new_metrics(self, source=None):
        if source is None:
            return metrics.LanguageModelMetrics()
        return metrics.LanguageModelMetrics(source.num_bytes, source.source_names)
