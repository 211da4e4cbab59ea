"""Parts of a model: the embedding, each block, and the head with the last norm."""

from collections.abc import Sequence

import keras

from gpt_keras.tasks import Task


def parts_of(task: Task, variables: Sequence[keras.Variable]) -> tuple[list[str], list[int]]:
    """The parts that variables belong to.

    Returns:
      Names of the parts that have any of the variables, from below; and of each variable the
      index of its part.
    """
    numbers = [_layer(task, v) for v in variables]
    present, last = sorted(set(numbers)), task.config.num_layers + 1
    names = {0: "embedding", last: "head"}
    return [names.get(i, f"block_{i - 1}") for i in present], [present.index(i) for i in numbers]


def layer_rates(task: Task, variables: Sequence[keras.Variable], decay: float) -> list[float]:
    """Shares of the learning rate for `--layer_lr_decay`, smaller the lower the layer.

    The last norm and the head have 1, the last block `decay`, the one below `decay`^2 ..., the
    embedding, tied to the head or not, the lowest (as in ELECTRA, Clark et al., 2020).
    """
    last = task.config.num_layers + 1
    return [decay ** (last - _layer(task, v)) for v in variables]


def unfreeze_starts(task: Task, variables: Sequence[keras.Variable], steps: int) -> list[int]:
    """Updates before each variable learns, for `--unfreeze_steps`.

    The last norm and the head learn at once, the last block after `steps` updates, the one below
    after as many more ... (gradual unfreezing: Howard & Ruder, 2018,
    https://arxiv.org/abs/1801.06146, section 3.3).
    """
    last = task.config.num_layers + 1
    return [steps * (last - _layer(task, v)) for v in variables]


def _layer(task: Task, variable: keras.Variable) -> int:
    """0: the embedding, tied to the head or not; 1 ...: the blocks; L + 1: what is above them."""
    embedding, blocks = task.backbone.embedding, task.backbone.blocks
    for i, block in enumerate(blocks):
        if any(v is variable for v in block.trainable_variables):
            return i + 1
    in_embedding = any(v is variable for v in embedding.trainable_variables)
    is_head = variable is embedding.head and variable is not embedding.table
    return 0 if in_embedding and not is_head else len(blocks) + 1
