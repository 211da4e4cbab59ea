"""MaskedLM: what stands at each place of a text that is seen from both sides."""

from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import metrics, pieces, preprocessing
from gpt_keras.layers import ACTIVATIONS, ConfigLayer, Norm, Projection
from gpt_keras.losses import PLAIN, Loss, cross_entropy
from gpt_keras.masking import Masking, ordinary_tokens, word_starts
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import text_of
from gpt_keras.tasks.text_task import Option, Served, TextTask
from gpt_keras.tokenizers import utf8


class Transform(ConfigLayer):
    """What hidden states go through before the embedding table makes logits of them.

    A layer with activation, and a norm: (..., D) -> (..., D). `bias`, (V,), is that of the logits.
    """

    def build(self, input_shape):
        config = self.config
        self.dense = Projection(
            config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="dense"
        )
        self.norm = Norm(config, dtype=self.dtype_policy, name="norm")
        for layer in (self.dense, self.norm):
            layer.build(input_shape)
        self.bias = self.add_weight(name="bias", shape=(config.vocab_size,), initializer="zeros")

    def call(self, x):
        return self.norm(ACTIVATIONS[self.config.activation](self.dense(x)))


class MaskedLM(TextTask):
    """Masked language model: token ids (B, T) int -> logits (B, T, V) float32.

    What the tokens are, those included that the mask token of the tokenizer stands for (Devlin et
    al., 2018, https://arxiv.org/abs/1810.04805).
    """

    NAME, PIPELINE_TAG = "masked_lm", "fill-mask"
    METRICS = metrics.MaskedLanguageMetrics
    has_own_format = False
    columns = (("text",),)
    answers = ()
    options: ClassVar = {
        "mask_rate": Option(0.15, "share of a text's tokens that a masked language model finds"),
        "whole_words": Option(False, "mask all tokens of a word, or none"),
        "mask_each": Option(
            False, "to evaluate: a row for each token of a text, with it alone masked, which gives "
            "the pseudo-perplexity"
        ),
        "fill_top_k": Option(5, "tokens that `fill_mask` gives, the most likely ones"),
    }  # fmt: skip
    with_lm_head = True

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if config.causal:
            raise ValueError(
                f"causal=True: a model ({config.model_type}) that sees only what is before a token "
                "cannot fill it in; use CausalLM"
            )
        for name, low, high in (("mask_rate", 0.01, 0.9), ("fill_top_k", 1, config.vocab_size)):
            if not low <= self.option(config, name) <= high:
                raise ValueError(
                    f"--{name}={self.option(config, name)}: give a number from {low} to {high}"
                )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.transform = Transform(config, dtype=self.dtype_policy, name="transform")
        self.transform.build((None, None, config.hidden_size))
        self.built = True

    def call(
        self, token_ids, segment_ids=None, padding_mask=None, token_type_ids=None, training=False
    ):
        """Logits of the token at each place; arguments as in `GPTBackbone.call`."""
        hidden = self.backbone(
            token_ids, segment_ids, padding_mask, token_type_ids, training=training
        )
        return self.logits(hidden)

    def logits(self, hidden):
        """(..., D) -> (..., V) float32."""
        logits = self.backbone.embedding.logits(self.transform(hidden))
        return logits + ops.cast(self.transform.bias, "float32")

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Texts; a longer one is cut into several rows, each with the special tokens of a text.

        With `mask_each` every row comes once for each of its tokens, with it alone masked.
        """
        around = tokenizer.post_processor.single
        room = max_length - around.num_tokens
        if room < 1:
            raise ValueError(
                f"--max_length={max_length}: the tokenizer adds {around.num_tokens} special tokens "
                "to a text; give it more"
            )
        ordinary = ordinary_tokens(tokenizer, config.vocab_size)
        masking = Masking(
            mask_token(tokenizer),
            cls.option(config, "mask_rate"),
            ordinary,
            word_starts(tokenizer, config.vocab_size)
            if cls.option(config, "whole_words")
            else None,
        )
        texts = [text_of(record) for record in records]
        rows, record_ids, skipped = [], [], LeftOut()
        tokenized = (
            row for chunk in preprocessing.chunks(texts) for row in _rows(tokenizer.tokenize(chunk))
        )
        for i, tokens in enumerate(tokenized):
            skipped.add("empty", records[i], not len(tokens))
            for start in range(0, len(tokens), room):
                part = tokens[start : start + room]
                row = np.concatenate([around.prefix.ids, part, around.suffix.ids])
                rows.append(row.astype(np.int32))
                record_ids.append(i)
        if not rows:
            raise ValueError(f"nothing to learn: all of {len(records)} texts are empty")
        asked = {}
        if cls.option(config, "mask_each"):
            rows, copied, asked = _one_by_one(rows, ordinary, masking.mask_id)
            record_ids, masking = np.array(record_ids)[copied], None
        return Examples(
            np.concatenate(rows),
            np.cumsum([0, *map(len, rows)]),
            {"weight": np.ones(len(rows), np.float32), **asked},
            np.array(record_ids, np.int32),
            records,
            skipped=skipped,
            masking=masking,
        )

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy of the tokens that are asked for; `outputs` (B, 1): how many are found.

        Args:
          batch: with `masked_at` and `targets` (B, P) int32, where those tokens stand and which
            they are, and `loss_mask` (B, P) float32, their weights.
          features, regularizers: see `Task.batch_loss`.
        """
        hidden = tf.gather(features, batch["masked_at"], batch_dims=1)  # (B, P, D)
        B, P = tf.unstack(tf.shape(batch["targets"]))
        hidden = ops.reshape(hidden, (B * P, self.config.hidden_size))
        # Of these places alone: logits of all would be several times as many.
        logits = self.logits(self.backbone.final_norm(hidden))  # (B * P, V)
        targets = ops.reshape(batch["targets"], (B * P,))
        weights = ops.reshape(batch["loss_mask"], (B * P,))
        total, terms = cross_entropy(logits, targets, weights, regularizers)
        found = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
        found = ops.where(found, weights, 0.0)
        terms, weights, found = (
            ops.sum(ops.reshape(x, (B, P)), axis=1) for x in (terms, weights, found)
        )  # (B,) each
        rows = ops.stack([terms, weights], axis=1)  # (B, 2)
        return Loss(total, ops.sum(weights), found[:, None], rows)

    def new_metrics(self, source=None):
        record_ids = None if source is None else source.examples.record_ids
        return metrics.MaskedLanguageMetrics(record_ids, self.option(self.config, "mask_each"))

    def fill_mask(self, texts):
        """The most likely tokens for the first mask token of each text; works in a `tf.function`.

        Args:
          texts: (B,) string, with the tokenizer's mask token written in them. One longer than the
            model's context loses its end.

        Returns:
          dict of `tokens` (B, k) string and `scores` (B, k) float32, the most likely first, their
          probabilities; `texts` (B, k) string, the text with each, as the tokenizer writes it; and
          `num_masks` (B,) int32, how many there are. Where there is none, tokens and texts are
          empty and scores 0.

        Raises:
          ValueError: no tokenizer, or one without a mask token.
        """
        tokenizer = self.require_tokenizer()
        mask, k = mask_token(tokenizer), self.option(self.config, "fill_top_k")
        batch = preprocessing.batch(texts, tokenizer, self.config)
        token_ids, real = batch["token_ids"], batch["padding_mask"]
        is_mask = (token_ids == mask) & real  # (B, T)
        num_masks = tf.math.count_nonzero(is_mask, axis=1, dtype=tf.int32)  # (B,)
        at = _first(is_mask)  # (B,)

        def best(**some):
            is_mask = (some["token_ids"] == mask) & some["padding_mask"]  # (b, t)
            hidden = tf.gather(self.backbone(**some), _first(is_mask), batch_dims=1)  # (b, D)
            logits = self.logits(hidden)[:, : tokenizer.vocab_size]
            return tf.math.top_k(tf.nn.softmax(logits), k)

        k = min(k, tokenizer.vocab_size)
        empty = [tf.zeros([0, k]), tf.zeros([0, k], tf.int32)]
        scores, tokens = pieces.map_batch(best, batch, empty)  # (B, k)
        there = (num_masks > 0)[:, None]  # (B, 1)
        filled = _filled(token_ids, real, at, tokens, tokenizer)
        words = tokenizer.detokenize(tf.reshape(tokens, (-1, 1)))  # (B * k,)
        shape = tf.shape(tokens)
        return {
            "tokens": tf.where(there, tf.reshape(utf8.replace_invalid(words), shape), ""),
            "scores": tf.where(there, scores, 0.0),
            "texts": tf.where(there, tf.reshape(utf8.replace_invalid(filled), shape), ""),
            "num_masks": num_masks,
        }

    def signatures(self):
        tokenizer = self.require_tokenizer()
        mask = tokenizer.id_to_token(mask_token(tokenizer))
        example = {"texts": f"The capital of France is {mask}."}
        return {"fill_mask": Served(self.fill_mask, {"texts": "text"}, example)}


