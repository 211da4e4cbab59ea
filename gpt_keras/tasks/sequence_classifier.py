"""SequenceClassifier: one label, or any number, for a whole text or a pair of texts."""

import itertools
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import metrics, pieces, pooling, preprocessing
from gpt_keras.layers import Projection
from gpt_keras.losses import PLAIN, Loss, binary_cross_entropy, cross_entropy
from gpt_keras.tasks import class_weights
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.records import index_of, label_names, label_of, labels_of, text_of
from gpt_keras.tasks.text_task import Option, Served, TextTask

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
PAIRS = Option(
    False, "a record is a pair, text and text_pair, and so is a request; as the data have it"
)
POOLING = Option(
    "", "which tokens' vectors become the text's; empty: of an embedder as its directory says or "
    "mean, of a classifier as in Hugging Face: last, or an encoder's first through one more layer",
    ("", *pooling.POOLINGS),
)  # fmt: skip


class SequenceClassifier(TextTask):
    """Classifier: token ids (B, T) int -> logits (B, C) float32, one per label of `id2label`.

    The vector of the last real token goes through a linear head without bias, as in Hugging Face's
    `LlamaForSequenceClassification`; with a `pooler` that of the first through two layers with
    biases and tanh between them, as in its `BertForSequenceClassification`. With the option
    `pooling` it is the vector that it says, through the last layer alone.
    """

    NAME, PIPELINE_TAG = "classification", "text-classification"
    METRICS = metrics.ClassificationMetrics
    columns = (("text", "text_pair", "label"), ("text", "label"))
    free_texts = ("text", "text_pair")
    has_labels = names_labels = True
    TARGET = "label"  # what a batch calls what is to be said
    options: ClassVar = {
        "problem_type": Option(SINGLE, "labels of a text: one, or any number", (SINGLE, MULTI)),
        "pairs": PAIRS,
        "pooling": POOLING,
        "label_separator": Option("", "what stands between several labels in a string"),
        "threshold": Option(0.5, "score from which one of several labels counts as said"),
        "class_weights": Option(
            "", "of the labels in the training loss: balanced (all count alike), or NAME=WEIGHT,..."
        ),
        "focal_gamma": Option(0.0, "above 0: what is right already counts less in training"),
        "calibrate": Option(True, "after training, fit --temperature on the eval data"),
        "temperature": Option(1.0, "what logits are divided by before scores are made of them"),
    }

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        self.check(config)
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.pooler = None
        if config.pooler and not self.is_ours:
            self.pooler = Projection(
                config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="pooler"
            )
            self.pooler.build((None, config.hidden_size))
        self.score = Projection(
            config, len(config.id2label), config.pooler, dtype=self.dtype_policy, name="score"
        )
        self.score.build((None, config.hidden_size))
        self.built = True

    @property
    def is_ours(self):
        return bool(self.option(self.config, "pooling"))

    @classmethod
    def check(cls, config) -> None:
        """Raises ValueError for what is no configuration of this task."""
        if len(config.id2label) < 2:
            raise ValueError(
                f"id2label={config.id2label!r}: a classifier needs two labels or more; give "
                "from_pretrained(..., id2label=(...)) the names in index order"
            )
        for name, low, high in (
            ("threshold", 0, 1), ("focal_gamma", -1e-9, 100), ("temperature", 0, 1e6),
        ):  # fmt: skip
            value = cls.option(config, name)
            if not low < value < high:
                raise ValueError(f"--{name}={value}: give a number between {low:g} and {high:g}")
        weights = cls.option(config, "class_weights")
        if weights != class_weights.BALANCED:
            class_weights.parse(weights, config.id2label)

    def call(self, token_ids, padding_mask=None, token_type_ids=None, training=False):
        """Logits of the labels.

        Args:
          token_ids: (B, T) int.
          padding_mask: (B, T) bool, False on padding (left or right); None when all are real.
          token_type_ids: as of `GPTBackbone.call`.
        """
        hidden = self.backbone(
            token_ids, None, padding_mask, token_type_ids=token_type_ids, training=training
        )
        return self.classify(hidden, padding_mask, training)

    def classify(self, hidden, padding_mask=None, training=False):
        """(B, T, D) hidden states after the last norm -> (B, C) float32."""
        return ops.cast(self.score(self.pool(hidden, padding_mask, training)), "float32")

    def pool(self, hidden, padding_mask=None, training=False):
        """(B, T, D) hidden states after the last norm -> (B, D), what the head sees of a text."""
        if self.pooler is None:
            return pooling.POOLINGS[self.option(self.config, "pooling") or "last"](
                hidden, padding_mask
            )
        pooled = ops.tanh(self.pooler(pooling.first(hidden, padding_mask)))
        return self.backbone.dropout(pooled, training=training)

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Texts, or pairs, and their labels; a text longer than `max_length` loses its end."""
        multi = cls.option(config, "problem_type") == MULTI
        labels = [cls.labels_in(record, config) for record in records]
        names = label_names(itertools.chain.from_iterable(labels), config.id2label)
        index = {name: i for i, name in enumerate(names)}
        holds = np.zeros((len(records), len(names)), np.float32)
        for row, record, found in zip(holds, records, labels, strict=True):
            row[[index_of(record, label, index) for label in found]] = 1
        options = {}
        if cls.option(config, "class_weights") == class_weights.BALANCED:
            options["class_weights"] = class_weights.balanced(holds.sum(axis=0), len(holds), multi)
        label = holds if multi else np.argmax(holds, axis=1).astype(np.int32)
        return cls._examples(
            records, {"label": label}, tokenizer, config, max_length, labels=names, options=options
        )

    @classmethod
    def labels_in(cls, record, config):
        if cls.option(config, "problem_type") == MULTI:
            return labels_of(record, cls.option(config, "label_separator"))
        return [label_of(record)]

    @classmethod
    def _examples(cls, records, targets, tokenizer, config, max_length, options=(), **fields):
        """Examples of records with these targets by row."""
        pairs, filler = cls._pairs(records, config), preprocessing.filler(config)
        texts = [text_of(record) for record in records]
        second = [text_of(record, "text_pair") for record in records] if pairs else None
        rows = preprocessing.encode_all(texts, tokenizer, max_length, filler, second)
        n = len(records)
        return Examples(
            rows.values,
            rows.row_splits,
            {**targets, "weight": np.ones(n, np.float32)},
            np.arange(n, dtype=np.int32),
            records,
            token_targets={"token_type_ids": rows.types} if config.token_types else {},
            num_truncated=rows.num_truncated,
            options={**dict(options), "pairs": pairs},
            **fields,
        )

    @classmethod
    def _pairs(cls, records, config) -> bool:
        """Whether the records are pairs: as the model's are, or else as the first one is."""
        known = config.task_params.get(cls.NAME, {}).get("pairs")
        pairs = "text_pair" in records[0] if known is None else known
        for record in records:
            if ("text_pair" in record) != pairs:
                has, others = ("no", "have one") if pairs else ("a", "have none")
                whose = "the other records" if known is None else "the model's records"
                raise ValueError(
                    f"{record['where']}: has {has} text_pair, and {whose} {others}; --pairs or "
                    "--nopairs to train anew, --text_pair_column names the column, or none to "
                    "leave it out"
                )
        return pairs

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Mean of `target_losses`, weighted by `weight` (B,) float32.

        With `mixup` (B,) float32 a text keeps that share, and has the rest of the vector and of the
        losses of the text before it (Zhang et al., 2018, https://arxiv.org/abs/1710.09412; of what
        the head sees: Guo et al., 2019, https://arxiv.org/abs/1905.08941).
        """
        hidden, weights = self.backbone.final_norm(features), batch["weight"]
        pooled = self.pool(hidden, batch["padding_mask"], regularizers.training)  # (B, D)
        target = batch[self.TARGET]
        if "mixup" not in batch:
            logits = ops.cast(self.score(pooled), "float32")  # (B, C)
            terms, weights = self.target_losses(logits, target, weights, regularizers)
        else:
            # Nothing is mixed with rows that only fill the batch.
            kept = ops.where(ops.roll(weights, 1) > 0, batch["mixup"], 1.0)  # (B,)
            share = ops.cast(kept, pooled.dtype)[:, None]
            pooled = share * pooled + (1 - share) * ops.roll(pooled, 1, axis=0)
            logits = ops.cast(self.score(pooled), "float32")  # (B, C)
            own = self.target_losses(logits, target, weights, regularizers)
            other = self.target_losses(logits, ops.roll(target, 1, axis=0), weights, regularizers)
            terms, weights = (
                kept * a + (1 - kept) * b for a, b in zip(own, other, strict=True)
            )  # (B,) each
        rows = ops.stack([terms, weights], axis=1)  # (B, 2)
        return Loss(ops.sum(terms), ops.sum(weights), logits, rows)

    def target_losses(self, logits, label, weights, regularizers):
        """Cross-entropy of labels, and its weights; class weights and focal loss in training alone.

        Args:
          logits: (B, C) float32.
          label: (B,) int32, or of several labels (B, C) float32.
          weights: (B,) float32.
          regularizers: see `losses.Regularizers`.

        Returns:
          (B,) float32 each: the losses times the weights, and these.
        """
        gamma, of_labels = 0.0, None
        if regularizers.training:
            gamma = self.option(self.config, "focal_gamma")
            text = self.option(self.config, "class_weights")
            of_labels = class_weights.parse(text, self.config.id2label)
        if self.multi_label:
            positive = 1.0 if of_labels is None else of_labels
            losses = binary_cross_entropy(logits, label, weights, regularizers, gamma, positive)
            return losses[1], weights
        if of_labels is not None:
            weights = weights * ops.take(of_labels, label)
        return cross_entropy(logits, label, weights, regularizers, gamma)[1], weights

    @property
    def multi_label(self) -> bool:
        """Whether a text has any number of labels, and not one."""
        return self.option(self.config, "problem_type") == MULTI

    def new_metrics(self, source=None):
        names, temperature = self.config.id2label, self.option(self.config, "temperature")
        if self.multi_label:
            threshold = self.option(self.config, "threshold")
            return metrics.MultiLabelMetrics(names, temperature, threshold)
        return metrics.ClassificationMetrics(names, temperature)

    def calibrate(self, metrics) -> None:
        """Fits the temperature (Guo et al., 2017, https://arxiv.org/abs/1706.04599)."""
        if self.option(self.config, "calibrate") and metrics.num_samples:
            metrics.temperature = 1.0
            temperature = round(metrics.calibrate(), 6)
            metrics.temperature = temperature
            self.config = self.with_options(self.config, temperature=temperature)

    def signatures(self):
        self.require_tokenizer()

        def classify(texts, pairs=None):
            labels, scores = self.classify_texts(texts, pairs)
            answer = {"labels": labels, "scores": scores}
            if self.multi_label:
                said = scores >= self.option(self.config, "threshold")  # (B, C)
                answer["num_labels"] = tf.math.count_nonzero(said, axis=1, dtype=tf.int32)
            return answer

        return {"classify": Served(classify, *self._inputs(), call="classify")}

    def _inputs(self):
        """Inputs of a signature and an example of them, see `Served`."""
        inputs, example = {"texts": "text"}, {"texts": "The weather is nice today."}
        if self.option(self.config, "pairs"):
            inputs["pairs"], example["pairs"] = "text_pair", "The sun is shining."
        return inputs, example

    def classify_texts(self, texts, pairs=None):
        """Labels of texts, the most likely first; works in a `tf.function` too.

        The tokenizer's special tokens are put around each. A text longer than the model's context
        loses its end, as in training.

        Args:
          texts: (B,) string.
          pairs: (B,) string, the second text of each, of a model trained on pairs.

        Returns:
          labels (B, C) string and their scores (B, C) float32, falling: probabilities of sum 1, or
          where a text has any number of labels, of each label on its own.

        Raises:
          ValueError: the model has no tokenizer.
        """
        logits = self.text_logits(texts, pairs) / self.option(self.config, "temperature")  # (B, C)
        scores = ops.sigmoid(logits) if self.multi_label else ops.softmax(logits)
        scores, order = tf.math.top_k(scores, len(self.config.id2label))
        return tf.gather(tf.constant(self.config.id2label), order), scores

    def text_logits(self, texts, pairs=None):
        """Logits (B, C) of texts; arguments as of `classify_texts`."""
        batch = preprocessing.batch(texts, self.require_tokenizer(), self.config, pairs)
        empty = tf.zeros([0, self.score.units])
        return pieces.map_batch(lambda **some: [self(**some)], batch, [empty])[0]
