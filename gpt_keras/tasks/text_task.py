"""TextTask: what every task that says something of whole texts has in common."""

import abc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from gpt_keras import checkpoint
from gpt_keras.config import GPTConfig
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.task import Task


class Option(NamedTuple):
    """A setting of a task, kept in the model's config.json; programs have a flag of its name.

    Attributes:
      default: bool, int, float or str, which is its type as well.
      help: what it does, in which unit.
      choices: all values there are, or () for any.
      low: the least value of a number, or None.
    """

    default: bool | int | float | str
    help: str
    choices: tuple[str, ...] = ()
    low: int | float | None = None


class Served(NamedTuple):
    """What a server offers of a task.

    Attributes:
      function: takes (B,) string tensors by the names of `inputs`, and gives a dict of tensors
        with B rows each; works in a `tf.function`.
      inputs: name -> the record's value that it is, as features of a `tf.Example` are called.
      example: name -> one text, a small request.
      call: which of TensorFlow Serving's calls on `tf.Example`s may ask it too, besides Predict:
        "classify" (outputs `labels` and `scores`), "regress" (output `value`) or "".
      fixed: inputs that are of a form, not any text: those of `example` are one that fits all.
    """

    function: Callable[..., Mapping[str, tf.Tensor]]
    inputs: Mapping[str, str]
    example: Mapping[str, str]
    call: str = ""
    fixed: tuple[str, ...] = ()


TASKS: dict[str, type["TextTask"]] = {}  # by the names that programs and config.json know them by
ALIASES: dict[str, str] = {}  # other names that programs know them by -> the name


class TextTask(Task, abc.ABC):
    """A task on whole texts. Its module says all of it.

    What a record is (`columns`), how texts become tokens (`examples`, in `signatures` too),
    head (`call`), loss (`batch_loss`), metrics (`new_metrics`) and signatures.

    Attributes:
      columns: names of a record's values; several choices, of which a record has all of one.
      answers: those of them that a model is to find; records that differ in nothing else are the
        same to it.
      options: name -> `Option`.
      free_texts: values whose words may change a little without changing the answer.
      has_labels: whether answers are labels, whose names a user may give; `labels_in` says which a
        record has.
      aliases: other names that programs know it by.
    """

    columns: ClassVar[tuple[tuple[str, ...], ...]]
    answers: ClassVar[tuple[str, ...]] = ("label",)
    options: ClassVar[Mapping[str, Option]] = {}
    free_texts: ClassVar[tuple[str, ...]] = ()
    has_labels: ClassVar[bool] = False
    aliases: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "NAME" in cls.__dict__:
            TASKS[cls.NAME] = cls
            ALIASES.update(dict.fromkeys(cls.aliases, cls.NAME))

    @classmethod
    def option(cls, config: GPTConfig, name: str):
        """The value of one of `options`. Raises ValueError where it is below the least one."""
        option = cls.options[name]
        value = config.task_params.get(cls.NAME, {}).get(name, option.default)
        if option.low is not None and value < option.low:
            raise ValueError(f"--{name}={value}: expected {option.low:g} or more")
        return value

    @classmethod
    def with_options(cls, config: GPTConfig, **values) -> GPTConfig:
        """A configuration with values of `options`; those of other tasks are dropped."""
        params = {**config.task_params.get(cls.NAME, {}), **values}
        return config.replace(task_params={cls.NAME: params} if params else {})

    @classmethod
    def longest(cls, path: str | os.PathLike) -> int:
        """Tokens of the longest text that the model of a directory or file takes."""
        return checkpoint.read_config(path).max_position_embeddings

    @classmethod
    @abc.abstractmethod
    def examples(
        cls, records: Sequence[Mapping[str, Any]], tokenizer, config: GPTConfig, max_length: int
    ) -> Examples:
        """Records as a model of this task learns them.

        Args:
          records: values by the names of `columns`, and `where`: file and line.
          tokenizer: see `gpt_keras.tokenizers`.
          config: of the model. Without `id2label` the labels are those in the records.
          max_length: tokens.

        Raises:
          ValueError: naming file, line, value and remedy.
        """

    @classmethod
    def labels_in(cls, record: Mapping[str, Any], config: GPTConfig) -> Iterable[str]:
        """Names of labels, as in `config.id2label`, that a record's answers are written with.

        Raises:
          ValueError: as `examples`.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def signatures(self) -> dict[str, Served]:
        """What a server offers, by name; the first is `serving_default` too.

        Raises:
          ValueError: the model has no tokenizer.
        """
