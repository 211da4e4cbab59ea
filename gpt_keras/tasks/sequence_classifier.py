"""SequenceClassifier: one label for a whole text."""

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import metrics, pooling, preprocessing
from gpt_keras.layers import Projection
from gpt_keras.losses import PLAIN, Loss, cross_entropy
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.records import index_of, label_names, label_of, text_of
from gpt_keras.tasks.text_task import Served, TextTask


class SequenceClassifier(TextTask):
    """Classifier: token ids (B, T) int -> logits (B, C) float32, one per label of `id2label`.

    The vector of the last real token goes through a linear head without bias, as in Hugging Face's
    `LlamaForSequenceClassification`; with a `pooler` that of the first through two layers with
    biases and tanh between them, as in its `BertForSequenceClassification`.
    """

    NAME, PIPELINE_TAG = "classification", "text-classification"
    METRICS = metrics.ClassificationMetrics
    columns = (("text", "label"),)

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if len(config.id2label) < 2:
            raise ValueError(
                f"id2label={config.id2label!r}: a classifier needs two labels or more; give "
                "from_pretrained(..., id2label=(...)) the names in index order"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.pooler = None
        if config.pooler:
            self.pooler = Projection(
                config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="pooler"
            )
            self.pooler.build((None, config.hidden_size))
        self.score = Projection(
            config, len(config.id2label), config.pooler, dtype=self.dtype_policy, name="score"
        )
        self.score.build((None, config.hidden_size))
        self.built = True

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
        if self.pooler is None:
            pooled = pooling.last(hidden, padding_mask)
        else:
            pooled = ops.tanh(self.pooler(pooling.first(hidden, padding_mask)))
            pooled = self.backbone.dropout(pooled, training=training)
        return ops.cast(self.score(pooled), "float32")

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Texts and their labels; a text longer than `max_length` loses its end."""
        labels = [label_of(record) for record in records]
        names = label_names(labels, config.id2label)
        index = {name: i for i, name in enumerate(names)}
        label_ids = [index_of(*pair, index) for pair in zip(records, labels, strict=True)]
        rows = preprocessing.encode_all(
            [text_of(record) for record in records],
            tokenizer,
            max_length,
            preprocessing.filler(config),
        )
        n = len(records)
        targets = {"label": np.array(label_ids, np.int32), "weight": np.ones(n, np.float32)}
        return Examples(
            rows.values,
            rows.row_splits,
            targets,
            np.arange(n, dtype=np.int32),
            records,
            token_targets={"token_type_ids": rows.types} if config.token_types else {},
            labels=names,
            num_truncated=rows.num_truncated,
        )

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy of `label` (B,) int32, weighted by `weight` (B,) float32."""
        hidden = self.backbone.final_norm(features)
        logits = self.classify(hidden, batch["padding_mask"])  # (B, C)
        weights = batch["weight"]
        total, terms = cross_entropy(logits, batch["label"], weights, regularizers)
        return Loss(total, ops.sum(weights), logits, ops.stack([terms, weights], axis=1))

    def new_metrics(self, source=None):
        return metrics.ClassificationMetrics(self.config.id2label)

    def signatures(self):
        self.require_tokenizer()

        def classify(texts):
            labels, scores = self.classify_texts(texts)
            return {"labels": labels, "scores": scores}

        example = {"texts": "The weather is nice today."}
        return {"classify": Served(classify, {"texts": "text"}, example, call="classify")}

    def classify_texts(self, texts):
        """Labels of texts, the most likely first; works in a `tf.function` too.

        The tokenizer's special tokens are put around each. A text longer than the model's context
        loses its end, as in training.

        Args:
          texts: (B,) string.

        Returns:
          labels (B, C) string and their probabilities (B, C) float32, falling.

        Raises:
          ValueError: the model has no tokenizer.
        """
        batch = preprocessing.batch(texts, self.require_tokenizer(), self.config)
        scores = ops.softmax(self(**batch))  # (B, C)
        scores, order = tf.math.top_k(scores, len(self.config.id2label))
        return tf.gather(tf.constant(self.config.id2label), order), scores
