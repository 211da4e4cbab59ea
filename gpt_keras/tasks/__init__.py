"""Tasks: a backbone with a head, from text to result."""

from gpt_keras.tasks.causal_lm import CausalLM
from gpt_keras.tasks.masked_lm import MaskedLM
from gpt_keras.tasks.sequence_classifier import SequenceClassifier
from gpt_keras.tasks.task import Task
from gpt_keras.tasks.text_embedder import TextEmbedder

__all__ = ["CausalLM", "MaskedLM", "SequenceClassifier", "Task", "TextEmbedder"]
