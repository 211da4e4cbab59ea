"""Metrics: what an evaluation reports, collected batch by batch."""

from gpt_keras.metrics.classification import ClassificationMetrics
from gpt_keras.metrics.language_model import LanguageModelMetrics
from gpt_keras.metrics.masked_language import MaskedLanguageMetrics
from gpt_keras.metrics.metrics import Metrics
from gpt_keras.metrics.multi_label import MultiLabelMetrics
from gpt_keras.metrics.multi_task import MultiTaskMetrics
from gpt_keras.metrics.ranking import RankingMetrics
from gpt_keras.metrics.regression import RegressionMetrics
from gpt_keras.metrics.relations import RelationMetrics
from gpt_keras.metrics.similarity import SimilarityMetrics
from gpt_keras.metrics.tagging import TaggingMetrics

__all__ = [
    "ClassificationMetrics",
    "LanguageModelMetrics",
    "MaskedLanguageMetrics",
    "Metrics",
    "MultiLabelMetrics",
    "MultiTaskMetrics",
    "RankingMetrics",
    "RegressionMetrics",
    "RelationMetrics",
    "SimilarityMetrics",
    "TaggingMetrics",
]
