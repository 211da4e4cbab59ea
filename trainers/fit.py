"""Fit: a task and its data through the loop, to a finished model; what all trainers share."""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras.losses import Regularizers
from gpt_keras.tasks import CausalLM, Task
from trainers.agreement import agree, digest
from trainers.args import FlagValues, UsageError
from trainers.augment import varies
from trainers.batches import BatchSource
from trainers.board import Board
from trainers.cluster import Cluster
from trainers.estimate import estimate
from trainers.evaluation import Evaluator
from trainers.frozen import FrozenFeatures
from trainers.insight import AttentionMaps, Insight, Profile, check_insight
from trainers.loop import Loop, Schedule
from trainers.loss_guard import LossGuard
from trainers.loss_scale import LossScale
from trainers.optimizer import make_optimizer, make_schedule
from trainers.parts import layer_rates, unfreeze_starts
from trainers.run_folder import RunFolder
from trainers.state import TrainingState
from trainers.step import TrainStep, count_parameters, trained_variables
from trainers.strategy import broadcast


def fit_flags(flags: FlagValues) -> None:
    """What is trained, and what is shown."""
    absl_flags.DEFINE_integer(
        "train_top_layers", 0, "train the last N blocks, the last norm and the head alone; 0: all",
        lower_bound=0, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "frozen_features", True, "with --train_top_layers, compute what the frozen blocks say of a "
        "sample once and keep it in a file of the output folder (4 bytes x hidden size a token) "
        "until the run ends", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "mixed_precision", "none", ["none", "bfloat16", "float16"],
        "compute in this with float32 weights, float16 with a dynamic loss scale; faster on GPUs "
        "only", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "remat", False, "keep the input of each block alone and compute its inside anew for the "
        "gradient: less memory, a third more work, the same result", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "dropout", 0.0, "rate in the blocks that are trained",
        lower_bound=0.0, upper_bound=0.99, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "label_smoothing", 0.0, "share of each target spread evenly over all tokens or labels, in "
        "training", lower_bound=0.0, upper_bound=0.99, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "z_loss", 0.0, "weight of log(Z)^2, Z the softmax's denominator, in training; 1e-4 keeps "
        "logits small", lower_bound=0.0, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "sample_prompts", [], "text that a language model continues at each evaluation, for "
        "TensorBoard; repeatable", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "dry_run", False, "say what would be trained on what, the memory and time it would take, "
        "and end", flag_values=flags,
    )  # fmt: skip


def dtype_policy(flags: FlagValues) -> str:
    """Keras dtype policy of `--mixed_precision`."""
    return "float32" if flags.mixed_precision == "none" else f"mixed_{flags.mixed_precision}"


@dataclasses.dataclass(frozen=True)
class Data:
    """Batches to train on and, None or not, to choose the best weights by."""

    train: BatchSource
    eval: BatchSource | None


def fit(
    task: Task, data: Data, flags: FlagValues, folder: RunFolder, strategy: tf.distribute.Strategy
):
    """Trains a task, or continues to, as the flags say.

    Args:
      task: made under `strategy.scope()`; holds the best weights afterwards.
      data: see `Data`.
      flags: of `fit_flags`, `loop_flags`, `optimizer_flags` and `strategy_flags`.
      folder: of the run; `begin` has been called.
      strategy: a `tf.distribute.Strategy`.

    Returns:
      The progress at the end, and the metrics of the best weights on the eval data or None.
    """
    schedule = Schedule.of(flags, data.train.steps_per_epoch)
    step = make_step(task, schedule, flags, strategy, data.train.source_names)
    first = step.first
    state = TrainingState(
        folder.file("training_state"),
        step.variables,
        step.optimizer,
        keep_last=flags.keep_last,
        keep_best=flags.keep_best,
        strategy=strategy,
    )
    _restore(state, folder, strategy)
    weights = (v.value.numpy() for v in task.variables)
    agree(strategy, lambda: {"the digest of the weights": digest(*weights)})
    guard = LossGuard(flags.bad_loss, flags.loss_spike, state.progress, folder)
    suffix = "" if folder.writes else f"_worker{Cluster.from_environment().index}"
    with contextlib.ExitStack() as stack:
        stack.callback(folder.close)

        def frozen(name):
            """What keeps the frozen blocks' output of a source, or None."""
            if not keeps_frozen(first, flags, getattr(data, name)):
                return None
            path = folder.file(f"frozen_{name}{suffix}.f32")
            return stack.enter_context(FrozenFeatures(path, task, strategy, first))

        evaluator = None
        if data.eval is not None:
            evaluator = Evaluator(task, strategy, data.eval, first=first, prepare=frozen("eval"))
        loop = Loop(
            step,
            data.train,
            schedule,
            state,
            folder,
            guard,
            stack.enter_context(Board.of(flags, folder)),
            Insight(step, flags.insight_steps),
            evaluator=evaluator,
            prepare=frozen("train"),
            write_samples=_sampler(task, flags) if folder.writes else None,
            attention=AttentionMaps(task, flags.attention_prompts) if folder.writes else None,
            profile=Profile.of(flags, folder.file("tensorboard")) if folder.writes else None,
            log_seconds=flags.log_seconds,
        )
        loop.run()
        metrics = evaluator() if evaluator else None
    return state.progress, metrics


