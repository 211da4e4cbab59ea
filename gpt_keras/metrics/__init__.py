"""Metrics: what an evaluation reports, collected batch by batch."""

from gpt_keras.metrics.classification import ClassificationMetrics
from gpt_keras.metrics.language_model import LanguageModelMetrics
from gpt_keras.metrics.metrics import Metrics

__all__ = ["ClassificationMetrics", "LanguageModelMetrics", "Metrics"]
