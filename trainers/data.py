"""Data: from the flags of a run to its batches, by task."""

import json
import re
from collections.abc import Sequence

from absl import flags as absl_flags

from gpt_keras.config import GPTConfig
from gpt_keras.tasks import ALIASES, MultipleChoice
from gpt_keras.tasks import TASKS as TEXT_TASKS
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.text_task import TextTask
from trainers import shards
from trainers.args import FlagValues, UsageError
from trainers.batches import BatchSource, ExampleBatches, PackedBatches, choose_bucket_lengths
from trainers.features import (
    LanguageFeatures,
    chat_features,
    completion_features,
    document_features,
)
from trainers.packing import pack
from trainers.records import read_records
from trainers.splits import is_held_out, normalize

# Names of a record's values, alternatives in order.
LANGUAGE_COLUMNS = {
    "causal_lm": (("prompt", "completion"), ("text",)),
    "chat": (("messages",),),
}
TASKS = (*LANGUAGE_COLUMNS, *sorted(TEXT_TASKS))


def task_flag(flags: FlagValues, text: str) -> None:
    """Defines --task."""
    names = (*TASKS, *ALIASES)
    absl_flags.DEFINE_string("task", None, f"<{'|'.join(names)}>: {text}", flag_values=flags)
    absl_flags.register_validator(
        "task",
        _are_tasks,
        f"expected one of {', '.join(names)}; or several of those on whole texts but "
        f"{MultipleChoice.NAME}, each with another name of letters, digits, _ and -, such as "
        "topic:classification,mood:classification",
        flag_values=flags,
    )


def _are_tasks(value: str | None) -> bool:
    """Whether it names a task, or several that one body can have, each with a name of its own."""
    if value is None or value in TASKS:
        return True
    names = parse_tasks(value)
    on_one_body = set(TEXT_TASKS)
    if len(names) > 1:
        on_one_body.remove(MultipleChoice.NAME)  # asks the language model's own head
    return (
        len(names) == value.count(",") + 1
        and set(names.values()) <= on_one_body
        and all(re.fullmatch(r"[\w-]+", name) for name in names)
    )


def parse_tasks(value: str) -> dict[str, str]:
    """--task, such as "classification" or "topic:classification,ner:token_classification".

    Returns:
      What the run calls each -> which task it is.
    """
    names = (part.partition(":") for part in value.split(","))
    return {name: ALIASES.get(task or name, task or name) for name, _, task in names}


def check_options(flags: FlagValues) -> None:
    """Raises UsageError for --labels or an option of tasks, if none of --task has a use for it."""

    def names(tasks):
        options = {name for task in tasks for name in task.options}
        return options | {"labels"} if any(task.has_labels for task in tasks) else options

    asked = parse_tasks(flags.task).values()
    used = names([TEXT_TASKS[task] for task in asked if task in TEXT_TASKS])
    for name in sorted(names(TEXT_TASKS.values()) - used):
        if flags[name].value != flags[name].default:
            raise UsageError(f"--{name} is of no use to --task={flags.task}: leave it out")


def longest(flags: FlagValues, name: str = "model") -> int:
    """Tokens of the longest text that the model of a flag takes for all tasks of --task.

    Raises:
      ValueError: there is no such model; the message names the flag.
    """
    kinds = {TEXT_TASKS.get(task, TextTask) for task in parse_tasks(flags.task).values()}
    path = flags[name].value
    try:
        return min(kind.longest(path) for kind in kinds)
    except ValueError as error:
        raise ValueError(f"--{name}={path}: {str(error).removeprefix(f'{path}: ')}") from error


def load_records(task: str, patterns: Sequence[str], flags: FlagValues) -> list[dict]:
    """Reads the files of --train_data or --eval_data.

    Args:
      task: one of `TASKS`.
      patterns: the flag's value.
      flags: those of `trainers.data_flags`.

    Raises:
      ValueError: naming file, line, value and remedy.
    """
    check_texts(patterns)
    return read_records(
        patterns, columns(task, flags), text_unit=flags.text_unit, encoding=flags.data_encoding
    )