def make_step(
    task: Task,
    schedule: Schedule,
    flags: FlagValues,
    strategy: tf.distribute.Strategy,
    sources: Sequence[str],
) -> TrainStep:
    """The update that the flags ask for."""
    with strategy.scope():
        variables, first = trained_variables(task, flags.train_top_layers)
        rates = layer_rates(task, variables, flags.layer_lr_decay)
        starts = unfreeze_starts(task, variables, flags.unfreeze_steps)
        optimizer = make_optimizer(flags, variables, schedule.max_steps, rates, starts)
        loss_scale = LossScale(optimizer) if flags.mixed_precision == "float16" else None
    return TrainStep(
        task,
        variables,
        optimizer,
        strategy,
        first=first,
        gradient_accumulation_steps=flags.gradient_accumulation_steps,
        max_grad_norm=flags.max_grad_norm,
        regularizers=Regularizers(flags.label_smoothing, flags.z_loss, training=True),
        remat=flags.remat,
        loss_scale=loss_scale,
        sources=sources,
        seed=flags.seed,
        xla=flags.xla,
    )


def dry_run(task: Task, data: Data, flags: FlagValues, strategy: tf.distribute.Strategy) -> None:
    """Prints what the run of the flags would take; the task is of no use afterwards.

    Raises:
      UsageError: it would not fit into memory.
    """
    schedule = Schedule.of(flags, data.train.steps_per_epoch)
    step = make_step(task, schedule, flags, strategy, data.train.source_names)
    keeps = keeps_frozen(step.first, flags, data.train)
    print(estimate(step, data.train, schedule.max_steps, flags.insight_steps > 0, keeps))


def keeps_frozen(first: int, flags: FlagValues, source: BatchSource) -> bool:
    """Whether what the blocks below `first` say of a sample is computed once and kept."""
    return bool(first) and flags.frozen_features and not varies(source)


def _restore(state: TrainingState, folder: RunFolder, strategy: tf.distribute.Strategy) -> None:
    if not broadcast(strategy, np.int32(folder.resumes)):  # others may not see the chief's folder
        return
    restored, progress = state.restore(), state.progress
    folder.truncate(progress.step if restored else -1, progress.evaluated_step == progress.step)
    print(f"resuming at step {progress.step}" + ("" if restored else ": no checkpoint yet"))


def _sampler(task: Task, flags: FlagValues):
    if not flags.sample_prompts or not isinstance(task, CausalLM):
        return None
    return lambda: (flags.sample_prompts, continue_samples(task, flags, 64))


def continue_samples(task: CausalLM, flags: FlagValues, max_new_tokens: int) -> list[str]:
    """What the model makes of `--sample_prompts`, in at most half its context."""
    return task.generate(
        flags.sample_prompts,
        max_new_tokens=min(max_new_tokens, task.config.max_position_embeddings // 2),
        temperature=0.8,
        top_p=0.95,
        seed=flags.seed,
    )


def describe(task: Task, data: Data, flags: FlagValues) -> str:
    """A few lines on what a run trains, and on what.

    Raises:
      UsageError: flags that do not fit the model or each other.
    """
    try:
        variables, first = trained_variables(task, flags.train_top_layers)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    check_insight(task, flags)
    schedule = Schedule.of(flags, data.train.steps_per_epoch)
    make_schedule(flags, schedule.max_steps)
    trained, total = count_parameters(variables), count_parameters(task.trainable_variables)
    shapes = ", ".join(f"{rows} x {length}" for rows, length in data.train.shapes)
    lines = [
        f"model:  {total:,} parameters, {trained:,} of them trained"
        + (f" (blocks {first} to {task.config.num_layers - 1} and the head)" if first else ""),
        f"train:  {data.train.num_samples:,} samples, {data.train.num_tokens:,} tokens, "
        f"{data.train.steps_per_epoch} steps an epoch, batches of {shapes} tokens",
    ]
    if data.eval is not None:
        lines.append(f"eval:   {data.eval.num_samples:,} samples, {data.eval.num_tokens:,} tokens")
    lines.append(f"run:    {schedule.max_steps} steps, evaluation every {schedule.eval_steps}")
    return "\n".join(lines)
