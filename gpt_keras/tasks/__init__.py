"""Tasks: a backbone with a head, from text to result."""

from gpt_keras.tasks.causal_lm import CausalLM
from gpt_keras.tasks.sequence_classifier import SequenceClassifier
from gpt_keras.tasks.task import Task

__all__ = ["CausalLM", "SequenceClassifier", "Task"]
