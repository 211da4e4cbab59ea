"""Share of a pretraining step that waits for its batch, out of shards.

    python -m benchmarks.input_wait --output=bench/input_wait.json

Prepares Shakespeare's plays and the tweets, trains on a mixture of both with the real trainer, in
both packings, and reads `input_wait` where the trainer writes it, for TensorBoard. The model of
13.9 M parameters is that of `benchmarks.train_step`; the tiny one has steps as short as any, which
no batch may delay. Needs the data of `python -m examples.fetch_data shakespeare tweets` and
`python -m examples.prepare_tweets`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.tables import markdown
from trainers.files import write_json

MODELS = {
    "13.9 M": {"num_layers": 6, "hidden_size": 384, "num_heads": 6},
    "tiny": {"num_layers": 1, "hidden_size": 64, "num_heads": 2},
}
FIRST = 5  # steps that compile and warm up


def run(module, **values):
    arguments = [f"--{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-m", module, *arguments]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(f"input_wait: {module} failed")


def read_scalar(folder, name):
    """Its values in TensorBoard's files, by step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: all
    return [event.value for event in events.Scalars(name)]


def main(_):
    report = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(
            "trainers.prepare_data", train_data="data/shakespeare/*_gut.txt",
            text_unit="paragraph", output_dir=folder / "plays",
        )  # fmt: skip
        run(
            "trainers.prepare_data", train_data="data/tweets/train.jsonl",
            tokenizer=folder / "plays" / "tokenizer", output_dir=folder / "tweets",
        )  # fmt: skip
        for model, sizes in MODELS.items():
            for packing in ("concat", "best_fit"):
                output_dir = folder / f"{model}-{packing}"
                run(
                    "trainers.pretrain", packing=packing, max_length=256, global_batch_size=8,
                    train_data=f"plays=0.7:{folder / 'plays'},tweets=0.3:{folder / 'tweets'}",
                    eval_fraction=0, max_steps=flags.FLAGS.steps, save_steps=10**6,
                    output_dir=output_dir, **sizes,
                )  # fmt: skip
                waits = read_scalar(output_dir / "tensorboard", "train/input_wait")[FIRST:]
                seconds = read_scalar(output_dir / "tensorboard", "train/seconds")[FIRST:]
                report.append(
                    {
                        "model": model,
                        "packing": packing,
                        "step_ms": 1e3 * statistics.median(seconds),
                        "input_wait_mean": statistics.mean(waits),
                        "input_wait_max": max(waits),
                    }
                )
    rows = [
        (
            row["model"], row["packing"], f"{row['step_ms']:.1f}", f"{row['input_wait_mean']:.2%}",
            f"{row['input_wait_max']:.2%}",
        )
        for row in report
    ]  # fmt: skip
    print(markdown(("model", "packing", "ms a step", "waits", "longest"), rows))
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, {"cores": os.cpu_count(), "results": report})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_integer("steps", 40, "steps of each run", lower_bound=FIRST + 2)
    app.run(main)
