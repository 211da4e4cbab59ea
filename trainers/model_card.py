"""The model card: what a model was made of and how good it is, for whoever finds its directory.

Format: https://huggingface.co/docs/hub/model-cards
"""

import os
from collections.abc import Mapping

import yaml
from absl import flags as absl_flags
from huggingface_hub import ModelCardData

import gpt_keras
from gpt_keras.checkpoint import hub
from gpt_keras.tasks import Task
from trainers.args import FlagValues, flag_values
from trainers.fit import Data
from trainers.run_folder import RunFolder

PATHS = frozenset(
    ("model", "config", "tokenizer", "train_data", "eval_data", "test_data", "output_dir")
)
NO_USE = (
    "None was stated (`--intended_use`). What the model has learned is what its data are; measure "
    "it on yours before you rely on it."
)


def card_flags(flags: FlagValues) -> None:
    """Model card."""
    absl_flags.DEFINE_string(
        "intended_use", "", "what the model is for and what not, for its model card",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "license", "", "of the model, by its SPDX identifier as apache-2.0, for its model card; "
        "those of base model and data apply", flag_values=flags,
    )  # fmt: skip


def write_model(
    task: Task, data: Data, flags: FlagValues, folder: RunFolder, report: Mapping
) -> None:
    """Writes the finished model with its card into the folder of its run, and says where."""
    task.save_pretrained(folder.file("model"), card=model_card(task, data, flags, report))
    print(f"\nmodel:       {folder.file('model')}")
    print(f"TensorBoard: tensorboard --logdir={folder.file('tensorboard')}")


def model_card(task: Task, data: Data, flags: FlagValues, report: Mapping) -> str:
    """The README.md of a trained model: YAML for the Hub, Markdown for people.

    Folders of the machine are left out; files keep their names.

    Args:
      task: the finished model.
      data: that it was trained and evaluated on.
      flags: of the run.
      report: what report.json says: `eval` and `test` hold metrics by name.
    """
    name = os.path.basename(os.path.abspath(flags.output_dir))
    model = flags.model if "model" in flags else ""
    of_hub = hub.is_name(model)
    base = model if of_hub else _name(model)
    head = ModelCardData(
        library_name="gpt-keras",
        base_model=model.partition("@")[0] if of_hub else None,
        license=flags.license or None,
        pipeline_tag=task.PIPELINE_TAG,
        tags=["gpt-keras", "tensorflow", task.config.model_type],
    )
    parameters = sum(weight.shape.num_elements() for weight in task.weights)
    made = f"{base}, fine-tuned for {flags.task}" if base else "trained from zero"
    lines = [
        f"---\n{head.to_yaml()}\n---\n\n# {name}\n",
        f"{task.config.model_type} with {parameters:,} parameters; {made}, by gpt-keras "
        f"{gpt_keras.__version__}.\n",
        f"## Intended use\n\n{flags.intended_use or NO_USE}\n",
        f"## Data\n\n- training: {_names(flags.train_data)}; {_size(data.train)}",
    ]
    if data.eval is not None:
        source = _names(flags.eval_data) or "held out of the training data"
        lines.append(f"- evaluation: {source}; {_size(data.eval)}")
    if "test" in report:
        lines.append(f"- test: {_names(flags.test_data)}")
    lines.append("\n## Metrics\n")
    scores = {kind: _scores(report[kind]) for kind in ("eval", "test") if kind in report}
    if scores:
        names = list(dict.fromkeys(name for values in scores.values() for name in values))
        lines += [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for kind, values in scores.items():
            cells = (f"{values[name]:.4g}" if name in values else "" for name in names)
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    else:
        lines.append("None: there were no evaluation data.")
    changed = {
        name: value
        for name, value in flag_values(flags).items()
        if value != flags[name].default and name not in PATHS
    }
    lines.append(
        f"\n## Training\n\nStep {report['step']}, best step {report['best_step']}. What was set:\n"
        f"\n```yaml\n{yaml.safe_dump(changed, allow_unicode=True)}```\n"
    )
    return "\n".join(lines)


def _scores(details: Mapping) -> dict[str, float]:
    return {name: value for name, value in details.items() if isinstance(value, int | float)}


def _names(paths) -> str:
    """Last parts of the paths, with the names and weights of sources before them."""
    return ", ".join(_name(path) for path in paths)


def _name(path: str) -> str:
    if "/" not in path:
        return path
    source, colon, folder = path.rpartition(":")
    return source + colon + os.path.basename(folder.rstrip("/"))


def _size(source) -> str:
    return f"{source.num_samples:,} samples, {source.num_tokens:,} tokens"
