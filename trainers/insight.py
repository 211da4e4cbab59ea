"""Insight: what is shown of a run besides its loss, and a trace of some steps on demand."""

import contextlib
import math
import re
import time
from collections.abc import Sequence

import numpy as np
import psutil
import tensorflow as tf
from absl import flags as absl_flags

from gpt_keras.tasks import CausalLM, Task
from trainers.args import FlagValues, UsageError
from trainers.batches import Batch
from trainers.board import Board
from trainers.board_writers import check_wandb
from trainers.estimate import step_flops
from trainers.features import token_bytes
from trainers.step import StepResult, TrainStep
from trainers.strategy import num_workers

MAX_TOKENS = 48  # of a picture of attention


def insight_flags(flags: FlagValues) -> None:
    """Insight into the run."""
    absl_flags.DEFINE_integer(
        "insight_steps", 10, "updates between two of which the norms of each block's gradient and "
        "change are shown; 0: of none", lower_bound=0, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "attention_prompts", [], "text of which the attention in the first, the middle and the "
        f"last block is drawn at each evaluation, of {MAX_TOKENS} tokens at most; repeatable",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "wandb_project", "", "project of Weights & Biases that is to show what TensorBoard does; "
        "needs wandb (pip install 'gpt-keras[wandb]')", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "profile_steps", "", "FIRST:LAST, steps of which a trace is written for TensorBoard's "
        "Profile page, the last not included", flag_values=flags,
    )  # fmt: skip
    absl_flags.register_validator(
        "profile_steps", lambda text: not text or _first_and_last(text),
        "expected FIRST:LAST, as 10:15", flag_values=flags,
    )  # fmt: skip


def check_insight(task: Task, flags: FlagValues) -> None:
    """Raises UsageError for what cannot be shown."""
    check_wandb(flags.wandb_project)
    AttentionMaps(task, flags.attention_prompts)


class Insight:
    """What is shown of each step.

    Args:
      step: the update.
      every: updates between two that are measured by parts of the model; 0: none is.
    """

    def __init__(self, step: TrainStep, every: int = 0):
        self.step, self.every = step, every
        self.peak = gemm_peak() * num_workers(step.strategy)
        self._process = psutil.Process()
        tokenizer = step.task.tokenizer if isinstance(step.task, CausalLM) else None
        self._token_bytes = None if tokenizer is None else token_bytes(tokenizer)

    def measures(self, step: int) -> bool:
        """Whether this step, 0 being the first, is measured by parts."""
        return bool(self.every) and (step + 1) % self.every == 0

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
        if isinstance(self.step.task, CausalLM) and "loss_mask" in batch:
            values["perplexity"] = math.exp(min(result.loss, 700.0))
        if self._token_bytes is not None and "loss_mask" in batch:
            values["bits_per_byte"] = self._bits_per_byte(batch, result.loss)
        losses = zip(self.step.sources, result.source_losses, strict=True)
        values |= {f"loss_of/{name}": loss for name, loss in losses if math.isfinite(loss)}
        return values | self._by_part(result)

    def _bits_per_byte(self, batch: Batch, loss: float) -> float:
        weights = batch["loss_mask"][:, 1:]
        num_bytes = self._token_bytes[batch["token_ids"][:, 1:][weights > 0]].sum()
        return loss * float(weights.sum()) / math.log(2) / max(int(num_bytes), 1)

    def _by_part(self, result: StepResult) -> dict[str, float]:
        """Where it was measured; of an update that was held back the gradient alone."""
        values, parts = {}, self.step.parts
        if result.update_ratio is not None:
            values["update_ratio"] = result.update_ratio
            ratios = zip(parts, result.update_ratios, strict=True)
            values |= {f"update_ratio_of/{part}": ratio for part, ratio in ratios}
        if result.update_ratio is not None or not result.applied:
            norms = zip(parts, result.grad_norms, strict=True)
            values |= {f"grad_norm_of/{part}": norm for part, norm in norms}
        return values


class AttentionMaps:
    """Pictures of what the tokens of some texts take from each other, in three blocks.

    Args:
      task: the model.
      prompts: the texts; their first tokens are drawn.

    Raises:
      UsageError: a text without tokens.
    """

    def __init__(self, task: Task, prompts: Sequence[str]):
        self.task, last = task, task.config.num_layers - 1
        self.layers = sorted({0, last // 2, last})
        self._token_ids = []
        if prompts:
            rows = task.require_tokenizer().encode(list(prompts)).to_list()
            most = min(MAX_TOKENS, task.config.max_position_embeddings)
            self._token_ids = [np.array(row[:most], np.int32) for row in rows]
        for prompt, row in zip(prompts, self._token_ids, strict=True):
            if not len(row):
                raise UsageError(f"--attention_prompts={prompt}: has no token to draw; give a text")

    def show(self, board: Board, step: int) -> None:
        """Draws them as `attention/PROMPT/block_N`, with the weights as they are now."""
        for i, row in enumerate(self._token_ids):
            maps = self.task.backbone.attention_weights(row[None], self.layers)
            for layer, weights in zip(self.layers, maps, strict=True):
                name = f"attention/{i}/block_{layer}"
                board.attention(name, weights.numpy()[0], self._texts(row), step)

    def _texts(self, row: np.ndarray) -> list[str]:
        """The token's texts; spaces and what does not print can be seen."""
        texts = self.task.tokenizer.detokenize(row[:, None], continues=True).numpy()
        return [repr(t.decode(errors="replace"))[1:-1].replace(" ", "·") for t in texts]


class Profile(contextlib.AbstractContextManager):
    """A trace of the steps `first` to `last` (not included) under a folder; by default of none."""

    def __init__(self, folder: str = "", first: int = 0, last: int = 0):
        self.folder, self.first, self.last = folder, first, last
        self._runs = False

    @classmethod
    def of(cls, flags: FlagValues, folder: str) -> "Profile":
        """That of `--profile_steps`."""
        return cls(folder, *_first_and_last(flags.profile_steps))

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


def _first_and_last(text: str) -> tuple[int, ...]:
    """Of `FIRST:LAST`; () for what is no range of steps."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    return (first, last) if first < last else ()


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
