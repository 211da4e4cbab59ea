"""TaskData: what a task of a run learns from, is judged by and is tested on."""

import dataclasses
import sys

from gpt_keras.config import GPTConfig
from gpt_keras.tasks import TASKS
from gpt_keras.tasks.examples import Examples
from trainers import data, folds
from trainers.agreement import digest
from trainers.args import FlagValues, UsageError
from trainers.features import LanguageFeatures

Features = Examples | LanguageFeatures


@dataclasses.dataclass(frozen=True)
class TaskData:
    """Features of a task, None where there are none.

    Attributes:
      name: what the run calls it.
      task: which it is, one of `data.TASKS`.
      config: of the model, with the labels of the training data.
      train, eval, test: see `data.make_features`.
    """

    name: str
    task: str
    config: GPTConfig
    train: Features | None
    eval: Features | None
    test: Features | None

    @classmethod
    def read(
        cls,
        name: str,
        task: str,
        config: GPTConfig,
        tokenizer,
        flags: FlagValues,
        with_train: bool = True,
    ) -> "TaskData":
        """Reads the files that the flags name, and says what of them is lost.

        Args:
          name, task: see the attributes.
          config: of the model, see `data.configure`.
          tokenizer: the model's.
          flags: of `trainers.finetune`.
          with_train: False where --train_data is read by others.
        """
        several = "," in flags.task
        samples = f"samples of {name}" if several else "samples"
        train_files, eval_files, test_files = (
            _files_of(name, flag, flags) if several else flags[flag].value
            for flag in ("train_data", "eval_data", "test_data")
        )
        records = {"eval": None, "test": None}
        train = None
        if with_train:
            training, records["eval"] = folds.load(task, flags, train_files, eval_files)
            train = _features(f"training {samples}", training, task, tokenizer, flags, config)
            if isinstance(train, Examples):
                config = config.replace(id2label=train.labels)
                config = TASKS[task].with_options(config, **train.options)
        elif eval_files:
            records["eval"] = data.load_records(task, eval_files, flags)
        # Read before the long run begins, so that a mistake in it shows at once.
        if test_files:
            records["test"] = data.load_records(task, test_files, flags)
        for part, some in records.items():
            if with_train and some and (count := data.overlap(task, some, training)):
                print(
                    f"warning: {count} of {len(some)} {part} {samples} are in the training data "
                    "too; what is measured on them says little of new texts",
                    file=sys.stderr,
                )
        found = {
            part: _features(
                f"{part} {samples}", some, task, tokenizer, flags, config, seen_only=with_train
            )
            if some
            else None
            for part, some in records.items()
        }
        return cls(name, task, config, train, **found)

    @property
    def digests(self) -> dict[str, str]:
        """Of what workers have to agree on, by what it is."""
        return {
            f"the digest of the {part} data of --task={self.name}": _digest(getattr(self, part))
            for part in ("train", "eval", "test")
        }


def _files_of(name: str, flag: str, flags: FlagValues) -> list[str]:
    """The files of one of several tasks: they are written NAME=FILE.

    Raises:
      UsageError: a file of no task.
    """
    files, names = [], data.parse_tasks(flags.task)
    for value in flags[flag].value:
        owner, is_said, path = value.partition("=")
        if not is_said or owner not in names:
            raise UsageError(
                f"--{flag}: {value!r}: of several tasks, write NAME=FILE; names are "
                f"{', '.join(names)}"
            )
        if owner == name:
            files.append(path)
    return files


def _features(what, records, task, tokenizer, flags, config, seen_only=False) -> Features:
    features = data.make_features(task, records, tokenizer, flags, config, seen_only=seen_only)
    for line in data.notes(features, f"{len(records)} {what}", flags):
        print(line)
    return features


def _digest(features) -> str:
    """Of what is learned; the same records may lie at another place on another machine."""
    if isinstance(features, Examples):
        features = dataclasses.replace(features, records=())
    return digest(features)
