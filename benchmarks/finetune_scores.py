"""Fine-tuning a classifier of tweets: how good it becomes, beside Hugging Face's `Trainer`.

    python -m benchmarks.finetune_scores --updates=60 --output=finetune_scores.json

Both begin with the same weights of SmolLM2-135M and the same head, and make as many updates of as
many of the same tweets: AdamW, the learning rate of the recipe with its warm-up and a linear decay,
float32. Then both say what the dev tweets are. Each number has its 95 % bootstrap interval, and so
has the difference, on the same choices of tweets. The batches differ as in
`benchmarks.finetune_tweets`, whose data and packages are needed.
"""

import functools
import os
import tempfile

import numpy as np
from absl import flags as absl_flags

from benchmarks.contenders import use_threads
from benchmarks.finetune_tweets import GGUF, OURS, RECIPE, THEIRS, make_trainer, rows_of
from benchmarks.tables import markdown
from gpt_keras.losses import Loss
from trainers import args, bootstrap, finetune
from trainers.evaluation import Evaluator
from trainers.files import write_json
from trainers.fit import make_step
from trainers.loop import Schedule
from trainers.strategy import make_strategy

SHOWN = ("macro_f1", "accuracy", "auroc", "loss")


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    absl_flags.DEFINE_string("model", GGUF, "directory or .gguf file", flag_values=flags)
    integer("updates", 60, "of each")
    integer("train_top_layers", 4, "as of trainers.finetune; 0: all weights", lower_bound=0)
    integer("max_length", 64, "tokens of a tweet", lower_bound=2)
    integer("threads", os.cpu_count() or 1, "threads of each")
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    use_threads(flags.threads)
    recipe = args.parse(
        finetune.FLAGS,
        ["finetune", f"--config_file={RECIPE}", f"--model={flags.model}", "--test_data=",
         f"--train_top_layers={flags.train_top_layers}", f"--max_steps={flags.updates}",
         f"--max_length={flags.max_length}", "--length_buckets=1", "--schedule=linear"],
    )  # fmt: skip
    strategy = make_strategy()
    tuner = finetune.FineTuner(recipe, strategy, mixture=None)
    with tempfile.TemporaryDirectory() as folder:
        tuner.task.save_pretrained(f"{folder}/model")
        trainer = make_trainer(tuner, recipe, folder, flags, flags.updates)
        source = tuner.data.train
        schedule = Schedule.of(recipe, source.steps_per_epoch)
        step = make_step(tuner.task, schedule, recipe, strategy, source.source_names)
        for number in range(flags.updates):
            step(source.batch(number), number)
        trainer.train()
        found = {OURS: Evaluator(tuner.task, strategy, tuner.data.eval)()}
        examples = tuner.data.eval.examples
        logits = trainer.predict(rows_of(examples)).predictions
        found[THEIRS] = collected(tuner.task, examples.targets["label"], logits)
    result = {
        "updates": flags.updates,
        "train_top_layers": flags.train_top_layers,
        "contenders": {
            name: {key: list(x) for key, x in bootstrap.intervals(metrics, 1000).items()}
            for name, metrics in found.items()
        },
        "difference": {
            key: list(x)
            for key, x in bootstrap.compare(found[THEIRS], found[OURS], 1000).items()
        },
    }  # fmt: skip
    print(table(result))
    if flags.output:
        write_json(flags.output, result)


def collected(task, labels: np.ndarray, logits: np.ndarray):
    """The metrics of somebody else's logits (n, C), in the order of the labels (n,)."""
    n = len(labels)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(n), labels]  # (n,)
    rows = np.stack([losses, np.ones(n)], axis=1)
    metrics = task.new_metrics()
    metrics.update({"label": labels, "sample_id": np.arange(n)}, Loss(0.0, n, logits, rows))
    return metrics


def table(result: dict) -> str:
    """Markdown: value (interval) of each, and the difference, ours minus theirs, with p."""
    rows = [
        (name, *(f"{x[0]:.3f} ({x[1]:.3f} to {x[2]:.3f})" for x in map(row.get, SHOWN)))
        for name, row in result["contenders"].items()
    ]
    gaps = map(result["difference"].get, SHOWN)
    cells = (f"{x[0]:+.3f} ({x[1]:+.3f} to {x[2]:+.3f}), p = {x[3]:.2f}" for x in gaps)
    return markdown(("", *SHOWN), [*rows, ("difference", *cells)])


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
