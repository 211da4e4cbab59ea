"""Contenders: whole training steps in float32, taken in turns, and a table of their speed.

A step is forward, backward, clipping to a global norm, and AdamW on all weights. The contenders
take turns, so that a busy machine is busy for all; the fastest step of each counts. The GEMM peak
is that of TensorFlow on 1024 x 1024 matrices, and for comparison that of torch, whose library may
know the processor less well.
"""

import functools
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

import gpt_keras
from benchmarks.tables import markdown
from trainers import args
from trainers.files import write_json
from trainers.insight import gemm_peak
from trainers.optimizer import AdamW
from trainers.step import TrainStep, count_parameters
from trainers.strategy import make_strategy

LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


def turn_flags(flags: args.FlagValues, length: int, rounds: int) -> None:
    """Flags of `compare`, with these defaults."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    integer("rounds", rounds, "steps of each contender, which take turns")
    integer("batch_size", 8, "rows")
    integer("length", length, "tokens of a row")
    integer("threads", os.cpu_count() or 1, "threads of each contender")
    absl_flags.DEFINE_list("only", [], "contenders to run; empty: all", flag_values=flags)
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def compare(
    contenders: Mapping[str, Callable], config: gpt_keras.GPTConfig, flags: args.FlagValues
) -> None:
    """Measures, prints and writes.

    Args:
      contenders: name -> what makes its step, or None where a library is not installed.
      config: of the model that all of them train.
      flags: of `turn_flags`.
    """
    steps = {}
    for name, make in contenders.items():
        if flags.only and name not in flags.only:
            continue
        step = make()
        if step is None:
            print(f"{name}: not installed, left out")
            continue
        steps[name] = step
        for _ in range(2):  # compiles and warms up
            step()
    result = measure(steps, config, flags.batch_size * flags.length, flags.rounds)
    print(table(result))
    if flags.output:
        write_json(flags.output, result)


def measure(steps, config: gpt_keras.GPTConfig, tokens: int, rounds: int) -> dict:
    """Seconds of each contender's steps, taken in turns."""
    seconds = {name: [] for name in steps}
    cpu_seconds = {name: [] for name in steps}
    peak = torch_peak = 0.0
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[name].append(time.perf_counter() - wall)
            cpu_seconds[name].append(time.process_time() - cpu)
        peak, torch_peak = max(peak, gemm_peak()), max(torch_peak, torch_gemm_peak())
    flops = step_flops(config, tokens)
    return {
        "config": config.to_dict(),
        "tokens": tokens,
        "gemm_gflops": peak,
        "torch_gemm_gflops": torch_peak,
        "contenders": {
            name: {
                "seconds_min": min(values),
                "seconds_median": statistics.median(values),
                "cpu_seconds_min": min(cpu_seconds[name]),
                "tokens_per_second": tokens / min(values),
                "gflops": flops / min(values) / 1e9,
            }
            for name, values in seconds.items()
        },
    }


def step_flops(config: gpt_keras.GPTConfig, tokens: int) -> float:
    """Of the matrix products: 6 a weight and token (the table's as the head), no attention."""
    heads = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
    block = heads + 3 * config.intermediate_size
    return 6.0 * tokens * config.hidden_size * (config.vocab_size + config.num_layers * block)


def table(result: dict) -> str:
    """Markdown."""
    peak, torch_peak = result["gemm_gflops"], result["torch_gemm_gflops"]
    rows = [
        (
            name, f"{row['tokens_per_second']:.0f}", f"{1e3 * row['seconds_min']:.0f}",
            f"{1e3 * row['seconds_median']:.0f}", f"{1e3 * row['cpu_seconds_min']:.0f}",
            f"{row['gflops']:.0f}", f"{row['gflops'] / peak:.0%}",
        )
        for name, row in result["contenders"].items()
    ]  # fmt: skip
    head = ("", "tokens/s", "ms a step, fastest", "median", "CPU ms", "GFLOP/s", "of GEMM peak")
    return f"{markdown(head, rows)}\n\nGEMM peak {peak:.0f} GFLOP/s, torch's {torch_peak:.0f}"


def ours(
    make_task: Callable[[], gpt_keras.CausalLM],
    token_ids: np.ndarray,
    xla: bool,
    measure: bool = False,
):
    """`trainers.step.TrainStep` on (B, T) token ids; `measure` as there."""
    strategy = make_strategy()
    with strategy.scope():
        task = make_task()
        optimizer = AdamW(task.trainable_variables, LEARNING_RATE)
    print(f"gpt-keras: {count_parameters(task.trainable_variables):,} parameters")
    step = TrainStep(
        task, task.trainable_variables, optimizer, strategy, max_grad_norm=MAX_GRAD_NORM, xla=xla
    )
    batch = {
        "token_ids": token_ids,
        "segment_ids": np.ones_like(token_ids),
        "loss_mask": np.ones(token_ids.shape, np.float32),
    }
    return lambda: step(batch, 0, measure=measure).loss


def torch_eager(make_model: Callable, token_ids: np.ndarray, threads: int):
    """A model of transformers, with AdamW as Hugging Face's Trainer has it: fused.

    Args:
      make_model: given the library, makes the model.
    """
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return None
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = make_model(transformers).train()
    print(f"HF torch: {sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    inputs = torch.tensor(token_ids.astype(np.int64))

    def step():
        loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def torch_gemm_peak(size: int = 1024, repeats: int = 10) -> float:
    """As `trainers.insight.gemm_peak`, of torch; 0 where no contender has loaded it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0.0
    a, times = torch.randn(size, size), []
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) / 1e9


def use_threads(threads: int) -> None:
    """For TensorFlow, before it does anything."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
