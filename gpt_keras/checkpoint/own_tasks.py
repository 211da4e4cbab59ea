"""What tasks say of themselves, so that nothing here has to know their names.

`tasks.Task` enters every task that is defined.
"""

from collections.abc import Mapping
from typing import NamedTuple

from gpt_keras.checkpoint.families import Weight


class OwnTask(NamedTuple):
    """A task that config.json calls by a name of ours where Hugging Face has no class for it.

    Attributes:
      has_labels: whether config.json names its labels.
      head: variables of its head and their tensors, where no family says otherwise.
    """

    has_labels: bool
    head: tuple[Weight, ...]


OWN_TASKS: dict[str, OwnTask] = {}  # by the name of the class


def enter(name: str, has_labels: bool, head_tensors: Mapping[str, str]) -> None:
    """Makes a task known.

    Args:
      name: of its class.
      has_labels: see `OwnTask`.
      head_tensors: path of a variable -> name of its tensor.
    """
    head = tuple(Weight(variable, (tensor,)) for variable, tensor in head_tensors.items())
    OWN_TASKS[name] = OwnTask(has_labels, head)


def heads() -> dict[str, tuple[Weight, ...]]:
    """By task, the heads that Hugging Face has no names for."""
    return {name: task.head for name, task in OWN_TASKS.items() if task.head}
