"""LossGuard: what happens to a batch whose loss is no number, or far above those before it."""

import math
import statistics
from collections.abc import Callable

from trainers.batches import Batch
from trainers.run_folder import RunFolder
from trainers.state import Progress
from trainers.step import StepResult

POLICIES = ("stop", "skip")
WINDOW = 64  # losses whose median is the measure of a spike
LEAST = 16  # losses before there is a measure
PATIENCE = 10  # batches left out one after the other before the run stops


class BadLossError(ValueError):
    """A batch is to stop the run; the weights are from before it."""


class LossGuard:
    """Sets the limit of a step's loss, and deals with the batches that `TrainStep` left out.

    Their sample ids are written to `bad_batches.jsonl` in the run folder.

    Args:
      policy: "stop" ends the run before the batch, "skip" goes on with the next one.
      spike: losses above this many times the median of the last ones are bad; 0: none is.
      progress: holds the last losses, so that a resumed run judges as the first would have.
      folder: of the run.
      notify: is told, in one line, of each batch that is left out.
    """

    def __init__(
        self,
        policy: str,
        spike: float,
        progress: Progress,
        folder: RunFolder,
        notify: Callable[[str], None] = print,
    ):
        self.policy, self.spike, self.progress = policy, spike, progress
        self.folder, self.notify = folder, notify

    def limit(self) -> float:
        """The largest loss that the next batch may have."""
        losses = self.progress.losses
        if not self.spike or len(losses) < LEAST:
            return math.inf
        return self.spike * statistics.median(losses)

    def accept(self, loss: float) -> None:
        """A batch was fine."""
        self.progress.skipped = 0
        if self.spike:
            self.progress.losses = [*self.progress.losses, loss][-WINDOW:]

    def reject(self, step: int, result: StepResult, batch: Batch) -> None:
        """A batch was left out.

        Args:
          step: that it would have been, 1 being the first.

        Raises:
          BadLossError: the run is to stop.
        """
        progress, limit = self.progress, self.limit()
        reason = f"the loss is {result.loss:.4g}"
        if math.isfinite(result.loss) and not math.isfinite(result.grad_norm):
            reason = f"the gradient's norm is {result.grad_norm}"
        elif result.loss > limit:
            reason += f", above {self.spike:g} times the median of the last {len(progress.losses)}"
        self.folder.log(
            {
                "step": step,
                "loss": result.loss if math.isfinite(result.loss) else None,
                "reason": reason,
                "sample_ids": [i for i in batch["sample_id"].tolist() if i >= 0],
            },
            "bad_batches.jsonl",
        )
        remedy = "lower --learning_rate or --max_grad_norm, or lengthen the warm-up"
        where = "its sample ids are in bad_batches.jsonl"
        if self.policy == "stop":
            raise BadLossError(
                f"step {step}: {reason}; {where}, the weights are from before it: --resume with "
                f"--bad_loss=skip leaves it out; or {remedy}"
            )
        progress.skipped += 1
        if progress.skipped >= PATIENCE:
            raise BadLossError(
                f"step {step}: {reason}, the {progress.skipped}th batch in a row to be left out; "
                f"{where}; {remedy}"
            )
        self.notify(f"step {step}: {reason}; left out, {where}")
