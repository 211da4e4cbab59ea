"""Estimate: what a run will take, told before it begins (`--dry_run`).

Memory is not guessed from the size of the model: XLA compiles the gradient of the largest
micro-batch and says what it has assigned to it. The time comes from a few steps.
"""

import dataclasses
import math
import platform
import time
from collections.abc import Sequence

import numpy as np
import psutil
from tqdm import tqdm

from gpt_keras.config import GPTConfig
from gpt_keras.losses import logits_bytes
from gpt_keras.tasks import CausalLM
from trainers.args import UsageError
from trainers.batches import Batch, BatchSource
from trainers.step import TrainStep, count_parameters
from trainers.strategy import exchange_text

STEPS = 3  # measured, after one that compiles
# What makes each part of the memory smaller.
REMEDIES = {
    "activations": "--gradient_accumulation_steps, --remat or a lower --max_length",
    "logits": "--gradient_accumulation_steps",
    "gradients": "--train_top_layers",
    "optimizer": "--optimizer=adafactor or lion, or --train_top_layers",
    "weights": "a smaller model",
    "copies": "--optimizer=adafactor or lion, or --train_top_layers",
}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a process needs to train, by part.

    Attributes:
      weights, optimizer: a copy for each replica of this process.
      gradients: of a micro-batch, and what they are added up in.
      activations: all else that the gradient of a micro-batch holds at its peak.
      logits: of the part of a micro-batch that the loss looks at in one go.
      copies: of trained weights and optimizer, which the chief writes as a checkpoint while the
        steps go on; and of the weights before an update that is measured, where that takes more
        room than the activations, which are gone by then.
      program: everything else in the process, TensorFlow and the data.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    copies: int
    program: int

    @classmethod
    def of(cls, step: TrainStep, source: BatchSource, measures: bool = False) -> "Memory":
        """That of a run with this step on these batches.

        Args:
          measures: whether some updates are measured by parts, see `TrainStep`.

        Raises:
          tf.errors.OpError: XLA cannot compile the gradient.
        """
        batch = largest_batch(source)
        replicas = len(step.strategy.extended.worker_devices)
        trained, scratch = _bytes(step.variables), step.scratch_bytes(batch)
        logits = 0
        if isinstance(step.task, CausalLM):
            parts = step.strategy.num_replicas_in_sync * step.micro_batches
            tokens = batch["token_ids"].size // parts
            logits = min(logits_bytes(tokens, step.task.config.vocab_size), scratch)
        weights = replicas * _bytes(step.task.variables)
        optimizer = replicas * _bytes(step.optimizer.variables)
        saved = trained + _bytes(step.optimizer.variables)
        former = replicas * max(0, trained - scratch)
        return cls(
            weights=weights,
            gradients=replicas * trained * (2 if step.micro_batches > 1 else 1),
            optimizer=optimizer,
            activations=replicas * (scratch - logits),
            logits=replicas * logits,
            copies=saved * step.strategy.extended.should_checkpoint + former * measures,
            program=max(0, psutil.Process().memory_info().rss - weights - optimizer),
        )

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    @property
    def remedies(self) -> str:
        """What would help, the largest parts first."""
        parts = dataclasses.asdict(self)
        return "; ".join(REMEDIES[name] for name in sorted(REMEDIES, key=parts.get)[:-3:-1])


