"""Fine-tunes a pretrained model: to continue texts, to chat, or for a task on whole texts.

    python -m trainers.finetune --model=DIR --task=classification --train_data=train.jsonl \\
        --eval_data=dev.jsonl --output_dir=runs/sentiment

The finished model is `<output_dir>/model`, a Hugging Face directory with the best weights by the
eval data. Kill the run when you like: --resume continues it as if nothing had been.
"""

import dataclasses
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras import CausalLM, checkpoint, preprocessing
from gpt_keras.tasks import TASKS
from gpt_keras.tasks.examples import Examples
from trainers import args, bootstrap, data
from trainers.agreement import agree, digest, start
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


def finetune_flags(flags: args.FlagValues) -> None:
    """Model and task."""
    absl_flags.DEFINE_string(
        "model",
        "",
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "task", None, data.TASKS, "what to learn: causal_lm (texts, or completions of prompts), "
        "chat (what the assistant says in conversations), or a task on whole texts",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_list(
        "test_data", [], "files that the finished model is tested on, once", flag_values=flags
    )


FLAGS = (
    finetune_flags, train_data_flags, data_flags, task_flags, shards_flags, fit_flags, loop_flags,
    insight_flags, optimizer_flags, strategy_flags, bootstrap.bootstrap_flags, card_flags,
)  # fmt: skip


def main(flags: args.FlagValues) -> None:
    for name in ("model", "task", "train_data"):
        if not flags[name].value:
            raise args.UsageError(f"--{name} is missing")
    strategy = start(flags)
    context = checkpoint.read_config(flags.model).max_position_embeddings
    flags.max_length = min(flags.max_length, context)
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
        self.config = data.configure(flags.task, checkpoint.read_config(flags.model), flags)
        self.tokenizer = checkpoint.read_tokenizer(flags.model)
        if self.tokenizer is None:
            raise ValueError(
                f"--model={flags.model}: has no tokenizer.json or tokenizer.model; put one there"
            )
        self.filler = preprocessing.filler(self.config)
        if mixture is None:
            train_records, eval_records = data.load_split(flags.task, flags)
            train = self._features("training", train_records)
            if isinstance(train, Examples):
                self.config = self.config.replace(id2label=train.labels)
        else:
            mixture.check_tokenizer(self.tokenizer, flags.model)
            train = mixture.digests  # stands for the data where workers compare
            eval_records = flags.eval_data and data.load_records(flags.task, flags.eval_data, flags)
        evaluation = self._features("eval", eval_records) if eval_records else None
        # Read before the long run begins, so that a mistake in it shows at once.
        test = data.load_records(flags.task, flags.test_data, flags) if flags.test_data else None
        self._test_features = self._features("test", test) if test else None
        if mixture is None:
            self._warn_of_overlap(train_records, {"eval": eval_records, "test": test})
        agree(
            strategy,
            lambda: {
                "the config.json of --model": str(self.config),
                "the digest of --train_data": _digest(train),
                "the digest of the eval data": _digest(evaluation),
                "the digest of --test_data": _digest(self._test_features),
            },
        )
        held_out = self._source(evaluation, shuffle=False) if evaluation else None
        if mixture is None:
            self.data = Data(self._source(train, shuffle=True), held_out)
        else:
            self.data = Data(
                mixture.train_batches(flags, self.filler),
                held_out or mixture.eval_batches(flags, self.filler),
            )
        with strategy.scope():
            self.task = self._load()

    def test(self):
        """The metrics on --test_data, or None."""
        if self._test_features is None:
            return None
        source = self._source(self._test_features, shuffle=False)
        print(f"testing the best weights on {source.num_samples:,} samples", flush=True)
        return Evaluator(self.task, self.strategy, source)()

    def _features(self, name: str, records: Sequence[dict]):
        features = data.make_features(
            self.flags.task, records, self.tokenizer, self.flags, self.config
        )
        for line in data.notes(features, f"{len(records)} {name} samples", self.flags):
            print(line)
        return features

    def _warn_of_overlap(self, train_records, parts):
        for name, records in parts.items():
            if count := data.overlap(self.flags.task, records or (), train_records):
                print(
                    f"warning: {count} of {len(records)} {name} samples are in the training data "
                    f"too; what is measured on them says little of new texts",
                    file=sys.stderr,
                )

    def _source(self, features, shuffle: bool):
        return data.run_source(features, self.flags, shuffle=shuffle, pad_id=self.filler)

    def _load(self):
        flags = self.flags
        options = {"dtype": dtype_policy(flags), "dropout": flags.dropout}
        if flags.task not in TASKS:
            return CausalLM.from_pretrained(flags.model, **options)
        task_params, id2label = self.config.task_params, self.config.id2label
        return TASKS[flags.task].from_pretrained(
            flags.model, id2label=id2label, task_params=task_params, **options
        )


def _digest(features) -> str:
    """Of what is learned; the same records may lie at another place on another machine."""
    if isinstance(features, Examples):
        features = dataclasses.replace(features, records=())
    return digest(features)


if __name__ == "__main__":
    args.run(main, FLAGS)
