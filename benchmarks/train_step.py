"""One training step: gpt-keras beside Hugging Face torch and KerasHub, in one run.

    python -m benchmarks.train_step --output=train_step.json

A llama of 13.9 million parameters (6 blocks of width 384, feed-forward 1040, 6 heads, tied
vocabulary of 8192) takes whole steps in float32 on 8 x 256 random tokens: forward, backward,
clipping to a global norm, AdamW. The contenders take turns, so that a busy machine is busy for all;
the fastest step of each counts. The GEMM peak is that of TensorFlow on 1024 x 1024 matrices.
Needs `torch`, `transformers` and `keras_hub`; a contender that is not installed is left out.
"""

import importlib.util
import json
import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

import gpt_keras
from trainers import args
from trainers.insight import gemm_peak
from trainers.optimizer import AdamW
from trainers.step import TrainStep, count_parameters
from trainers.strategy import make_strategy

CONFIG = gpt_keras.GPTConfig(
    vocab_size=8192, hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1040,
    max_position_embeddings=256,
)  # fmt: skip
LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""

    def integer(name, default, help):
        absl_flags.DEFINE_integer(name, default, help, lower_bound=1, flag_values=flags)

    integer("rounds", 10, "steps of each contender, which take turns")
    integer("batch_size", 8, "rows")
    integer("length", 256, "tokens of a row")
    integer("threads", os.cpu_count() or 1, "threads of each contender")
    absl_flags.DEFINE_list("only", [], "contenders to run; empty: all", flag_values=flags)
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(flags.threads)
    keras.utils.set_random_seed(0)
    shape = (flags.batch_size, flags.length)
    token_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    contenders = {
        "gpt-keras XLA": lambda: ours(token_ids, xla=True),
        "gpt-keras XLA, measured by parts": lambda: ours(token_ids, xla=True, measure=True),
        "gpt-keras graph": lambda: ours(token_ids, xla=False),
        "HF torch eager": lambda: torch_eager(token_ids, flags.threads),
        "KerasHub XLA": lambda: keras_hub_llama(token_ids, xla=True),
        "KerasHub graph": lambda: keras_hub_llama(token_ids, xla=False),
    }
    steps = {}
    for name, make in contenders.items():
        if flags.only and name not in flags.only:
            continue
        steps[name] = make()
        if steps[name] is None:
            print(f"{name}: not installed, left out")
            del steps[name]
        else:
            for _ in range(2):  # compiles and warms up
                steps[name]()
    result = measure(steps, token_ids.size, flags.rounds)
    print(table(result))
    if flags.output:
        with open(flags.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


def measure(steps, tokens: int, rounds: int) -> dict:
    """Seconds of each contender's steps, taken in turns."""
    seconds = {name: [] for name in steps}
    cpu_seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[name].append(time.perf_counter() - wall)
            cpu_seconds[name].append(time.process_time() - cpu)
    return {
        "config": CONFIG.to_dict(),
        "tokens": tokens,
        "gemm_gflops": gemm_peak(),
        "contenders": {
            name: {
                "seconds_min": min(values),
                "seconds_median": statistics.median(values),
                "cpu_seconds_min": min(cpu_seconds[name]),
                "tokens_per_second": tokens / min(values),
                "gflops": step_flops(tokens) / min(values) / 1e9,
            }
            for name, values in seconds.items()
        },
    }


def step_flops(tokens: int) -> float:
    """Of the matrix products: 6 a weight and token (the table's as the head), no attention."""
    matrices = CONFIG.hidden_size * (
        CONFIG.vocab_size
        + CONFIG.num_layers * (4 * CONFIG.hidden_size + 3 * CONFIG.intermediate_size)
    )
    return 6.0 * matrices * tokens


def table(result: dict) -> str:
    """Markdown."""
    lines = [
        "| | tokens/s | ms a step, fastest | median | CPU ms | GFLOP/s | of GEMM peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        lines.append(
            f"| {name} | {row['tokens_per_second']:.0f} | {1e3 * row['seconds_min']:.0f} "
            f"| {1e3 * row['seconds_median']:.0f} | {1e3 * row['cpu_seconds_min']:.0f} "
            f"| {row['gflops']:.0f} | {row['gflops'] / result['gemm_gflops']:.0%} |"
        )
    lines.append(f"\nGEMM peak {result['gemm_gflops']:.0f} GFLOP/s")
    return "\n".join(lines)


def ours(token_ids, xla: bool, measure: bool = False):
    strategy = make_strategy()
    with strategy.scope():
        task = gpt_keras.CausalLM(CONFIG)
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


def torch_eager(token_ids, threads: int):
    """`LlamaForCausalLM` with `torch.optim.AdamW`, as Hugging Face's Trainer runs them."""
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return None
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            intermediate_size=CONFIG.intermediate_size,
            max_position_embeddings=CONFIG.max_position_embeddings,
            tie_word_embeddings=True,
        )
    )
    print(f"HF torch: {sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    inputs = torch.tensor(token_ids.astype(np.int64))

    def step():
        loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def keras_hub_llama(token_ids, xla: bool):
    """`LlamaCausalLM` with Keras' own `train_on_batch`."""
    if not importlib.util.find_spec("keras_hub"):
        return None
    import keras_hub

    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=CONFIG.vocab_size,
        num_layers=CONFIG.num_layers,
        num_query_heads=CONFIG.num_heads,
        num_key_value_heads=CONFIG.num_kv_heads,
        hidden_dim=CONFIG.hidden_size,
        intermediate_dim=CONFIG.intermediate_size,
        tie_word_embeddings=True,
    )
    model = keras_hub.models.LlamaCausalLM(backbone)
    print(f"KerasHub: {count_parameters(model.trainable_variables):,} parameters")
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, global_clipnorm=MAX_GRAD_NORM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids, bool)}
    targets = np.roll(token_ids, -1, axis=1)
    return lambda: model.train_on_batch(inputs, targets)


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
