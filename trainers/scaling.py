"""Says which model, on how many tokens, makes the most of a budget of compute.

    python -m trainers.scaling --flops=1e18
    python -m trainers.scaling --sweep --budgets=3e11,1e12,3e12 --output_dir=runs/sweep \\
        -- trainers.pretrain --train_data='data/*.txt' --vocab_size=512 --learning_rate=3e-3

The first prints what Chinchilla's law (Hoffmann et al., 2022, arXiv 2203.15556; constants by
Besiroglu et al., 2024, arXiv 2404.10102) says, and a model of about that size. The second trains
small models of several sizes for each budget, fits the same law to their losses, and writes
`scaling.png` (loss against compute), `scaling.json` and the runs into its folder.
"""

import sys

from absl import flags as absl_flags

from gpt_keras import GPTConfig
from trainers import args, sweep
from trainers.model_size import config_of_size, count_parameters
from trainers.run_folder import RunFolder
from trainers.scaling_law import (
    FITTED_FLOPS,
    FLOPS_PER_PARAMETER_AND_TOKEN,
    LAWS,
    ParametricLaw,
)
from trainers.stop_signals import stopping_at_once
from trainers.trainer_process import Trainer, trainer_flags, with_trainer_flags


def scaling_flags(flags: args.FlagValues) -> None:
    """Budget, and what the model is for; a sweep goes by the flags of trainers.pretrain."""
    absl_flags.DEFINE_float(
        "flops", None, "budget of the training in FLOPs: 6 x parameters x tokens",
        lower_bound=1e9, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "law", "besiroglu", LAWS, "constants of Chinchilla's third approach: besiroglu (2024, "
        "fitted anew) or hoffmann (2022, as published)", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "vocab_size", 4096, "tokens of the vocabulary", lower_bound=257, flag_values=flags
    )
    absl_flags.DEFINE_integer(
        "max_length", 512, "longest context in tokens", lower_bound=2, flag_values=flags
    )
    absl_flags.DEFINE_integer(
        "global_batch_size", 32, "rows of an update", lower_bound=1, flag_values=flags
    )


