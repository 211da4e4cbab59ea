"""Evaluates a model on data: a classification report, or perplexity and bits per byte.

python -m trainers.evaluate --model=DIR --task=classification --eval_data=test.jsonl
"""

from absl import flags as absl_flags
from tqdm import tqdm

from gpt_keras import CausalLM, SequenceClassifier, checkpoint, preprocessing
from trainers import args, data
from trainers.evaluation import Evaluator
from trainers.files import write_json
from trainers.strategy import make_strategy


def evaluate_flags(flags: args.FlagValues) -> None:
    """Model and task."""
    absl_flags.DEFINE_string(
        "model",
        "",
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "task", None, data.TASKS, "what the model does with the data", flag_values=flags
    )
    absl_flags.DEFINE_integer("batch_size", 32, "rows of a batch", lower_bound=1, flag_values=flags)
    absl_flags.DEFINE_string(
        "output", "", "JSON file for the numbers; empty: none", flag_values=flags
    )


FLAGS = (evaluate_flags, args.data_flags)


def main(flags: args.FlagValues) -> None:
    for name in ("model", "task", "eval_data"):
        if not flags[name].value:
            raise args.UsageError(f"--{name} is missing")
    config = checkpoint.read_config(flags.model)
    flags.max_length = min(flags.max_length, config.max_position_embeddings)
    if flags.task == "classification" and not config.id2label:
        raise ValueError(
            f"--model={flags.model}: is no classifier (its config.json names no labels); fine-tune "
            "it with `python -m trainers.finetune --task=classification` first"
        )
    kind = SequenceClassifier if flags.task == "classification" else CausalLM
    strategy = make_strategy()
    with strategy.scope():
        task = kind.from_pretrained(flags.model)
    source = _source(task, flags)
    with tqdm(total=source.steps_per_epoch, unit="batch", disable=None) as bar:
        metrics = Evaluator(task, strategy, source)(lambda done, total: bar.update())
    print(metrics.report())
    if flags.output:
        write_json(flags.output, metrics.details())


def _source(task, flags: args.FlagValues):
    filler = preprocessing.filler(task.config)
    records = data.load_records(flags.task, flags.eval_data, flags)
    features = data.make_features(
        flags.task,
        records,
        task.require_tokenizer(),
        flags,
        label_names=task.config.id2label or None,
        filler=filler,
    )
    if features.num_truncated:
        print(
            f"{features.num_truncated} of {len(records)} samples cut to {flags.max_length} tokens"
        )
    return data.batch_source(
        features, flags, global_batch_size=flags.batch_size, shuffle=False, pad_id=filler
    )


if __name__ == "__main__":
    args.run(main, FLAGS)
