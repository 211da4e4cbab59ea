"""Learning curve: how good a model becomes with how much data.

    python -m trainers.learning_curve --sizes=100,300,1000 --output_dir=runs/curve \\
        -- trainers.finetune --model=DIR --task=classification --train_data=train.jsonl \\
        --test_data=test.jsonl

Each size is a run of its own, in `runs/100` ..., on as many training samples (`--train_samples`);
fewer are among more. `curve.json` and `curve.png` show the test data's numbers, or the eval data's
where there are none, with their bootstrap intervals.
"""

import sys

from absl import flags as absl_flags

from trainers import args
from trainers.cross_validate import numbers
from trainers.files import replacing
from trainers.pictures import draw_curve
from trainers.run_folder import RunFolder
from trainers.runs import run_each, runs_flags
from trainers.trainer_process import OURS, Trainer, trainer_flags, with_trainer_flags
from trainers.tune import objective_of


def curve_flags(flags: args.FlagValues) -> None:
    """Learning curve."""
    absl_flags.DEFINE_list("sizes", [], "numbers of training samples", flag_values=flags)
    absl_flags.DEFINE_string(
        "metric", "", "what the picture shows; empty: what early stopping watches",
        flag_values=flags,
    )  # fmt: skip


FLAGS = (curve_flags, runs_flags, trainer_flags)


def main(flags: args.FlagValues) -> None:
    sizes = parse_sizes(flags.sizes)
    trainer = Trainer.parse(flags.trainer, (*OURS, "train_samples"))
    if "train_samples" not in trainer.flags:
        raise args.UsageError(f"{trainer.module} has no --train_samples; give trainers.finetune")
    folder = RunFolder(flags)
    folder.begin()
    runs = {str(size): {"train_samples": size} for size in sizes}
    reports = run_each(trainer, runs, folder, flags.keep_models)
    part = "test" if all("test" in report for report in reports.values()) else "eval"
    points = []
    for size, report in zip(sizes, reports.values(), strict=True):
        if part not in report:
            raise args.UsageError("no --test_data and no eval data: nothing to measure")
        found = report[part]
        points.append(
            {"samples": size, **numbers(found), "confidence": found.get("confidence", {})}
        )
    metric = flags.metric or objective_of(trainer).KEY
    if metric not in points[0]:
        raise args.UsageError(f"--metric={metric}: there are {', '.join(numbers(points[0]))}")
    folder.write_json("curve.json", {"data": part, "metric": metric, "points": points})
    ranges = [point["confidence"].get(metric, [point[metric]] * 2) for point in points]
    picture = draw_curve(sizes, [point[metric] for point in points], ranges, metric)
    with replacing(folder.file("curve.png"), "wb") as file:
        write_png(picture, file)
    for point, (low, high) in zip(points, ranges, strict=True):
        print(f"{point['samples']:>10,}  {metric} {point[metric]:.4f}  ({low:.4f} to {high:.4f})")
    print(f"picture: {folder.file('curve.png')}")


def parse_sizes(texts) -> list[int]:
    """Ascending numbers of samples."""
    if not texts or not all(text.strip().isdecimal() and int(text) > 0 for text in texts):
        raise args.UsageError(f"--sizes={','.join(texts)}: give numbers of samples, as 100,300")
    return sorted({int(text) for text in texts})


def write_png(picture, file) -> None:
    from matplotlib.image import imsave

    imsave(file, picture, format="png")


if __name__ == "__main__":
    args.run(main, FLAGS, with_trainer_flags(sys.argv))
