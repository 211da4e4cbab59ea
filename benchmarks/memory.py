"""Memory of one training step: what chunked logits, recomputation and micro-batches spare.

    python -m benchmarks.memory --output=memory.json

A llama of six blocks of width 384 with a vocabulary of 49,152 takes steps on 8 x 256 random tokens.
Each variant runs in a process of its own: after two steps, which compile, the kernel's mark of the
highest resident memory is reset, and further steps set it anew. What they add to the memory at
rest counts, with the weights and the optimizer's state; TensorFlow and compiled code do not.
"""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from absl import flags as absl_flags

import gpt_keras
from benchmarks.tables import markdown
from gpt_keras import losses
from trainers import args
from trainers.files import write_json
from trainers.optimizer import AdamW
from trainers.step import TrainStep, count_parameters
from trainers.strategy import make_strategy

CONFIG = gpt_keras.GPTConfig(
    vocab_size=49152, hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1040,
    max_position_embeddings=256,
)  # fmt: skip
# Options of a step; `plain` has all logits at once, `cut` that part of the rows.
VARIANTS = {
    "plain logits": {"plain": True},
    "chunked": {},
    "chunked, --remat": {"remat": True},
    "chunked, 4 micro-batches": {"gradient_accumulation_steps": 4},
    "chunked, one of these alone": {"cut": 4},
}
MIB = 2**20


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    absl_flags.DEFINE_boolean("xla", True, "compile the step", flag_values=flags)
    absl_flags.DEFINE_list("only", [], "variants to run; empty: all", flag_values=flags)
    absl_flags.DEFINE_integer("batch_size", 8, "rows", lower_bound=1, flag_values=flags)
    absl_flags.DEFINE_integer("length", 256, "tokens of a row", lower_bound=2, flag_values=flags)
    absl_flags.DEFINE_string(
        "variant", "", "measure this one here, and print JSON", flag_values=flags
    )
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if flags.variant:
        shape = (flags.batch_size, flags.length)
        print(json.dumps(measure(shape, flags.xla, **VARIANTS[flags.variant])))
        return
    results = {}
    for name in flags.only or VARIANTS:
        command = [sys.executable, "-m", "benchmarks.memory", f"--variant={name}"]
        for flag in ("xla", "batch_size", "length"):
            command.append(f"--{flag}={flags[flag].value}")
        # TensorFlow's own pool would keep what is free, so that its peak says nothing.
        environment = {**os.environ, "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        results[name] = json.loads(done.stdout.splitlines()[-1])
    print(table(results))
    if flags.output:
        write_json(flags.output, results)


def measure(shape, xla: bool, plain: bool = False, cut: int = 1, **options) -> dict:
    """Bytes at rest and at the highest within a step, and seconds of a step."""
    strategy = make_strategy()
    with strategy.scope():
        task = (PlainLogits if plain else gpt_keras.CausalLM)(CONFIG)
        optimizer = AdamW(task.trainable_variables, 1e-4)
    step = TrainStep(
        task, task.trainable_variables, optimizer, strategy, max_grad_norm=1.0, xla=xla,
        notify=lambda line: None, **options,
    )  # fmt: skip
    shape = shape[0] // cut, shape[1]
    token_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    batch = {
        "token_ids": token_ids,
        "segment_ids": np.ones_like(token_ids),
        "loss_mask": np.ones(shape, np.float32),
    }
    for i in range(2):
        step(batch, i)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compilation has left free in the heap
    rest, seconds = resident("VmRSS"), []
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets VmHWM, see proc(5)
    for i in range(3):
        begin = time.perf_counter()
        step(batch, i)
        seconds.append(time.perf_counter() - begin)
    state = 4 * count_parameters((*task.variables, *optimizer.variables))
    return {
        "state": state,
        "bytes": state + resident("VmHWM") - rest,
        "seconds": statistics.median(seconds),
    }


class PlainLogits(gpt_keras.CausalLM):
    """All logits at once, and the gradient that TensorFlow makes of them."""

    def batch_loss(self, batch, features, regularizers=losses.PLAIN):
        logits = self.logits(self.backbone.final_norm(features[:, :-1]))  # (B, T-1, V)
        weights = keras.ops.reshape(batch["loss_mask"][:, 1:], (-1,))
        targets = keras.ops.reshape(batch["token_ids"][:, 1:], (-1,))
        logits = keras.ops.reshape(logits, (-1, CONFIG.vocab_size))
        total, _ = losses.cross_entropy(logits, targets, weights, regularizers)
        return losses.Loss(total, keras.ops.sum(weights))


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


def table(results: dict) -> str:
    """Markdown."""
    first = next(iter(results.values()))["bytes"]
    rows = [
        (
            name, f"{row['bytes'] / MIB:,.0f}", f"{row['bytes'] / first:.2f}",
            f"{1e3 * row['seconds']:.0f}",
        )
        for name, row in results.items()
    ]  # fmt: skip
    return markdown(("", "MiB", "of the first", "ms a step"), rows)


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
