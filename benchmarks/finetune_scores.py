"""Fine-tuning a classifier and a tagger: how good they become, beside Hugging Face's `Trainer`.

    python -m benchmarks.finetune_scores --output=finetune_scores.json

Of each task both begin with the same weights of MiniLM and the same head, and make as many updates
of as many of the same samples: AdamW on all weights, one learning rate with the warm-up of the
recipe and a linear decay, no dropout, float32. Then both say what the dev samples are: tweets that
are negative, neutral or positive, words that are nouns or verbs. Each number has its 95 % bootstrap
interval, and so has the difference, on the same choices of samples. The batches differ as in
`benchmarks.finetune_tweets`; its packages are needed, and the data that the recipes name.
"""

import functools
import os
import tempfile

import numpy as np
from absl import flags as absl_flags

from benchmarks.contenders import use_threads
from benchmarks.finetune_tweets import OURS, RECIPE, THEIRS, make_trainer, rows_of
from benchmarks.tables import markdown
from gpt_keras.losses import Loss
from trainers import args, bootstrap, finetune
from trainers.evaluation import Evaluator
from trainers.files import write_json
from trainers.fit import make_step
from trainers.loop import Schedule
from trainers.strategy import make_strategy

RECIPES = {"classification": RECIPE, "token_classification": "examples/brown.yaml"}
SHOWN = ("accuracy", "macro_f1", "loss")


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    absl_flags.DEFINE_list("tasks", list(RECIPES), "what is learned", flag_values=flags)
    absl_flags.DEFINE_string("model", "data/minilm", "directory or .gguf file", flag_values=flags)
    absl_flags.DEFINE_float("learning_rate", 3e-4, "of all weights", 0.0, flag_values=flags)
    integer("updates", 48, "of each contender in each task")
    integer("max_length", 48, "tokens of a text", lower_bound=2)
    integer("threads", os.cpu_count() or 1, "threads of each")
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if unknown := set(flags.tasks) - set(RECIPES):
        raise args.UsageError(f"--tasks={','.join(sorted(unknown))}: known are {list(RECIPES)}")
    use_threads(flags.threads)
    result = {
        "updates": flags.updates,
        "learning_rate": flags.learning_rate,
        "tasks": {task: compare(RECIPES[task], flags) for task in flags.tasks},
    }
    print(table(result))
    if flags.output:
        write_json(flags.output, result)


def compare(recipe_file: str, flags: args.FlagValues) -> dict:
    """Trains both on a recipe's data; their numbers, and the difference, ours minus theirs."""
    recipe = args.parse(
        finetune.FLAGS,
        ["finetune", f"--config_file={recipe_file}", f"--model={flags.model}", "--test_data=",
         "--train_top_layers=0", f"--learning_rate={flags.learning_rate}", "--schedule=linear",
         f"--max_steps={flags.updates}", f"--max_length={flags.max_length}", "--length_buckets=1"],
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
        ours = Evaluator(tuner.task, strategy, tuner.data.eval)()
        examples = tuner.data.eval.examples
        theirs = collected(tuner.task, rows_of(examples), trainer)
    contenders = {OURS: ours, THEIRS: theirs}
    return {
        "contenders": {
            name: {key: list(x) for key, x in bootstrap.intervals(metrics, 1000).items()}
            for name, metrics in contenders.items()
        },
        "difference": {
            key: list(x) for key, x in bootstrap.compare(theirs, ours, 1000).items()
        },
    }  # fmt: skip


def collected(task, rows: list[dict], trainer):
    """The metrics of what a Trainer says of rows: a label each, or one of each token, or -100."""
    predicted = trainer.predict(rows)
    labels = predicted.label_ids.reshape(len(rows), -1)  # (n, T), T = 1 of whole texts
    logits = predicted.predictions.reshape(*labels.shape, -1)  # (n, T, C)
    metrics = task.new_metrics()
    for i, (true, scores) in enumerate(zip(labels, logits, strict=True)):
        true, scores = true[true >= 0], scores[true >= 0]
        terms = np.log(np.exp(scores).sum(axis=-1)) - scores[np.arange(len(true)), true]
        if task.NAME == "classification":
            targets, outputs = {"label": true}, scores
        else:
            targets, outputs = {"tag": true[None] + 1}, scores.argmax(axis=-1)[None]
        sizes = np.array([[terms.sum(), len(true)]])
        loss = Loss(terms.sum(), len(true), outputs, sizes)
        metrics.update({**targets, "sample_id": np.array([i])}, loss)
    return metrics


def table(result: dict) -> str:
    """Markdown: value (interval) of each, and the difference, ours minus theirs, with p."""
    rows = []
    for task, found in result["tasks"].items():
        for name, row in found["contenders"].items():
            cells = (f"{x[0]:.3f} ({x[1]:.3f} to {x[2]:.3f})" if x else "" for x in _shown(row))
            rows.append((task, name, *cells))
        cells = (
            f"{x[0]:+.3f} ({x[1]:+.3f} to {x[2]:+.3f}), p = {x[3]:.2f}" if x else ""
            for x in _shown(found["difference"])
        )
        rows.append((task, "difference", *cells))
    return markdown(("", "", *SHOWN), rows)


def _shown(row: dict) -> list:
    return [row.get(name) for name in SHOWN]


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
