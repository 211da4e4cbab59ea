"""Sweep: models of several sizes for each of several budgets, and the law of their losses.

Each budget of FLOPs is spent by several models, small ones on many tokens and large ones on few,
as in the second approach of Hoffmann et al. (2022, https://arxiv.org/abs/2203.15556). The law is
fitted to the losses of all runs at once, as in the third: parabolas over the few runs of one
budget are biased where those lie off its minimum or the law is lopsided.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Sequence

import numpy as np

from gpt_keras import GPTConfig, tokenizers
from trainers import data, pretrain
from trainers.args import UsageError
from trainers.files import replacing, save_folder
from trainers.mixture import open_mixture
from trainers.model_size import config_of_size, count_parameters
from trainers.run_folder import RunFolder
from trainers.scaling_law import FLOPS_PER_PARAMETER_AND_TOKEN, ParametricLaw, fit_law
from trainers.trainer_process import Trainer, TrainerProcess

SIZES = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
GIVEN = (*SIZES, "num_kv_heads", "config", "max_steps", "eval_steps")
FEWEST_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Run:
    """A model and the budget that it is to spend.

    Attributes:
      budget: FLOPs.
      config: of the model.
      steps: updates.
    """

    budget: float
    config: GPTConfig
    steps: int

    @property
    def name(self) -> str:
        return f"{self.budget:g}_{count_parameters(self.config)}"

    @property
    def values(self) -> dict[str, int]:
        """Of the flags of `trainers.pretrain`."""
        sizes = {name: getattr(self.config, name) for name in SIZES}
        return {**sizes, "max_steps": self.steps, "eval_steps": self.steps}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      run: see `Run`.
      parameters, tokens: N and D; tokens as counted, with those that came more than once.
      loss: on the eval data, nats a token.
      curve: (FLOPs spent, training loss) after each update, (steps, 2).
    """

    run: Run
    parameters: int
    tokens: int
    loss: float
    curve: np.ndarray

    @property
    def flops(self) -> float:
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens


def check_trainer(trainer: Trainer) -> None:
    """Raises UsageError for flags of the trainer that a sweep cannot have, or has to."""
    for name in GIVEN:
        if name in trainer.given:
            raise UsageError(f"{trainer.module} --{name}: leave it out, each run is given its own")
    if not trainer.flags.train_data:
        raise UsageError(f"{trainer.module} --train_data is missing")
    if not trainer.flags.eval_data and not trainer.flags.eval_fraction:
        raise UsageError("without --eval_data and --eval_fraction there is nothing to go by")


def known_tokenizer(trainer: Trainer) -> str | None:
    """Directory of the tokenizer that is given, or that of the shards; None: to be trained."""
    if trainer.flags.tokenizer:
        return trainer.flags.tokenizer
    mixture = open_mixture(trainer.flags.train_data, tokenizer="", verify=False)
    return mixture and mixture.tokenizer_dir


def make_tokenizer(trainer: Trainer, folder: RunFolder) -> str:
    """Directory of the tokenizer that all runs have: known already, or trained once."""
    known = known_tokenizer(trainer)
    if known:
        return known
    path = folder.file("tokenizer")
    if not os.path.isdir(path):
        records, _ = data.load_split("causal_lm", trainer.flags)
        save_folder(pretrain.load_tokenizer(trainer.flags, folder, records).save, path)
    return path


def plan(
    budgets: Sequence[float], ratios: Sequence[float], vocab_size: int, trainer: Trainer
) -> list[Run]:
    """The runs of a sweep: for each budget models with about so many tokens a parameter.

    Raises:
      UsageError: a budget that is spent after a few updates.
    """
    length = trainer.flags.max_length
    batch_tokens = trainer.flags.global_batch_size * length
    runs = {}
    for budget in budgets:
        for ratio in ratios:
            wanted = math.sqrt(budget / FLOPS_PER_PARAMETER_AND_TOKEN / ratio)
            config = config_of_size(wanted, vocab_size, length)
            flops = FLOPS_PER_PARAMETER_AND_TOKEN * count_parameters(config) * batch_tokens
            run = Run(budget, config, round(budget / flops))
            if run.steps < FEWEST_STEPS:
                raise UsageError(
                    f"--budgets={budget:g}: is spent after {run.steps} updates of a model of "
                    f"{count_parameters(config):,} parameters; give more, fewer --vocab_size, or a "
                    "smaller --global_batch_size"
                )
            runs[run.name] = run  # two ratios may come to the same model
    return list(runs.values())


