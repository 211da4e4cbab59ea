"""MultiTask: several tasks on one backbone."""

from collections.abc import Mapping

import keras

from gpt_keras.config import GPTConfig
from gpt_keras.losses import PLAIN, Loss
from gpt_keras.metrics import MultiTaskMetrics
from gpt_keras.tasks.task import Task
from gpt_keras.tasks.text_task import TASKS, TextTask

MARK = "task/"  # before the name of its task, a key of every batch


class MultiTask(Task):
    """A backbone with the heads of several tasks, which learn in turns.

    Caruana, 1997, "Multitask Learning".

    Every batch is of one task, and says so by the key `task/NAME`.

    Args:
      config: its `task_params` have an entry for each task by the name that it has here: which of
        `TASKS` it is as `task`, the names of its labels as `id2label`, its options. See
        `joint_config`.

    Attributes:
      tasks: name -> `TextTask`; all have this model's backbone.

    Raises:
      ValueError: fewer than two tasks.
    """

    NAME, PIPELINE_TAG = "multi_task", "text-classification"
    METRICS = MultiTaskMetrics

    def __init__(self, config: GPTConfig, tokenizer=None, dtype=None, **kwargs):
        names = [name for name, params in config.task_params.items() if params.get("task") in TASKS]
        if len(names) < 2:
            raise ValueError(
                f"task_params={dict(config.task_params)}: expected two tasks or more, each with "
                f"task: one of {', '.join(TASKS)}"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.tasks: dict[str, TextTask] = {}
        for name in names:
            with keras.name_scope(name):  # or the variables of two heads could have one path
                kind = TASKS[config.task_params[name]["task"]]
                self.tasks[name] = kind(
                    config_of(config, name), tokenizer, self.dtype_policy, backbone=self.backbone
                )
        self.built = True

    @property
    def embedding(self):
        """The `SentenceEmbedding` of the task that makes embeddings; None if there is none."""
        return next((task.embedding for task in self.tasks.values() if task.embedding), None)

    def read_settings(self, path: str) -> None:
        for task in self.tasks.values():
            task.read_settings(path)

    def task_of(self, batch) -> TextTask:
        """The task that a batch is of."""
        return next(task for name, task in self.tasks.items() if MARK + name in batch)

    def features(self, batch, *args, **options):
        return self.task_of(batch).features(batch, *args, **options)

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        return self.task_of(batch).batch_loss(batch, features, regularizers)

    def new_metrics(self, source=None):
        sources = dict.fromkeys(self.tasks) if source is None else source.sources
        return MultiTaskMetrics(
            {name: self.tasks[name].new_metrics(one) for name, one in sources.items()}
        )

    def calibrate(self, metrics) -> None:
        for name, found in metrics.tasks.items():
            self.tasks[name].calibrate(found)
        tasks = {name: (task.NAME, task.config) for name, task in self.tasks.items()}
        self.config = joint_config(self.config, tasks)

    def signatures(self):
        """Those of all tasks; a task with a name of its own has it behind theirs."""
        return {
            signature if name == task.NAME else f"{signature}_{name}": served
            for name, task in self.tasks.items()
            for signature, served in task.signatures().items()
        }


def config_of(config: GPTConfig, name: str) -> GPTConfig:
    """The configuration of one of the tasks of a `MultiTask`."""
    params = dict(config.task_params[name])
    task, labels = params.pop("task"), tuple(params.pop("id2label", ()))
    return config.replace(id2label=labels, task_params={task: params} if params else {})


def joint_config(config: GPTConfig, tasks: Mapping[str, tuple[str, GPTConfig]]) -> GPTConfig:
    """The configuration of a `MultiTask`; undoes `config_of`.

    Args:
      config: of the backbone.
      tasks: what each is called -> which it is, one of `TASKS`, and its configuration.
    """
    params = {}
    for name, (task, one) in tasks.items():
        labels = {"id2label": list(one.id2label)} if one.id2label else {}
        params[name] = {"task": task, **labels, **one.task_params.get(task, {})}
    return config.replace(id2label=(), task_params=params)
