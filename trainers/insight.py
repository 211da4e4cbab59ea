"""Insight: where the time and the memory of a step go, and a trace of some steps on demand."""

import contextlib
import math
import re
import time

import psutil
import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras.tasks import CausalLM
from trainers.args import FlagValues, UsageError
from trainers.batches import Batch
from trainers.estimate import step_flops
from trainers.step import StepResult, TrainStep
from trainers.strategy import num_workers


def insight_flags(flags: FlagValues) -> None:
    """Insight into the run."""
    absl_flags.DEFINE_string(
        "profile_steps", "", "FIRST:LAST, steps of which a trace is written for TensorBoard's "
        "Profile page, the last not included", flag_values=flags,
    )  # fmt: skip


class Insight:
    """What TensorBoard shows of each step, besides what the step itself knows.

    Args:
      step: the update.
    """

    def __init__(self, step: TrainStep):
        self.step, self.peak = step, gemm_peak() * num_workers(step.strategy)
        self._process = psutil.Process()

    def values(
        self, batch: Batch, result: StepResult, seconds: float, waited: float
    ) -> dict[str, float]:
        """Name -> value.

        Args:
          batch: that the step was given.
          result: of the step.
          seconds: that the step took.
          waited: seconds before it, until the batch was there.
        """
        computed = "features" not in batch
        flops = step_flops(self.step, batch["token_ids"].shape, frozen_computed=computed)
        gflops = flops / seconds / 1e9
        values = {
            "seconds": seconds,
            "input_wait": waited / (waited + seconds),
            "gflops": gflops,
            "of_gemm_peak": gflops / self.peak,
            "memory_gb": self._process.memory_info().rss / 1e9,
        }
        if isinstance(self.step.task, CausalLM):
            values["perplexity"] = math.exp(min(result.loss, 700.0))
        return values


class Profile(contextlib.AbstractContextManager):
    """A trace of the steps `first` to `last` (not included) under a folder; by default of none."""

    def __init__(self, folder: str = "", first: int = 0, last: int = 0):
        self.folder, self.first, self.last = folder, first, last
        self._runs = False

    @classmethod
    def of(cls, flags: FlagValues, folder: str) -> "Profile":
        """That of `--profile_steps`.

        Raises:
          UsageError: it is not FIRST:LAST.
        """
        text = flags.profile_steps
        if not text:
            return cls()
        found = re.fullmatch(r"(\d+):(\d+)", text)
        first, last = map(int, found.groups()) if found else (0, 0)
        if first >= last:
            raise UsageError(f"--profile_steps={text}: expected FIRST:LAST, as 10:15")
        return cls(folder, first, last)

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._runs and step >= self.last:
            self._stop()
        if not self._runs and self.first <= step < self.last:
            tf.profiler.experimental.start(self.folder)
            self._runs = True

    def __exit__(self, *_):
        if self._runs:
            self._stop()

    def _stop(self):
        self._runs = False
        tf.profiler.experimental.stop()


def gemm_peak(size: int = 1024, repeats: int = 10) -> float:
    """GFLOP/s of a float32 product of (size, size) matrices in TensorFlow, the fastest of some."""
    a = tf.random.stateless_normal((size, size), (0, 0))
    multiply = tf.function(lambda: tf.matmul(a, a), autograph=False)
    multiply()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        multiply().numpy()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) / 1e9
