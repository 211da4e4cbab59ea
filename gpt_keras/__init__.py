"""GPT models, and encoders, for TensorFlow and Keras 3: train, fine-tune, generate, export."""

import os as _os

# Keras reads its backend once, at its first import; this package is written for TensorFlow.
_os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from gpt_keras.config import GPTConfig, RotaryConfig
from gpt_keras.tasks import (
    CausalLM,
    MaskedLM,
    RelationExtractor,
    SequenceClassifier,
    SequenceRegressor,
    TextEmbedder,
    TokenClassifier,
)

__version__ = "0.1.0"
__all__ = [
    "CausalLM",
    "GPTConfig",
    "MaskedLM",
    "RelationExtractor",
    "RotaryConfig",
    "SequenceClassifier",
    "SequenceRegressor",
    "TextEmbedder",
    "TokenClassifier",
]
