"""Loop: steps, evaluations, checkpoints and reports of a training run, in their order."""

import contextlib
import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from absl import flags as absl_flags

from trainers.args import FlagValues, Stopped
from trainers.batches import Batch, BatchSource, Prefetcher
from trainers.board import Board
from trainers.evaluation import Evaluator
from trainers.insight import AttentionMaps, Insight, Profile
from trainers.loss_guard import POLICIES, BadLossError, LossGuard
from trainers.progress import ProgressBar
from trainers.run_folder import RunFolder
from trainers.state import TrainingState
from trainers.step import StepResult, TrainStep
from trainers.stop_signals import StopSignals
from trainers.strategy import wait_for_all


def loop_flags(flags: FlagValues) -> None:
    """Training run."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=0)
    absl_flags.DEFINE_string(
        "output_dir", "", "folder of the run: config, metrics, TensorBoard, checkpoints, model",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "resume", False, "continue the run in --output_dir from its newest checkpoint; without "
        "one there, begin", flag_values=flags,
    )  # fmt: skip
    integer("seed", 0, "of new weights, the order of the data and dropout")
    integer("num_epochs", 1, "passes over the training data", lower_bound=1)
    integer("max_steps", 0, "updates of the run, whatever --num_epochs says; 0: by that")
    integer(
        "global_batch_size", 32, "rows of an update, over all replicas and micro-batches",
        lower_bound=1,
    )  # fmt: skip
    integer(
        "gradient_accumulation_steps", 1, "micro-batches of an update: less memory, same result",
        lower_bound=1,
    )  # fmt: skip
    integer("eval_steps", 0, "updates between evaluations; 0: once an epoch")
    integer("save_steps", 0, "updates between checkpoints, besides one at each evaluation; 0: none")
    integer("keep_last", 2, "newest checkpoints to keep; weights and optimizer each", lower_bound=1)
    integer(
        "keep_best", 1, "checkpoints to keep besides these, of the best evaluations", lower_bound=1
    )
    absl_flags.DEFINE_enum(
        "bad_loss", "stop", POLICIES, "what to do before the update with a batch whose loss or "
        "gradient is no number, or whose loss is a spike: stop the run, or skip the batch; its "
        "sample ids are written to bad_batches.jsonl", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "loss_spike", 0.0, "a loss above this many times the median of the last 64 is a spike; 0: "
        "none is", lower_bound=0.0, flag_values=flags,
    )  # fmt: skip
    absl_flags.register_validator(
        "loss_spike", lambda factor: factor == 0 or factor > 1,
        "give a factor above 1, or 0 for none", flag_values=flags,
    )  # fmt: skip
    integer(
        "early_stopping_patience", 0, "evaluations without a better dev metric (macro-F1 of a "
        "classifier, squared error of numbers, loss of a language model) before the run ends; 0: "
        "never",
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "log_seconds", 10.0, "seconds between two lines of progress where there is no terminal",
        lower_bound=0.0, flag_values=flags,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run does what, in steps. `early_stopping_patience` counts evaluations, 0: never."""

    max_steps: int
    eval_steps: int
    save_steps: int
    early_stopping_patience: int = 0

    @classmethod
    def of(cls, flags: FlagValues, steps_per_epoch: int) -> "Schedule":
        """That of the flags, with what they leave open filled in."""
        eval_steps = flags.eval_steps or steps_per_epoch
        return cls(
            max_steps=flags.max_steps or flags.num_epochs * steps_per_epoch,
            eval_steps=eval_steps,
            save_steps=flags.save_steps or eval_steps,
            early_stopping_patience=flags.early_stopping_patience,
        )

    def evaluates(self, step: int) -> bool:
        return step % self.eval_steps == 0 or step == self.max_steps

    def saves(self, step: int) -> bool:
        return step % self.save_steps == 0 or self.evaluates(step)


