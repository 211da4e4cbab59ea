"""Evaluates a model on data: a classification report, or perplexity and bits per byte.

python -m trainers.evaluate --model=DIR --task=classification --eval_data=test.jsonl
"""

from absl import flags as absl_flags
from tqdm import tqdm

from gpt_keras import CausalLM, checkpoint, preprocessing, tasks
from gpt_keras.tasks import TASKS, MultiTask
from trainers import args, bootstrap, data
from trainers.data_flags import data_flags, task_flags
from trainers.evaluation import Evaluator
from trainers.files import write_json
from trainers.strategy import make_strategy

COMPARISONS = 1000  # choices of samples for --baseline where --bootstrap is 0


def evaluate_flags(flags: args.FlagValues) -> None:
    """Model and task."""
    absl_flags.DEFINE_string(
        "model",
        "",
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub",
        flag_values=flags,
    )
    data.task_flag(flags, "what the model does with the data; one of its tasks if it has several")
    absl_flags.DEFINE_string(
        "baseline", "", "another model to evaluate: is the difference more than chance?",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer("batch_size", 32, "rows of a batch", lower_bound=1, flag_values=flags)
    absl_flags.DEFINE_string(
        "output", "", "JSON file for the numbers; empty: none", flag_values=flags
    )


FLAGS = (evaluate_flags, data_flags, task_flags, bootstrap.bootstrap_flags)


def main(flags: args.FlagValues) -> None:
    args.require(flags, "model", "task", "eval_data")
    data.check_options(flags)
    if flags.labels:
        raise args.UsageError(
            f"--labels={','.join(flags.labels)}: the model has labels of its own; leave it out"
        )
    metrics = evaluate("model", flags)
    found = bootstrap.intervals(metrics, flags.bootstrap)
    print(f"{metrics.report()}\n{bootstrap.table(found)}")
    details = metrics.details()
    details["confidence"] = {name: [x.low, x.high] for name, x in found.items()}
    if flags.baseline:
        differences = bootstrap.compare(
            evaluate("baseline", flags), metrics, flags.bootstrap or COMPARISONS
        )
        print(f"\nthe difference to {flags.baseline}\n{bootstrap.comparison(differences)}")
        details["baseline"] = {
            name: {"difference": x.value, "confidence": [x.low, x.high], "p_value": x.p_value}
            for name, x in differences.items()
        }
    if flags.output:
        write_json(flags.output, details)


def evaluate(name: str, flags: args.FlagValues):
    """The metrics of the model that a flag names."""
    path = flags[name].value
    limit = flags.max_length
    flags.max_length = min(limit, data.longest(flags, name))
    (name_of_task, task_name), *more = data.parse_tasks(flags.task).items()
    if more:
        raise args.UsageError(f"--task={flags.task}: name one task to evaluate")
    kind, there = TASKS.get(task_name, CausalLM), tasks.of(path)
    config = checkpoint.read_config(path)
    shared = there is MultiTask
    has = {name: params.get("task") for name, params in config.task_params.items()}
    if shared and has.get(name_of_task) != task_name:
        raise ValueError(
            f"--task={flags.task}: --{name}={path} has {', '.join(map(':'.join, has.items()))}; "
            "name one of them"
        )
    # A CausalLM can be asked what a task that only asks its head can.
    if task_name in TASKS and not (shared or issubclass(kind, there)):
        raise ValueError(
            f"--{name}={path}: is a {there.__name__} and no {kind.__name__}; fine-tune it with "
            f"`python -m trainers.finetune --task={flags.task}` first"
        )
    strategy = make_strategy()
    with strategy.scope():
        params = _params(config, name_of_task if shared else task_name, task_name, flags)
        task = (MultiTask if shared else kind).from_pretrained(path, task_params=params)
    task = task.tasks[name_of_task] if shared else task
    source = _source(task, task_name, flags)
    with tqdm(total=source.steps_per_epoch, unit="batch", disable=None) as bar:
        metrics = Evaluator(task, strategy, source)(lambda done, total: bar.update())
    flags.max_length = limit
    return metrics


def _params(config, name: str, task_name: str, flags: args.FlagValues) -> dict:
    """`task_params` with the options that the flags give."""
    options = TASKS[task_name].options if task_name in TASKS else {}
    given = {option: flags[option].value for option in options if flags[option].present}
    params = dict(config.task_params)
    return params | {name: {**params.get(name, {}), **given}} if given else params


def _source(task, task_name: str, flags: args.FlagValues):
    filler = preprocessing.filler(task.config)
    records = data.load_records(task_name, flags.eval_data, flags)
    features = data.make_features(
        task_name,
        records,
        task.require_tokenizer(),
        flags,
        task.config,
        seen_only=not flags.baseline,  # which may know others: both answer the same samples
    )
    for line in data.notes(features, f"{len(records)} samples", flags):
        print(line)
    return data.batch_source(
        features, flags, global_batch_size=flags.batch_size, shuffle=False, pad_id=filler
    )


if __name__ == "__main__":
    args.run(main, FLAGS)
