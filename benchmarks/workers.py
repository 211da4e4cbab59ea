"""Two workers on a core each beside one worker on one core: how much faster, and the same losses?

    python -m benchmarks.workers --output=workers.json

The llama of `benchmarks.train_step` (13.9 million parameters, float32) trains on the same global
batches of random tokens, with one worker and with two over loopback. Both have compiled before the
first step that counts, and take turns, so that a busy machine is busy for both; the fastest steps
count. Before each turn both cores multiply matrices, alone and at once: what a pair of cores is
worth here is the most that two workers can gain.
"""

import functools
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

import gpt_keras
from benchmarks.tables import markdown
from benchmarks.train_step import CONFIG, LEARNING_RATE, MAX_GRAD_NORM, gemm_peak
from trainers import args
from trainers.cluster import free_addresses
from trainers.files import write_json
from trainers.optimizer import AdamW
from trainers.step import TrainStep
from trainers.strategy import make_strategy


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    integer("rounds", 4, "steps of each, which take turns")
    integer("batch_size", 64, "rows of the global batch")
    integer("length", 256, "tokens of a row")
    integer("gradient_accumulation_steps", 8, "micro-batches of the one worker; of two, half each")
    absl_flags.DEFINE_boolean("xla", True, "compile the step", flag_values=flags)
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)
    absl_flags.DEFINE_boolean("worker", False, "be one of the workers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if flags.worker:
        work(flags)
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise ValueError("needs two cores to run on")
    addresses = free_addresses(2)
    teams = {
        "one": [Worker(cores[0])],
        "two": [Worker(c, addresses, i) for i, c in enumerate(cores)],
    }
    both = teams["two"]
    try:
        for team in teams.values():  # compiles, and the first steps after it
            for _ in range(2):
                turn(team, "step")
        rows = {name: [] for name in (*teams, "gemm_alone", "gemm_both")}
        for _ in range(flags.rounds):
            for name, team in teams.items():
                rows[name].append(turn(team, "step"))
            rows["gemm_alone"].append(turn(both[:1], "gemm"))
            rows["gemm_both"].append(turn(both, "gemm"))
    finally:
        for team in teams.values():
            for worker in team:
                worker.process.kill()
    result = summary(rows, flags.batch_size * flags.length)
    print(table(result))
    if flags.output:
        write_json(flags.output, result)


class Worker:
    """A process on a core, one of a cluster or alone, that does what it is told by a line."""

    def __init__(self, core: int, addresses=None, index: int = 0):
        environment = dict(os.environ)
        environment.pop("TF_CONFIG", None)
        if addresses:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", "--worker", *sys.argv[1:]],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        os.sched_setaffinity(self.process.pid, {core})

    def tell(self, what: str) -> None:
        self.process.stdin.write(what + "\n")

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("a worker has ended; see above")
        return json.loads(line)


def turn(team: list[Worker], what: str) -> dict:
    """What the first says; the others do the same at the same time."""
    for worker in team:
        worker.tell(what)
    answers = [worker.answer() for worker in team]
    return answers[0]


def work(flags: args.FlagValues) -> None:
    """Answers each line of the standard input by one of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr
    workers = 2 if "TF_CONFIG" in os.environ else 1
    strategy = make_strategy("multi_worker" if workers > 1 else "one_device")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        task = gpt_keras.CausalLM(CONFIG)
        optimizer = AdamW(task.trainable_variables, LEARNING_RATE)
    step = TrainStep(
        task, task.trainable_variables, optimizer, strategy, max_grad_norm=MAX_GRAD_NORM,
        gradient_accumulation_steps=max(1, flags.gradient_accumulation_steps // workers),
        xla=flags.xla,
    )  # fmt: skip
    shape, random = (flags.batch_size, flags.length), np.random.default_rng(0)
    for line in sys.stdin:
        if line.strip() == "gemm":
            print(json.dumps({"gflops": gemm_peak()}), file=answers, flush=True)
            continue
        token_ids = random.integers(0, CONFIG.vocab_size, shape)
        batch = {
            "token_ids": token_ids.astype(np.int32),
            "segment_ids": np.ones(shape, np.int32),
            "loss_mask": np.ones(shape, np.float32),
        }
        begin = time.perf_counter()
        loss = step(batch, 0).loss
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "loss": loss}), file=answers, flush=True)


def summary(rows: dict, tokens: int) -> dict:
    one, two = ([row["seconds"] for row in rows[name]] for name in ("one", "two"))
    losses = {name: [row["loss"] for row in rows[name]] for name in ("one", "two")}
    alone, both = (max(row["gflops"] for row in rows[f"gemm_{name}"]) for name in ("alone", "both"))
    return {
        "tensorflow": tf.__version__,
        "tokens": tokens,
        "seconds": {"one": one, "two": two},
        "ratio": min(one) / min(two),
        "gemm_gflops": {"alone": alone, "both": both},
        "ratio_of_cores": 2 * both / alone,
        "losses": losses,
        "largest_difference": max(
            abs(a - b) / abs(a) for a, b in zip(losses["one"], losses["two"], strict=True)
        ),
    }


def table(result: dict) -> str:
    """Markdown."""
    tokens, seconds = result["tokens"], result["seconds"]
    rows = [
        (
            name, f"{tokens / min(values):.0f}", f"{min(values):.3f}",
            ", ".join(f"{value:.2f}" for value in values),
        )
        for name, values in seconds.items()
    ]  # fmt: skip
    lines = [
        markdown(("workers", "tokens/s", "s a step, fastest", "all"), rows),
        "",
        f"two are {result['ratio']:.2f} times as fast as one; both cores multiply matrices "
        f"{result['ratio_of_cores']:.2f} times as fast as one of them alone",
        f"losses differ by {result['largest_difference']:.1e} of their value at most",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