def sweep_flags(flags: args.FlagValues) -> None:
    """Sweep; the flags of trainers.pretrain follow a lone --."""
    absl_flags.DEFINE_boolean(
        "sweep", False, "train models and fit the law to them", flag_values=flags
    )
    absl_flags.DEFINE_list(
        "budgets", ["3e11", "1e12", "3e12"], "FLOPs of a run, comma-separated; each is spent by "
        "several models", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_list(
        "tokens_per_parameter", ["10", "20", "40", "80", "160"], "of the models of each budget",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string("output_dir", "", "folder of the sweep", flag_values=flags)
    absl_flags.DEFINE_boolean(
        "resume", False, "continue the sweep in --output_dir; runs that are done stay",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "dry_run", False, "say what would be trained, and end", flag_values=flags
    )


FLAGS = (scaling_flags, sweep_flags, trainer_flags)


def main(flags: args.FlagValues) -> None:
    check_given(flags)
    if not flags.sweep:
        if flags.flops is None:
            raise args.UsageError("--flops is missing: name the budget, as 1e18, or --sweep")
        print(advice(flags))
        return
    budgets = numbers("budgets", flags.budgets, 1e9)
    ratios = numbers("tokens_per_parameter", flags.tokens_per_parameter, 1e-3)
    trainer = Trainer.parse(flags.trainer)
    if trainer.module != "trainers.pretrain":
        raise args.UsageError(f"a sweep is of trainers.pretrain, not {trainer.module}")
    sweep.check_trainer(trainer)
    folder = RunFolder(flags)
    if flags.dry_run:
        known = sweep.known_tokenizer(trainer)
        size = sweep.vocabulary(known) if known else trainer.flags.vocab_size
        print(describe(sweep.plan(budgets, ratios, size, trainer)))
        return
    folder.begin()
    with stopping_at_once():
        tokenizer = sweep.make_tokenizer(trainer, folder)
        runs = sweep.plan(budgets, ratios, sweep.vocabulary(tokenizer), trainer)
        sweep.execute(runs, trainer, tokenizer, folder)
    results = [sweep.read_result(run, folder) for run in runs]
    try:
        law = sweep.fit_results(results)
    except ValueError as error:  # the runs are worth showing without
        law = None
        print(f"\nno law:   {error}")
    folder.write_json("scaling.json", sweep.to_json(results, law))
    sweep.picture(folder.file("scaling.png"), results, law)
    print(report(results, law, flags.flops))
    print(f"\npicture:  {folder.file('scaling.png')}")
    print(f"figures:  {folder.file('scaling.json')}")


def check_given(flags: args.FlagValues) -> None:
    """Raises UsageError for a flag of the one kind of use that is given in the other."""
    if not flags.sweep:
        for name in ("trainer", "output_dir", "resume", "budgets", "tokens_per_parameter"):
            if flags[name].present:
                raise args.UsageError(f"--{name} is for a sweep; give --sweep too, or leave it out")
        return
    for name in ("vocab_size", "max_length", "global_batch_size"):
        if flags[name].present:
            raise args.UsageError(
                f"--{name}: a sweep goes by that of trainers.pretrain; give it after the lone --"
            )


def numbers(name: str, texts: list[str], lower_bound: float) -> list[float]:
    """The numbers of a list flag, ascending."""
    try:
        values = sorted({float(text) for text in texts})
    except ValueError as error:
        raise args.UsageError(f"--{name}={','.join(texts)}: {error}") from error
    if not values or not lower_bound <= values[0] <= values[-1] < 1e30:
        raise args.UsageError(f"--{name}={','.join(texts)}: give numbers from {lower_bound:g}")
    return values


def advice(flags: args.FlagValues) -> str:
    """What the law says of --flops, and a model of about that size."""
    law = LAWS[flags.law]
    parameters, _ = law.optimum(flags.flops)
    config = config_of_size(parameters, flags.vocab_size, flags.max_length)
    size = count_parameters(config)
    tokens = flags.flops / FLOPS_PER_PARAMETER_AND_TOKEN / size
    steps = max(round(tokens / (flags.global_batch_size * flags.max_length)), 1)
    lines = [
        f"budget:  {flags.flops:.3g} FLOPs = 6 x parameters N x tokens D",
        f"law:     {law}",
        f"         {law.source}",
        f"optimum: {optimum(law, flags.flops)}",
    ]
    for name, other in LAWS.items():
        if name != flags.law:
            lines.append(f"         ({optimum(other, flags.flops)} by --law={name})")
    if not FITTED_FLOPS[0] <= flags.flops <= FITTED_FLOPS[1]:
        low, high = FITTED_FLOPS
        lines.append(
            f"         extrapolated: the law was fitted to runs of {low:.0e} to {high:.0e} FLOPs; "
            "--sweep fits it to yours"
        )
    lines += [
        f"model:   {size:,} parameters ({size / parameters - 1:+.1%}), {tokens:,.0f} tokens",
        f"         {describe_config(config)}",
        "train:   python -m trainers.pretrain --train_data=... --output_dir=... \\",
        "             "
        + " ".join(f"--{name}={getattr(config, name)}" for name in sweep.SIZES)
        + " \\",
        f"             --vocab_size={flags.vocab_size} --max_length={flags.max_length} "
        f"--global_batch_size={flags.global_batch_size} --max_steps={steps}",
    ]
    return "\n".join(lines)


def optimum(law: ParametricLaw, flops: float) -> str:
    parameters, tokens = law.optimum(flops)
    return (
        f"{parameters:,.0f} parameters, {tokens:,.0f} tokens, {tokens / parameters:.1f} a "
        f"parameter, loss {law.loss(parameters, tokens):.3f}"
    )


def describe_config(config: GPTConfig) -> str:
    return (
        f"{config.num_layers} layers of width {config.hidden_size}, {config.num_heads} heads of "
        f"{config.head_dim}, feed-forward {config.intermediate_size}"
    )


def describe(runs: list[sweep.Run]) -> str:
    """A line for each run of a sweep."""
    return "\n".join(
        f"{run.budget:.1e} FLOPs: {count_parameters(run.config):,} parameters "
        f"({describe_config(run.config)}), {run.steps} updates"
        for run in runs
    )


def report(results: list[sweep.Result], law: ParametricLaw | None, flops: float | None) -> str:
    """What a sweep has shown."""
    lines = [""]
    if law:
        a = law.exponent
        lines += [
            f"law:      {law} ({law.source})",
            f"          the best N grows as C^{a:.2f}, D as C^{1 - a:.2f}",
        ]
    for budget in sorted({result.run.budget for result in results}):
        best = sweep.best_of(results, budget)
        sizes = [r.parameters for r in results if r.run.budget == budget]
        line = f"{budget:.1e}:  best run {best.parameters:,} parameters, loss {best.loss:.4f}"
        if best.parameters in (min(sizes), max(sizes)):
            line += ", the last of its row: widen --tokens_per_parameter"
        lines.append(line)
        if law:
            trained = min(sizes) <= law.optimum(budget)[0] <= max(sizes)
            beyond = "" if trained else ", beyond the sizes trained"
            lines.append(f"          by the law {optimum(law, budget)}{beyond}")
    if flops and law:
        lines.append(f"{flops:.1e}:  by the law {optimum(law, flops)}")
    return "\n".join(lines)


if __name__ == "__main__":
    args.run(main, FLAGS, with_trainer_flags(sys.argv))