def execute(runs: Sequence[Run], trainer: Trainer, tokenizer: str, folder: RunFolder):
    """Trains what is not trained yet.

    Raises:
      ValueError: a run fails.
    """
    for number, run in enumerate(runs, 1):
        path = folder.file("runs", run.name)
        if not os.path.exists(os.path.join(path, "report.json")):
            command = trainer.command({"tokenizer": tokenizer, **run.values}, path)
            process = TrainerProcess(command, path)
            try:
                if process.wait():
                    raise ValueError(f"{run.name}: {process.last_line()} ({process.log})")
            finally:
                process.stop()
        shutil.rmtree(os.path.join(path, "training_state"), ignore_errors=True)
        result = read_result(run, folder)
        print(
            f"{number}/{len(runs)}  {result.flops:.2e} FLOPs: {result.parameters:,} parameters, "
            f"{result.tokens:,} tokens, loss {result.loss:.4f}",
            flush=True,
        )


def read_result(run: Run, folder: RunFolder) -> Result:
    """What a finished run came to."""
    with open(folder.file("runs", run.name, "report.json"), encoding="utf-8") as file:
        loss = json.load(file)["eval"]["loss"]
    with open(folder.file("runs", run.name, "metrics.jsonl"), encoding="utf-8") as file:
        steps = [line for line in map(json.loads, file) if "tokens" in line]
    parameters = count_parameters(run.config)
    tokens = np.cumsum([line["tokens"] for line in steps])
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * parameters * tokens
    curve = np.stack([flops, [line["loss"] for line in steps]], axis=1)
    return Result(run, parameters, int(tokens[-1]), loss, curve)


def fit_results(results: Sequence[Result]) -> ParametricLaw:
    """Raises ValueError for too few runs."""
    return fit_law(
        [result.parameters for result in results],
        [result.tokens for result in results],
        [result.loss for result in results],
    )


def best_of(results: Sequence[Result], budget: float) -> Result:
    """Of the runs of a budget that with the least loss."""
    return min((r for r in results if r.run.budget == budget), key=lambda result: result.loss)


def to_json(results: Sequence[Result], law: ParametricLaw | None) -> dict:
    """Runs, the best of each budget, and the law."""
    budgets = sorted({result.run.budget for result in results})
    return {
        "runs": [
            {
                "name": result.run.name, "budget": result.run.budget, "flops": result.flops,
                "parameters": result.parameters, "tokens": result.tokens, "loss": result.loss,
                **result.run.values,
            }
            for result in results
        ],
        "best": [{"budget": b, "name": best_of(results, b).run.name} for b in budgets],
        "law": {**dataclasses.asdict(law), "exponent": law.exponent} if law else None,
    }  # fmt: skip


def picture(path: str, results: Sequence[Result], law: ParametricLaw | None) -> None:
    """Draws loss against compute, and against size for each budget."""
    from matplotlib.figure import Figure  # imported here: it takes a second

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    budgets = sorted({result.run.budget for result in results})
    for i, budget in enumerate(budgets):
        colour = f"C{i}"
        of_budget = sorted(
            (r for r in results if r.run.budget == budget), key=lambda r: r.parameters
        )
        for result in of_budget:
            flops, losses = result.curve.T
            left.plot(flops, _smooth(losses), color=colour, alpha=0.4, linewidth=0.8)
        sizes = [result.parameters for result in of_budget]
        losses = [result.loss for result in of_budget]
        left.plot([result.flops for result in of_budget], losses, "o", color=colour)
        right.plot(sizes, losses, "o", color=colour, label=f"{budget:g} FLOPs")
        if law:
            grid = np.geomspace(sizes[0] / 1.5, sizes[-1] * 1.5, 100)
            tokens = budget / FLOPS_PER_PARAMETER_AND_TOKEN / grid
            right.plot(grid, law.loss(grid, tokens), color=colour, linewidth=1)
            best = law.optimum(budget)
            if grid[0] <= best[0] <= grid[-1]:
                right.plot(best[0], law.loss(*best), "*", color=colour, markersize=12)
    if law:
        flops = np.geomspace(budgets[0] / 3, budgets[-1] * 3, 50)
        frontier = [law.loss(*law.optimum(budget)) for budget in flops]
        label = f"best: N grows as C^{law.exponent:.2f}"
        left.plot(flops, frontier, "k--", linewidth=1, label=label)
        left.legend()
    left.set_xlim(left=budgets[0] / 10)
    left.set_ylim(top=1.15 * max(result.loss for result in results))
    left.set(xscale="log", xlabel="compute, FLOPs", ylabel="loss, nats a token")
    right.set(xscale="log", xlabel="parameters", ylabel="loss on the eval data, nats a token")
    left.set_title("lines: training; points: eval data at the end", fontsize=10)
    right.set_title("one budget a colour; lines: law; stars: its best", fontsize=10)
    right.legend()
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _smooth(losses: np.ndarray) -> np.ndarray:
    """The mean of each value and those before it, of a twentieth of the run."""
    width = max(len(losses) // 20, 1)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def vocabulary(tokenizer: str) -> int:
    """Tokens of the tokenizer in this directory."""
    return tokenizers.load(tokenizer).vocab_size
