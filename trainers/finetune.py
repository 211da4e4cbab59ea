"""Fine-tunes a pretrained model: to continue texts, to chat, or for a task on whole texts.

    python -m trainers.finetune --model=DIR --task=classification --train_data=train.jsonl \\
        --eval_data=dev.jsonl --output_dir=runs/sentiment

The finished model is `<output_dir>/model`, a Hugging Face directory with the best weights by the
eval data. Kill the run when you like: --resume continues it as if nothing had been.
"""

import keras
import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras import CausalLM, checkpoint, preprocessing
from gpt_keras.tasks import TASKS
from gpt_keras.tasks.multi_task import MultiTask, joint_config
from trainers import args, bootstrap, data, folds
from trainers.agreement import agree, digest, start
from trainers.augment import augment_flags, augmented_batches, check_task
from trainers.data_flags import data_flags, task_flags, train_data_flags
from trainers.evaluation import Evaluator
from trainers.fit import Data, describe, dry_run, dtype_policy, fit, fit_flags
from trainers.insight import insight_flags
from trainers.loop import loop_flags
from trainers.mixture import Mixture, open_mixture, shards_flags
from trainers.model_card import card_flags, write_model
from trainers.optimizer import optimizer_flags
from trainers.run_folder import RunFolder
from trainers.strategy import broadcast, strategy_flags, wait_for_all
from trainers.task_batches import TaskBatches
from trainers.task_data import TaskData