def check_texts(patterns: Sequence[str]) -> None:
    """Raises UsageError for a folder of shards, where texts are wanted."""
    for pattern in patterns:
        if shards.is_folder(pattern):
            raise UsageError(
                f"{pattern} holds shards, which are for --train_data of trainers.pretrain or "
                "trainers.finetune --task=causal_lm; give files of texts"
            )


def load_split(
    task: str,
    flags: FlagValues,
    train_data: Sequence[str] | None = None,
    eval_data: Sequence[str] | None = None,
) -> tuple[list[dict], list[dict] | None]:
    """Records to train on, and those of `eval_data` or else of --eval_fraction; None for neither.

    Args:
      task: one of `TASKS`.
      flags: those of `trainers.data_flags`.
      train_data, eval_data: files; None: those of the flags.

    Raises:
      ValueError: as `load_records` and `hold_out`.
    """
    records = load_records(task, flags.train_data if train_data is None else train_data, flags)
    if eval_data := flags.eval_data if eval_data is None else eval_data:
        return records, load_records(task, eval_data, flags)
    if flags.eval_fraction:
        return hold_out(task, records, flags.eval_fraction)
    return records, None


def hold_out(task: str, records: Sequence[dict], fraction: float) -> tuple[list[dict], list[dict]]:
    """Parts records into those to train on and a share to evaluate on, by a hash of their content.

    Raises:
      ValueError: one side is empty.
    """
    train, held_out = [], []
    for record in records:
        (held_out if is_held_out(content(task, record), fraction) else train).append(record)
    if not train or not held_out:
        raise ValueError(
            f"--eval_fraction={fraction}: of {len(records)} records {len(held_out)} would be held "
            "out; give another share, 0 for none, or files with --eval_data"
        )
    return train, held_out


def overlap(task: str, records: Sequence[dict], others: Sequence[dict]) -> int:
    """How many of the records are among the others too, their answers aside."""
    known = {normalize(content(task, record)) for record in others}
    return sum(normalize(content(task, record)) in known for record in records)


def content(task: str, record: dict) -> str:
    """What makes two records the same, the answers aside."""
    answers = TEXT_TASKS[task].answers if task in TEXT_TASKS else ()
    fields = {name: value for name, value in record.items() if name not in ("where", *answers)}
    text = fields["text"] if set(fields) == {"text"} else fields
    return text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=str)


def make_features(
    task: str,
    records: Sequence[dict],
    tokenizer,
    flags: FlagValues,
    config: GPTConfig | None = None,
    *,
    seen_only: bool = False,
) -> Examples | LanguageFeatures:
    """Tokenizes records.

    Args:
      task: one of `TASKS`.
      records: see `load_records`.
      tokenizer: the model's.
      flags: those of `trainers.data_flags`.
      config: the model's, see `configure`; needed by tasks on whole texts.
      seen_only: to evaluate: a record with a label that the model has not is left out, and counted.
        Else it is an error.

    Raises:
      ValueError: naming file, line, value and remedy.
    """
    if task in TEXT_TASKS:
        unseen = []
        if seen_only and TEXT_TASKS[task].has_labels:
            records, unseen, reason = _seen(records, TEXT_TASKS[task], config)
        found = TEXT_TASKS[task].examples(records, tokenizer, config, flags.max_length)
        for record in unseen:
            found.skipped.add(reason, record)
        return found
    if task == "chat":
        return chat_features(records, tokenizer, max_length=flags.max_length)
    kinds = {"prompt" in record for record in records}
    if len(kinds) > 1:
        raise ValueError("the data holds plain texts as well as prompts; train on one kind at once")
    if kinds == {True}:
        return completion_features(records, tokenizer, max_length=flags.max_length)
    return document_features(records, tokenizer)


def _seen(records, task: type[TextTask], config) -> tuple[list[dict], list[dict], str]:
    """The records all of whose labels the model has; the others; and why they are left out."""
    known, seen, unseen, labels = set(config.id2label), [], [], set()
    for record in records:
        others = set(task.labels_in(record, config)) - known
        (unseen if others else seen).append(record)
        labels |= others
    reason = f"a label that training has not seen ({', '.join(sorted(labels))})"
    if not seen:
        raise ValueError(
            f"{records[0]['where']}: nothing is left of {len(records)} records: all have {reason}; "
            f"known are {', '.join(config.id2label)}"
        )
    return seen, unseen, reason