def estimate(
    step: TrainStep,
    source: BatchSource,
    max_steps: int,
    measures: bool = False,
    keeps_frozen: bool = False,
) -> str:
    """Lines on what a run of `max_steps` updates takes.

    The weights are not those of before afterwards: a few steps have been made.

    Args:
      measures: as of `Memory.of`.
      keeps_frozen: whether the frozen blocks run in the first epoch alone.

    Raises:
      UsageError: it needs more memory than the machine has left, shared by the workers on it.
    """
    memory = Memory.of(step, source, measures)
    workers = exchange_text(step.strategy, platform.node()).count(platform.node())
    # What the process holds already is taken from what is left, but it is not needed twice.
    available = psutil.virtual_memory().available / workers + psutil.Process().memory_info().rss
    parts = dataclasses.asdict(memory)
    each = f" to each of {workers} workers" if workers > 1 else ""
    lines = [f"memory: {_size(memory.total)} of {_size(available)} available{each}: "]
    lines[0] += ", ".join(f"{name} {_size(value)}" for name, value in parts.items())
    if memory.total > available:
        raise UsageError(
            f"this run needs about {_size(memory.total)} of memory, and {_size(available)} are "
            f"available ({lines[0].split(': ', 2)[2]}); what would help: {memory.remedies}"
        )
    batch = largest_batch(source)
    shape = batch["token_ids"].shape
    flops, seconds = step_flops(step, shape), _seconds_of_step(step, batch)
    all_flops, all_seconds, later = max_steps * flops, max_steps * seconds, ""
    if keeps_frozen and max_steps > source.steps_per_epoch:
        width = step.task.config.hidden_size
        batch["features"] = np.ones((*shape, width), np.float32)  # (B, T, D)
        of_top = _seconds_of_step(step, batch)
        rest = max_steps - source.steps_per_epoch
        all_flops -= rest * (flops - step_flops(step, shape, frozen_computed=False))
        all_seconds -= rest * (seconds - of_top)
        later = f"; {of_top:.3f} s after the first epoch, when the frozen blocks' output is known"
    lines += [
        f"compute: {flops:.2e} FLOPs a step of {shape[0]} x {shape[1]} tokens, "
        f"{all_flops:.2e} in {max_steps:,} steps",
        f"time:   {seconds:.3f} s a step on average of {STEPS}, "
        f"{shape[0] * shape[1] / seconds:,.0f} tokens/s, {flops / seconds / 1e9:,.0f} GFLOP/s"
        f"{later}: {tqdm.format_interval(all_seconds)} for the run, "
        "without evaluations" + ("" if len(source.shapes) == 1 else "; shorter batches are faster"),
    ]
    return "\n".join(lines)


def step_flops(step: TrainStep, shape: Sequence[int], frozen_computed: bool = True) -> float:
    """Of a step on (B, T) tokens: 6 a trained weight of a matrix and token, 2 a frozen one.

    And 12 L H h T a token for attention (Chowdhery et al., 2022, appendix B,
    https://arxiv.org/abs/2204.02311), a third of it where the block is frozen.
    """
    config: GPTConfig = step.task.config
    rows, length = shape
    trained = {id(v) for v in step.variables}
    embedding = step.task.backbone.embedding
    looked_up = {id(v) for v in embedding.trainable_variables}  # which multiplies nothing
    if embedding.with_head:  # the table itself, where they are tied
        looked_up.discard(id(embedding.head))
    matrices = [
        v for v in step.task.trainable_variables if len(v.shape) > 1 and id(v) not in looked_up
    ]
    frozen = 2 if frozen_computed else 0
    used = config.experts_per_token / max(config.num_experts, 1)  # of what all experts have
    a_token = sum(
        (6 if id(v) in trained else frozen)
        * count_parameters([v])
        * (used if len(v.shape) == 3 else 1)
        for v in matrices
    )
    attention = 2 * config.num_heads * config.head_dim * length
    a_token += attention * (frozen * step.first + 6 * (config.num_layers - step.first))
    return float(rows * length * a_token)


def largest_batch(source: BatchSource) -> Batch:
    """The first batch, blown up to the largest shape that there is; what it says is of no use."""
    rows, length = max(source.shapes, key=math.prod)
    batch = source.batch(0)
    short = batch["token_ids"].shape[1]
    return {
        # What is not as long as the texts, such as the labels of each, stays as it is.
        name: np.ones((rows, *(length if n == short else n for n in value.shape[1:])), value.dtype)
        for name, value in batch.items()
    }


def _seconds_of_step(step: TrainStep, batch: Batch) -> float:
    step(batch, 0)  # compiles
    begin = time.perf_counter()
    for i in range(STEPS):
        step(batch, i + 1)
    return (time.perf_counter() - begin) / STEPS


def _bytes(variables) -> int:
    return sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)


def _size(value: float) -> str:
    return tqdm.format_sizeof(value, "B")