def finetune_flags(flags: args.FlagValues) -> None:
    """Model and task."""
    absl_flags.DEFINE_string(
        "model",
        "",
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub",
        flag_values=flags,
    )
    data.task_flag(
        flags, "what to learn: causal_lm (texts, or completions of prompts), chat (what the "
        "assistant says in conversations), or a task on whole texts; or several of these on "
        "one body, such as topic:classification,mood:classification with "
        "--train_data=topic=FILE,mood=FILE"
    )  # fmt: skip
    absl_flags.DEFINE_list(
        "task_weights", [], "of several tasks: how often an epoch has the batches of each",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_list(
        "test_data", [], "files that the finished model is tested on, once", flag_values=flags
    )


FLAGS = (
    finetune_flags, train_data_flags, folds.fold_flags, data_flags, task_flags, augment_flags,
    shards_flags, fit_flags, loop_flags, insight_flags, optimizer_flags, strategy_flags,
    bootstrap.bootstrap_flags, card_flags,
)  # fmt: skip


def main(flags: args.FlagValues) -> None:
    args.require(flags, "model", "task", "train_data")
    data.check_options(flags)
    strategy = start(flags)
    flags.max_length = min(flags.max_length, data.longest(flags))
    folder = RunFolder(flags, strategy.extended.should_checkpoint)
    if broadcast(strategy, np.int32(folder.finished)):
        print(f"this run is finished: the model is in {folder.file('model')}")
        return
    keras.utils.set_random_seed(flags.seed)
    mixture = read_mixture(flags, folder)
    trainer = FineTuner(flags, strategy, mixture)
    print(describe(trainer.task, trainer.data, flags))
    if flags.dry_run:
        dry_run(trainer.task, trainer.data, flags, strategy)
        return
    folder.begin()
    if mixture is not None:
        mixture.write_digests(folder)
    progress, metrics = fit(trainer.task, trainer.data, flags, folder, strategy)
    if metrics is not None:
        trainer.task.calibrate(metrics)
    report = {"step": progress.step, "best_step": progress.best_step}
    for name, result in (("eval", metrics), ("test", trainer.test())):
        if result is not None:
            found = bootstrap.intervals(result, flags.bootstrap)
            print(f"\n{name} data, best weights\n{result.report()}\n{bootstrap.table(found)}")
            confidence = {key: [x.low, x.high] for key, x in found.items()}
            report[name] = {**result.details(), "confidence": confidence}
    folder.write_json("report.json", report)
    if folder.writes:
        write_model(trainer.task, trainer.data, flags, folder, report)
    wait_for_all(strategy)  # who ends earlier looks dead to the others


def read_mixture(flags: args.FlagValues, folder: RunFolder) -> Mixture | None:
    """The shards to train on, the same as when the run began; None if --train_data names files."""
    texts = flags.task == "causal_lm"
    mixture = open_mixture(flags.train_data, "", verify=flags.verify_shards and texts)
    if mixture is None:
        return None
    if not texts:
        raise args.UsageError(
            f"--task={flags.task}: --train_data names shards, which hold texts alone; they are for "
            "--task=causal_lm, so give files"
        )
    if flags.eval_fold or flags.train_samples:
        raise args.UsageError("--eval_fold, --train_samples: are for files, not for shards")
    mixture.check_same(folder)
    return mixture


class FineTuner:
    """A pretrained model and the data to fine-tune it on.

    Args:
      flags: of the program.
      strategy: the model is made under its scope.
      mixture: shards to train on, or None: the files that the flags name.
    """

    def __init__(
        self, flags: args.FlagValues, strategy: tf.distribute.Strategy, mixture: Mixture | None
    ):
        self.flags, self.strategy = flags, strategy
        for task in data.parse_tasks(flags.task).values():
            check_task(task, flags)
        config = checkpoint.read_config(flags.model)
        self.filler = preprocessing.filler(config)
        self.tokenizer = checkpoint.read_tokenizer(flags.model)
        if self.tokenizer is None:
            raise ValueError(
                f"--model={flags.model}: has no tokenizer.json or tokenizer.model; put one there"
            )
        if mixture is not None:
            mixture.check_tokenizer(self.tokenizer, flags.model)
        self.tasks = [
            TaskData.read(
                name,
                task,
                data.configure(task, config, flags),
                self.tokenizer,
                flags,
                mixture is None,
            )
            for name, task in data.parse_tasks(flags.task).items()
        ]
        shards = {} if mixture is None else {"the digest of --train_data": digest(mixture.digests)}
        agree(
            strategy,
            lambda: {
                "the config.json of --model": str(config),
                **shards,
                **{what: value for task in self.tasks for what, value in task.digests.items()},
            },
        )
        held_out = self._source("eval", shuffle=False)
        if mixture is None:
            self.data = Data(self._source("train", shuffle=True), held_out)
        else:
            self.data = Data(
                mixture.train_batches(flags, self.filler),
                held_out or mixture.eval_batches(flags, self.filler),
            )
        with strategy.scope():
            self.task = self._load(config)

    def test(self):
        """The metrics on --test_data, or None."""
        source = self._source("test", shuffle=False)
        if source is None:
            return None
        print(f"testing the best weights on {source.num_samples:,} samples", flush=True)
        return Evaluator(self.task, self.strategy, source)()

    def _source(self, name: str, shuffle: bool):
        """Batches of the training, eval or test data of all tasks; None without any."""
        sources = {
            task.name: data.run_source(
                getattr(task, name),
                self.flags,
                shuffle=shuffle,
                pad_id=self.filler,
                replicas=self.strategy.num_replicas_in_sync,
            )
            for task in self.tasks
            if getattr(task, name)
        }
        if name == "train" and self.flags.augment:
            for task in self.tasks:
                sources[task.name] = augmented_batches(
                    task, sources[task.name], self.tokenizer, self.flags, self.filler
                )
        if len(self.tasks) == 1 or not sources:
            return next(iter(sources.values()), None)
        weights = task_weights(self.flags)
        return TaskBatches(sources, weights, seed=self.flags.seed, shuffle=shuffle)

    def _load(self, config):
        flags = self.flags
        options = {"dtype": dtype_policy(flags), "dropout": flags.dropout}
        if self.tasks[0].task in data.LANGUAGE_COLUMNS:
            return CausalLM.from_pretrained(flags.model, **options)
        if len(self.tasks) > 1:
            tasks = {task.name: (task.task, task.config) for task in self.tasks}
            kind, config = MultiTask, joint_config(config, tasks)
        else:
            kind, config = TASKS[self.tasks[0].task], self.tasks[0].config
        return kind.from_pretrained(
            flags.model, id2label=config.id2label, task_params=config.task_params, **options
        )


def task_weights(flags: args.FlagValues) -> dict[str, float]:
    """Name of each of several tasks -> its --task_weights, 1 by default.

    Raises:
      UsageError: not as many positive numbers as tasks.
    """
    names = data.parse_tasks(flags.task)
    try:
        weights = [float(weight) for weight in flags.task_weights] or [1.0] * len(names)
    except ValueError:
        weights = []
    if len(weights) != len(names) or min(weights) <= 0:
        raise args.UsageError(
            f"--task_weights={','.join(flags.task_weights)}: expected a number above 0 for each of "
            f"--task={flags.task}"
        )
    return dict(zip(names, weights, strict=True))


if __name__ == "__main__":
    args.run(main, FLAGS)
