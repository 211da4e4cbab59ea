"""SequenceRegressor: a number for a whole text or a pair of texts."""

from typing import ClassVar

import numpy as np
from keras import ops

from gpt_keras import metrics
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.records import number_of
from gpt_keras.tasks.sequence_classifier import PAIRS, POOLING, SequenceClassifier
from gpt_keras.tasks.text_task import Served


class SequenceRegressor(SequenceClassifier):
    """Regression: token ids (B, T) int -> (B, 1) float32.

    The head is a classifier's of one label, whose logit is the number, as in Hugging Face's classes
    for sequence classification with the problem type "regression".
    """

    NAME = "regression"
    METRICS = metrics.RegressionMetrics
    columns = (("text", "text_pair", "score"), ("text", "score"))
    answers = ("score",)
    has_labels = False
    TARGET = "score"
    options: ClassVar = {"pairs": PAIRS, "pooling": POOLING}
    LABELS = ("LABEL_0",)  # Hugging Face's name of the only one

    @classmethod
    def check(cls, config) -> None:
        """Raises ValueError for what is no configuration of this task."""
        if len(config.id2label) != 1:
            raise ValueError(
                f"id2label={config.id2label!r}: a number has one label; give from_pretrained(..., "
                f"id2label={cls.LABELS!r})"
            )

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Texts, or pairs, and their numbers; a text longer than `max_length` loses its end."""
        scores = np.array([number_of(record) for record in records], np.float32)
        return cls._examples(
            records, {"score": scores}, tokenizer, config, max_length, labels=cls.LABELS
        )

    def target_losses(self, logits, score, weights, regularizers):
        """Squared error of the only logit; see `SequenceClassifier.target_losses`."""
        if regularizers.label_smoothing or regularizers.z_loss:
            raise ValueError("--label_smoothing, --z_loss: of no use to numbers; leave them out")
        return ops.square(logits[:, 0] - score) * weights, weights

    def new_metrics(self, source=None):
        return metrics.RegressionMetrics()

    def calibrate(self, metrics) -> None:
        """Numbers have no temperature."""

    def signatures(self):
        self.require_tokenizer()

        def regress(texts, pairs=None):
            return {"value": self.regress_texts(texts, pairs)}

        return {"regress": Served(regress, *self._inputs(), call="regress")}

    def regress_texts(self, texts, pairs=None):
        """Numbers (B,) float32 of texts; arguments as of `classify_texts`."""
        return self.text_logits(texts, pairs)[:, 0]
