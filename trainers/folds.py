"""Folds and shares of the training data, by hashes of what the records say.

Which side a record falls on depends on its content and the seed alone, as in `trainers.splits`.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence

from absl import flags as absl_flags

from trainers import data
from trainers.args import FlagValues, UsageError
from trainers.splits import hash_fraction, normalize


def fold_flags(flags: FlagValues) -> None:
    """Parts of the training data."""
    absl_flags.DEFINE_string(
        "eval_fold", "", "I/K: hold out part I, from 0, of K of the training data, by a hash of "
        "the text and --seed, and evaluate on it; for trainers.cross_validate", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "train_samples", 0, "train on as many, each label as often as in all, by a hash of the "
        "text and --seed; fewer are among more; 0: all", lower_bound=0, flag_values=flags,
    )  # fmt: skip


def load(
    task: str,
    flags: FlagValues,
    train_data: Sequence[str] | None = None,
    eval_data: Sequence[str] | None = None,
) -> tuple[list[dict], list[dict] | None]:
    """As `data.load_split`, with --eval_fold and --train_samples.

    Raises:
      UsageError: a fold that is none, or more samples than there are.
      ValueError: as there, or an empty fold.
    """
    if flags.eval_fold:
        index, count = parse(flags.eval_fold)
        if flags.eval_data:
            raise UsageError("give --eval_fold or --eval_data, not both")
        patterns = flags.train_data if train_data is None else train_data
        records = data.load_records(task, patterns, flags)
        held_out = [fold_of(data.content(task, r), count, flags.seed) == index for r in records]
        train = [r for r, out in zip(records, held_out, strict=True) if not out]
        evaluation = [r for r, out in zip(records, held_out, strict=True) if out]
        if not train or not evaluation:
            raise ValueError(
                f"--eval_fold={flags.eval_fold}: of {len(records)} records {len(evaluation)} would "
                "be held out; take fewer folds or more data"
            )
    else:
        train, evaluation = data.load_split(task, flags, train_data, eval_data)
    if flags.train_samples:
        train = choose(task, train, flags.train_samples, flags.seed)
    return train, evaluation


def parse(text: str) -> tuple[int, int]:
    """(I, K) of "I/K"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if count < 2 or index >= count:
        raise UsageError(f"--eval_fold={text}: give I/K, as 0/5 to 4/5")
    return index, count


def fold_of(content: str, count: int, seed: int) -> int:
    """Which of `count` folds a record falls into."""
    return int(hash_fraction(normalize(content), f"fold {seed}") * count)


def choose(task: str, records: Sequence[dict], count: int, seed: int) -> list[dict]:
    """`count` of the records, each answer as often as in all and the rarest at least once.

    Of a smaller count all are among those of a larger one.
    """
    if count > len(records):
        raise UsageError(f"--train_samples={count}: there are {len(records)}")
    answers = data.TEXT_TASKS[task].answers if task in data.TEXT_TASKS else ()

    def answer(record):
        found = {name: record[name] for name in answers if name in record}
        return json.dumps(found, sort_keys=True, default=str)

    def place(record):
        content = data.content(task, record)
        return hash_fraction(normalize(content), f"samples {seed}"), content

    sizes, seen = Counter(map(answer, records)), Counter()
    ranked = []
    for record in sorted(records, key=place):
        key = answer(record)
        ranked.append((seen[key] / sizes[key], record))  # how much of its kind comes before it
        seen[key] += 1
    return [record for _, record in sorted(ranked, key=lambda pair: pair[0])[:count]]
