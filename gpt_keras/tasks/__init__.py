"""Tasks: a backbone with a head, from text to result."""

from gpt_keras import checkpoint
from gpt_keras.tasks.causal_lm import CausalLM
from gpt_keras.tasks.sequence_classifier import SequenceClassifier
from gpt_keras.tasks.task import Task
from gpt_keras.tasks.text_task import TextTask

# Tasks on whole texts, by the names that programs know them by.
TASKS: dict[str, type[TextTask]] = {task.NAME: task for task in (SequenceClassifier,)}


def of(path) -> type[Task]:
    """The class of the task that a model directory or file says it is of."""
    classes = {task.__name__: task for task in (CausalLM, *TASKS.values())}
    return classes[checkpoint.read_task(path)]


__all__ = ["TASKS", "CausalLM", "SequenceClassifier", "Task", "TextTask"]
