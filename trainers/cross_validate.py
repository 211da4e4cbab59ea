"""Cross-validation: a trainer's flags judged on all of the training data, part by part.

    python -m trainers.cross_validate --folds=5 --output_dir=runs/folds \\
        -- trainers.finetune --model=DIR --task=classification --train_data=train.jsonl

Each fold is a run of its own, in `runs/fold_0` ..., that trains without its part of the data and is
evaluated on it (`--eval_fold`). `folds.json` holds each number of each fold, the mean and its 95 %
interval by Student's t over the folds. The folds share training data, so that the interval is
somewhat narrow (Bengio & Grandvalet, 2004, https://www.jmlr.org/papers/v5/grandvalet04a.html).
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from trainers import args
from trainers.bootstrap import LEVEL, Interval
from trainers.run_folder import RunFolder
from trainers.runs import run_each, runs_flags
from trainers.trainer_process import OURS, Trainer, trainer_flags, with_trainer_flags


def folds_flags(flags: args.FlagValues) -> None:
    """Cross-validation."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags)
    integer("folds", 5, "parts of the training data, each held out once", lower_bound=2)


FLAGS = (folds_flags, runs_flags, trainer_flags)


def main(flags: args.FlagValues) -> None:
    trainer = Trainer.parse(flags.trainer, (*OURS, "eval_fold"))
    if "eval_fold" not in trainer.flags:
        raise args.UsageError(f"{trainer.module} has no folds; give trainers.finetune")
    if trainer.flags.eval_data:
        raise args.UsageError("leave --eval_data out: each fold is evaluated on its own part")
    folder = RunFolder(flags)
    folder.begin()
    runs = {f"fold_{i}": {"eval_fold": f"{i}/{flags.folds}"} for i in range(flags.folds)}
    reports = run_each(trainer, runs, folder, flags.keep_models)
    scores = {name: numbers(report["eval"]) for name, report in reports.items()}
    found = summarize(list(scores.values()))
    folder.write_json(
        "folds.json",
        {
            "folds": scores,
            "mean": {name: x.value for name, x in found.items()},
            "confidence": {name: [x.low, x.high] for name, x in found.items()},
        },
    )
    print(f"\nmean of {flags.folds} folds and its {100 * LEVEL:.0f} % interval")
    for name, x in found.items():
        print(f"{name:>14}  {x.value:.4f}  ({x.low:.4f} to {x.high:.4f})")
    print(f"all numbers: {folder.file('folds.json')}")


def numbers(details: dict) -> dict[str, float]:
    """The numbers of an evaluation, as report.json has it."""
    return {name: x for name, x in details.items() if isinstance(x, int | float)}


def summarize(folds: Sequence[dict[str, float]]) -> dict[str, Interval]:
    """Mean over the folds, of each number that all have, and its interval by Student's t."""
    from scipy import stats

    names = [name for name in folds[0] if all(name in fold for fold in folds)]
    factor = stats.t.ppf((1 + LEVEL) / 2, len(folds) - 1) / np.sqrt(len(folds))
    found = {}
    for name in names:
        values = np.array([fold[name] for fold in folds])
        mean, half = values.mean(), factor * values.std(ddof=1)
        found[name] = Interval(float(mean), float(mean - half), float(mean + half))
    return found


if __name__ == "__main__":
    args.run(main, FLAGS, with_trainer_flags(sys.argv))
