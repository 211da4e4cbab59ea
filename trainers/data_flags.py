"""Flags that say which data there are, and how they are read."""

import functools
import itertools
from collections.abc import Iterable

from absl import flags as absl_flags

from gpt_keras.tasks import TASKS
from gpt_keras.tasks.text_task import Option, TextTask
from trainers.args import FlagValues
from trainers.packing import PACKINGS
from trainers.records import TEXT_UNITS


def train_data_flags(flags: FlagValues) -> None:
    """Training data."""
    absl_flags.DEFINE_list(
        "train_data",
        [],
        "files to train on, comma-separated: JSONL, JSON, CSV, TSV, text or Parquet, also .gz and "
        ".zst; folders and globs too. Language models are trained on folders of "
        "trainers.prepare_data as well, as they are or as a mixture, wiki=0.7:DIR,code=0.3:DIR",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "eval_fraction",
        0.1,
        "share of the training data held out by a hash of the text; training takes --eval_data "
        "instead where it is given, and of prepared data what was held out then; 0: none",
        lower_bound=0.0,
        upper_bound=0.9,
        flag_values=flags,
    )


def text_flags(flags: FlagValues) -> None:
    """Texts."""
    absl_flags.DEFINE_string("text_column", "text", "column of the text", flag_values=flags)
    absl_flags.DEFINE_enum(
        "text_unit", "file", TEXT_UNITS, "what of a text file is one document",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "data_encoding", "utf-8", "character encoding of the data files, but for Parquet",
        flag_values=flags,
    )  # fmt: skip


def _columns() -> dict[str, str]:
    """Name of a record's value, `text` aside -> the tasks that read it."""
    used_by: dict[str, list[str]] = {
        "prompt": ["causal_lm"], "completion": ["causal_lm"], "messages": ["chat"],
    }  # fmt: skip
    for task in TASKS.values():
        for name in dict.fromkeys(itertools.chain.from_iterable(task.columns)):
            used_by.setdefault(name, []).append(task.NAME)
    return {name: ",".join(tasks) for name, tasks in used_by.items() if name != "text"}


def task_flags(flags: FlagValues) -> None:
    """Options of tasks."""
    option_flags(flags, TASKS.values())


def option_flags(flags: FlagValues, tasks: Iterable[type[TextTask]]) -> None:
    """Options of these tasks."""
    for name, (option, used_by) in _options(tasks).items():
        text = f"--task={','.join(used_by)}: {option.help}"
        if option.choices:
            absl_flags.DEFINE_enum(name, option.default, option.choices, text, flag_values=flags)
            continue
        define = {
            bool: absl_flags.DEFINE_boolean, int: absl_flags.DEFINE_integer,
            float: absl_flags.DEFINE_float, str: absl_flags.DEFINE_string,
        }[type(option.default)]  # fmt: skip
        range_ = {} if option.low is None else {"lower_bound": option.low}
        define(name, option.default, text, flag_values=flags, **range_)


def _options(tasks) -> dict[str, tuple[Option, list[str]]]:
    """Name of an option -> what it is, and the tasks that have it."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for task in tasks:
        for name, option in task.options.items():
            known, used_by = found.setdefault(name, (option, []))
            assert known == option, f"--{name} is two different things"
            used_by.append(task.NAME)
    return found


def data_flags(flags: FlagValues) -> None:
    """Data."""
    many, string, integer, enum = (
        functools.partial(define, flag_values=flags)
        for define in (
            absl_flags.DEFINE_list,
            absl_flags.DEFINE_string,
            absl_flags.DEFINE_integer,
            absl_flags.DEFINE_enum,
        )
    )
    many("eval_data", [], "files, folders or globs to evaluate on, written as --train_data")
    text_flags(flags)
    for name, used_by in _columns().items():
        string(f"{name}_column", name, f"column of the {name}, for --task={used_by}")
    labelled = ",".join(name for name, task in TASKS.items() if task.has_labels)
    many(
        "labels", [], "names of the labels in index order; empty: those in the data, sorted; for "
        f"--task={labelled}",
    )  # fmt: skip
    integer("max_length", 512, "tokens of a text or packed row; longer ones are cut", lower_bound=2)
    integer(
        "length_buckets",
        3,
        "lengths that whole texts are padded to; each costs a compilation of 8-22 s",
        lower_bound=1,
    )
    enum(
        "packing",
        "auto",
        PACKINGS,
        "texts in the rows of a language model: end to end, whole where they fit, or one a row; "
        "auto: end to end, but whole what is an answer to something (conversations, completions)",
    )