class Loop:
    """Trains until `max_steps` or early stopping; the best weights are in the task afterwards.

    What a step does depends on its number alone, so a run that is killed and resumed goes on as
    if nothing had been.

    Args:
      step: the update.
      source: training batches.
      schedule: when to evaluate, save and end.
      state: restored already, if the run resumes.
      folder: takes the metrics.
      guard: judges the losses.
      board: shows the run.
      insight: says what of each step.
      evaluator: of the dev data; without one there is no early stopping, and the last weights are
        the best.
      prepare: applied to each batch, see `trainers.frozen.FrozenFeatures`.
      write_samples: gives prompts and what the model makes of them, for TensorBoard.
      attention: drawn at each evaluation.
      profile: traces some steps.
      log_seconds: between lines of progress.
    """

    def __init__(
        self,
        step: TrainStep,
        source: BatchSource,
        schedule: Schedule,
        state: TrainingState,
        folder: RunFolder,
        guard: LossGuard,
        board: Board,
        insight: Insight,
        *,
        evaluator: Evaluator | None = None,
        prepare: Callable[[Batch], Batch] | None = None,
        write_samples: Callable[[], tuple[Sequence[str], Sequence[str]]] | None = None,
        attention: AttentionMaps | None = None,
        profile: Profile | None = None,
        log_seconds: float = 10.0,
    ):
        self.step, self.source, self.schedule = step, source, schedule
        self.state, self.folder, self.guard, self.evaluator = state, folder, guard, evaluator
        self.board, self.insight, self.profile = board, insight, profile or Profile()
        self.prepare, self.write_samples, self.attention = prepare, write_samples, attention
        self.log_seconds = log_seconds

    def run(self) -> None:
        """Runs to the end.

        Raises:
          BadLossError: a batch is to stop the run; a checkpoint of before it is written.
          Stopped: SIGTERM or SIGINT came, and a checkpoint of the last whole step is written.
        """
        progress, last = self.state.progress, self.schedule.max_steps
        with contextlib.ExitStack() as stack:
            stream = sys.stderr
            if not self.folder.writes:  # of several workers the chief alone tells how it goes
                stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            self.bar = ProgressBar(last, progress.step, self.log_seconds, stream)
            stack.callback(self.bar.close)
            self.step.notify = self.state.notify = self.guard.notify = self.bar.say
            self.signals = stack.enter_context(StopSignals(self.step.strategy))
            stack.enter_context(self.profile)
            try:
                self._run()
            except (BadLossError, Stopped):
                self._save()
                raise
            except Exception:
                self.state.wait()
                raise
            self._save()
        if progress.best_step not in (-1, progress.step):
            self.state.restore_best()
        self.step.optimizer.take_averages()

    def _run(self) -> None:
        progress, last = self.state.progress, self.schedule.max_steps
        if self.schedule.evaluates(progress.step) and progress.evaluated_step != progress.step:
            self._evaluate()
        with Prefetcher(self.source, progress.step, last) as batches:
            ready = time.monotonic()
            for step, batch in batches:
                self._stop_if_asked()
                if progress.stopped:
                    break
                self._update(step, batch, time.monotonic() - ready)
                ready = time.monotonic()
        self._stop_if_asked()

    def _save(self) -> None:
        if self.state.progress.step > 0:
            self.state.save()
        self.state.wait()
        wait_for_all(self.step.strategy)  # who ends earlier looks dead to the chief, which writes

    def _stop_if_asked(self, *_) -> None:
        if name := self.signals.anywhere():
            raise Stopped(
                f"{name}: stopped after step {self.state.progress.step}; --resume continues"
            )

    def _update(self, step: int, batch: Batch, waited: float) -> None:
        progress, schedule = self.state.progress, self.schedule
        self.profile.before(step)
        begin = time.monotonic()
        inputs = self.prepare(batch) if self.prepare else batch
        learning_rate = float(self.step.optimizer.learning_rate)
        measure = self.insight.measures(step)
        result = self.step(inputs, step, self.guard.limit(), measure)
        seconds = time.monotonic() - begin
        if result.applied:
            self.guard.accept(result.loss)
        elif not result.overflowed:
            self.guard.reject(step + 1, result, batch)
        progress.step = step + 1
        insight = self.insight.values(inputs, result, seconds, waited)
        self._log(result, learning_rate, count_tokens(batch), seconds, insight)
        self.state.poll()
        if schedule.evaluates(progress.step):
            self._evaluate()
        if progress.stopped or schedule.saves(progress.step):
            self.state.save()

    def _log(
        self,
        result: StepResult,
        learning_rate: float,
        tokens: int,
        seconds: float,
        insight: Mapping[str, float],
    ) -> None:
        step = self.state.progress.step
        values = {
            "loss": result.loss,
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": tokens / seconds,
        }
        # JSON knows neither nan nor inf.
        line = {name: x if math.isfinite(x) else None for name, x in values.items()}
        skipped = {} if result.applied else {"skipped": True}
        self.folder.log({"step": step, **line, "tokens": tokens, **skipped})
        self.board.scalars("train", {**values, **insight}, step)
        self.bar.update(result.loss, learning_rate, tokens, seconds, usual=not result.traced)

    def _evaluate(self) -> None:
        """Evaluates, and judges the weights."""
        if self.evaluator is None:
            return
        with self.step.optimizer.averaged():
            self._evaluate_weights()

    def _evaluate_weights(self) -> None:
        step, metrics = self.state.progress.step, self.evaluator(self._stop_if_asked)
        result = metrics.result()
        self.folder.log({"step": step, **{f"eval_{name}": x for name, x in result.items()}})
        self.board.scalars("eval", result, step)
        if hasattr(metrics, "confusion"):
            self.board.confusion_matrix(
                "eval/confusion_matrix", metrics.confusion, metrics.names, step
            )
        if self.write_samples is not None:
            self.board.texts("samples", *self.write_samples(), step)
        if self.attention is not None:
            self.attention.show(self.board, step)
        text = "  ".join(f"{name} {value:.4f}" for name, value in result.items())
        self.bar.say(f"step {step}: eval {text}")
        self.state.progress.evaluated_step = step
        if step > 0:  # where the run starts is only shown
            self._judge(metrics.KEY, result[metrics.KEY], metrics.HIGHER_IS_BETTER)

    def _judge(self, name: str, metric: float, higher_is_better: bool) -> None:
        """Are the weights the best so far? If not, counts for early stopping."""
        progress, patience = self.state.progress, self.schedule.early_stopping_patience
        sign = 1 if higher_is_better else -1
        self.state.record(sign * metric)
        best = sign * progress.best_metric if progress.best_step >= 0 else -math.inf
        if sign * metric > best:
            progress.best_step, progress.best_metric = progress.step, metric
            progress.evaluations_since_best = 0
            return
        progress.evaluations_since_best += 1
        if patience and progress.evaluations_since_best >= patience:
            progress.stopped = True
            self.bar.say(
                f"stopping early: no better {name} in {patience} evaluations; the best, "
                f"{progress.best_metric:.4f}, was at step {progress.best_step}"
            )


def count_tokens(batch: Batch) -> int:
    """Real tokens of a batch."""
    if "weight" in batch:
        return int((batch["padding_mask"] & (batch["weight"] > 0)[:, None]).sum())
    return int((batch["segment_ids"] > 0).sum())
