"""Searches flags of a trainer for their best values.

    python -m trainers.tune --search=learning_rate=log:1e-5:1e-3 --search=num_epochs=int:1:4 \\
        --search=schedule=choice:cosine,linear --trials=30 --output_dir=runs/search \\
        -- trainers.finetune --model=DIR --task=classification --train_data=train.jsonl

Each trial is a run of the trainer in a process and a folder of its own; one that crashes is a
failed trial. Trials that look worse than the others did are pruned. Kill the search when you like:
--resume continues it and the trials that ran. The best flags are in `<output_dir>/best.yaml`, for
`--config_file` of the trainer. Needs Optuna: pip install 'gpt-keras[tune]'.
"""

import functools
import sys

import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras.tasks import ALIASES, TASKS, CausalLM
from trainers import args
from trainers.run_folder import RunFolder
from trainers.search_space import Dimension, parse_space
from trainers.stop_signals import stopping_at_once
from trainers.trainer_process import Trainer, shares, trainer_flags, with_trainer_flags

DIRECTIONS = {
    "loss": "minimize", "perplexity": "minimize", "bits_per_byte": "minimize",
    "mse": "minimize", "mae": "minimize", "ece": "minimize", "accuracy": "maximize",
    "macro_f1": "maximize", "micro_f1": "maximize", "auroc": "maximize", "pearson": "maximize",
    "spearman": "maximize",
}  # fmt: skip


def tune_flags(flags: args.FlagValues) -> None:
    """Search."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=0)
    absl_flags.DEFINE_multi_string(
        "search", [], "a flag of the trainer and its values: NAME=log:LOW:HIGH, "
        "NAME=float:LOW:HIGH, NAME=int:LOW:HIGH[:STEP], NAME=choice:A,B,C; repeatable",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "output_dir", "", "folder of the search: study.db, trials/, best.yaml, trials.json",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "resume", False, "continue the search in --output_dir, and the trials that were running",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "metric", "", "of the eval data, to search by; empty: macro_f1 of a classifier, else loss. "
        "Between vocabularies only bits_per_byte compares", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "direction", None, ["minimize", "maximize"],
        f"whether less of --metric is better; known of {', '.join(DIRECTIONS)}", flag_values=flags,
    )  # fmt: skip
    integer("trials", 20, "of the whole search, those before a --resume included", lower_bound=1)
    integer(
        "workers", 1, "trials at once, each in its process with its share of the CPU's cores, and "
        "one GPU after the other", lower_bound=1,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "timeout_seconds", 0.0, "no trial begins later than this after the start; 0: no limit",
        lower_bound=0.0, flag_values=flags,
    )  # fmt: skip
    integer("seed", 0, "of what is proposed; the trainer's own seed is its flag")
    integer("startup_trials", 10, "trials at random before the proposals learn", lower_bound=1)
    absl_flags.DEFINE_enum(
        "pruner", "median", ["median", "none"], "median: a trial ends whose best evaluation so far "
        "is worse than the median of the finished trials' at the same evaluation",
        flag_values=flags,
    )  # fmt: skip
    integer("pruner_startup_trials", 5, "finished trials before any is pruned", lower_bound=1)
    integer("pruner_warmup_evaluations", 0, "evaluations of a trial that do not prune it")
    absl_flags.DEFINE_boolean(
        "keep_models", False, "keep all models and training states, not the best model alone",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "dry_run", False, "say what would be searched, and end", flag_values=flags
    )


FLAGS = (tune_flags, trainer_flags)


def main(flags: args.FlagValues) -> None:
    trainer = Trainer.parse(flags.trainer)
    space = parse_space(flags.search, trainer)
    metric, direction = objective(flags, trainer)
    folder = RunFolder(flags)
    print(describe(flags, trainer, space, metric, direction), flush=True)
    if flags.dry_run:
        return
    try:
        import optuna  # noqa: F401, an extra that only this program needs
    except ImportError as error:
        raise ValueError(
            "needs the package optuna; `pip install 'gpt-keras[tune]'` or `pip install optuna`"
        ) from error
    from trainers.study import Study

    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices([], "GPU")  # they are the trials'
    folder.begin()
    with (
        stopping_at_once(),
        Study(trainer, space, metric, direction, flags, folder) as study,
    ):
        study.run(shares(flags.workers, len(gpus)))
        best = study.best
    if best is None:
        raise ValueError("no trial came to its end; see trials.json in the output folder")
    config = folder.file("best.yaml")
    print(f"\nbest:        trial {best.number}, {metric} {best.value:.5g}")
    print(f"model:       {study.trial_folder(best.number)}/model")
    print(f"again:       python -m {trainer.module} --config_file={config} --output_dir=...")
    print(f"TensorBoard: tensorboard --logdir={folder.path}  (page HParams)")


def objective_of(trainer: Trainer):
    """The metrics of the trainer's task, of which KEY is what early stopping watches."""
    name = trainer.flags.task if "task" in trainer.flags else None
    return TASKS.get(ALIASES.get(name, name), CausalLM).METRICS


def objective(flags: args.FlagValues, trainer: Trainer) -> tuple[str, str]:
    """Metric and direction.

    Raises:
      UsageError: a metric of unknown direction, or no data to evaluate on.
    """
    metrics = objective_of(trainer)
    best = {metrics.KEY: "maximize" if metrics.HIGHER_IS_BETTER else "minimize"}
    metric = flags.metric or metrics.KEY
    direction = flags.direction or (DIRECTIONS | best).get(metric)
    if direction is None:
        raise args.UsageError(
            f"--metric={metric}: is none of {', '.join(DIRECTIONS)}; if the trainer evaluates it, "
            "give --direction as well"
        )
    if not trainer.flags.eval_data and not trainer.flags.eval_fraction:
        raise args.UsageError("without --eval_data and --eval_fraction there is nothing to go by")
    return metric, direction


def describe(flags, trainer: Trainer, space: list[Dimension], metric: str, direction: str) -> str:
    """A few lines on what is searched."""
    lines = [f"searches:    {dimension}" for dimension in space]
    lines += [
        f"to:          {direction} {metric} of the eval data",
        f"trials:      {flags.trials}, {flags.workers} at once, of {trainer.module} "
        f"{' '.join(trainer.arguments)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    args.run(main, FLAGS, with_trainer_flags(sys.argv))
