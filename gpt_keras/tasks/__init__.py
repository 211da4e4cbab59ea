"""Tasks: a backbone with a head, from text to result."""

import importlib
import pkgutil

from gpt_keras import checkpoint
from gpt_keras.tasks.causal_lm import CausalLM
from gpt_keras.tasks.masked_lm import MaskedLM
from gpt_keras.tasks.multi_task import MultiTask
from gpt_keras.tasks.multiple_choice import MultipleChoice
from gpt_keras.tasks.question_answerer import QuestionAnswerer
from gpt_keras.tasks.relation_extractor import RelationExtractor
from gpt_keras.tasks.sequence_classifier import SequenceClassifier
from gpt_keras.tasks.sequence_regressor import SequenceRegressor
from gpt_keras.tasks.task import Task
from gpt_keras.tasks.text_embedder import TextEmbedder
from gpt_keras.tasks.text_task import ALIASES, TASKS, TextTask
from gpt_keras.tasks.token_classifier import TokenClassifier

# A task is there because its module is.
_MODULES = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]


def of(path) -> type[Task]:
    """The class of the task that a model directory or file says it is of."""
    every = (CausalLM, MultiTask, *TASKS.values())
    return {task.__name__: task for task in every}[checkpoint.read_task(path)]


__all__ = [
    "ALIASES", "TASKS", "CausalLM", "MaskedLM", "MultiTask", "MultipleChoice", "QuestionAnswerer",
    "RelationExtractor", "SequenceClassifier", "SequenceRegressor", "Task", "TextEmbedder",
    "TextTask", "TokenClassifier",
]  # fmt: skip