def notes(features: Examples | LanguageFeatures, what: str, flags: FlagValues) -> list[str]:
    """Lines on what of the data is lost; `what` says what data they are, and how many."""
    cut = f"cut to --max_length={flags.max_length} tokens"
    lost, counted = [("num_truncated", features.num_truncated, cut)], {}
    if isinstance(features, Examples):
        lost += [
            (why, count, f"left out: {why}, first {features.skipped.first[why]}")
            for why, count in features.skipped.items()
        ]
        counted = {name: f"{parts} in " for name, parts in features.counted.items()}
    return [f"{count} of {counted.get(name, '')}{what} {how}" for name, count, how in lost if count]


def columns(task: str, flags: FlagValues) -> list[dict[str, str]]:
    """Name in the record -> column in the file, as the flags have it; alternatives in order."""
    choices = TEXT_TASKS[task].columns if task in TEXT_TASKS else LANGUAGE_COLUMNS[task]
    return [{name: flags[f"{name}_column"].value for name in names} for names in choices]


def configure(task: str, config: GPTConfig, flags: FlagValues) -> GPTConfig:
    """A model's configuration with the labels and options of a task that the flags name."""
    if task not in TEXT_TASKS:
        return config
    of_task = TEXT_TASKS[task]
    given = {name: flags[name].value for name in of_task.options if flags[name].present}
    config = config.replace(id2label=tuple(flags.labels) or config.id2label)
    return of_task.with_options(config, **given)


def batch_source(
    features: Examples | LanguageFeatures,
    flags: FlagValues,
    *,
    global_batch_size: int,
    shuffle: bool,
    seed: int = 0,
    pad_id: int = 0,
    replicas: int = 1,
) -> BatchSource:
    """Batches of the features, with --length_buckets or --max_length and --packing.

    Args:
      features: see `make_features`.
      flags: those of `trainers.data_flags`.
      global_batch_size: rows of a batch, over all replicas and accumulation steps; to evaluate,
        a few more where a group of rows would be cut.
      shuffle: True to train, False to evaluate.
      seed: of the shuffling.
      pad_id: see `gpt_keras.preprocessing.filler`; what it is does not matter, since it is masked.
      replicas: that a batch is shared among, in whole groups.

    Raises:
      ValueError: a batch to train on larger than the data.
    """
    options = {"seed": seed, "shuffle": shuffle, "pad_id": pad_id}
    if isinstance(features, Examples):
        if not shuffle:  # to evaluate, as many more as fill the last group
            global_batch_size += -global_batch_size % (features.group * replicas)
        lengths = choose_bucket_lengths(features.lengths, flags.length_buckets)
        lengths = [min(length, flags.max_length) for length in lengths]
        options["mixup"] = flags.mixup if shuffle and "mixup" in flags else 0.0
        return ExampleBatches(features, global_batch_size, bucket_lengths=lengths, **options)
    rows = pack(features, flags.max_length, flags.packing)
    return PackedBatches(rows, global_batch_size, **options)


def run_source(
    features, flags: FlagValues, *, shuffle: bool, pad_id: int, replicas: int = 1
) -> BatchSource:
    """`batch_source` of a run: --global_batch_size rows to train on; to evaluate, a micro-batch.

    Raises:
      UsageError: a micro-batch of a replica would cut groups of rows.
    """
    rows = flags.global_batch_size if shuffle else micro_batch_size(flags)
    group, parts = getattr(features, "group", 1), flags.gradient_accumulation_steps * replicas
    if shuffle and group > 1 and rows % (group * parts):
        raise UsageError(
            f"--global_batch_size={rows}: {group} rows of this data belong together, and {parts} "
            f"micro-batches are made of a batch; give a multiple of {group * parts}"
        )
    return batch_source(
        features,
        flags,
        global_batch_size=rows,
        shuffle=shuffle,
        seed=flags.seed,
        pad_id=pad_id,
        replicas=replicas,
    )


def micro_batch_size(flags: FlagValues) -> int:
    """Rows of a micro-batch, of which evaluation takes as many at once: they fit."""
    return max(1, flags.global_batch_size // flags.gradient_accumulation_steps)