def mask_token(tokenizer) -> int:
    """Its mask token. Raises ValueError if it has none."""
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "the tokenizer has no mask token: name one of its tokens mask_token in "
            "tokenizer_config.json"
        )
    return tokenizer.mask_token_id


def _one_by_one(rows, ordinary, mask_id):
    """Rows with one token masked each, of which rows they are copies, and what is asked for."""
    places = [np.flatnonzero(ordinary[row]) for row in rows]
    copied = np.repeat(np.arange(len(rows)), [len(some) for some in places])
    places = np.concatenate(places).astype(np.int32)
    if not len(places):
        raise ValueError("--mask_each: all tokens of all texts are special or unknown ones")
    copies = [rows[i].copy() for i in copied]
    targets = np.array([copy[at] for copy, at in zip(copies, places, strict=True)], np.int32)
    for copy, at in zip(copies, places, strict=True):
        copy[at] = mask_id
    asked = {"masked_at": places, "targets": targets, "loss_mask": np.ones(len(copies), np.float32)}
    return copies, copied, {name: values[:, None] for name, values in asked.items()}  # (n, 1)


def _rows(tokens: tf.RaggedTensor) -> list[np.ndarray]:
    return np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])


def _first(is_mask):
    """(B, T) bool -> (B,) int32, the first place that is true, or 0."""
    return tf.argmax(tf.cast(is_mask, tf.int32), axis=1, output_type=tf.int32)


def _filled(token_ids, real, at, tokens, tokenizer):
    """Texts (B * k,) with each of the tokens (B, k) at a place (B,), without what goes around."""
    around = tokenizer.post_processor.single
    B, k = tf.unstack(tf.shape(tokens))
    T = tf.shape(token_ids)[1]
    is_place = tf.range(T) == at[:, None, None]  # (B, 1, T)
    filled = tf.where(is_place, tokens[:, :, None], token_ids[:, None])  # (B, k, T)
    lengths = tf.math.count_nonzero(real, axis=1, dtype=tf.int32) - len(around.suffix.ids)  # (B,)
    lengths = tf.repeat(tf.maximum(lengths - len(around.prefix.ids), 0), k)  # (B * k,)
    filled = tf.reshape(filled, (B * k, T))[:, len(around.prefix.ids) :]
    return tokenizer.detokenize(tf.RaggedTensor.from_tensor(filled, lengths))
