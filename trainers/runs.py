"""Runs of a trainer, one after the other, each in a folder of its own."""

import json
import os
import shutil
from collections.abc import Mapping

from absl import flags as absl_flags

from trainers.args import FlagValues
from trainers.run_folder import RunFolder
from trainers.stop_signals import stopping_at_once
from trainers.trainer_process import Trainer, TrainerProcess


def runs_flags(flags: FlagValues) -> None:
    """Runs."""
    absl_flags.DEFINE_string(
        "output_dir", "", "folder of the result, and in runs/ of the run folders", flag_values=flags
    )
    absl_flags.DEFINE_boolean(
        "resume", False, "continue what is in --output_dir", flag_values=flags
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "keep_models", False, "keep model and training state of each run", flag_values=flags
    )


def run_each(
    trainer: Trainer, runs: Mapping[str, Mapping[str, object]], folder: RunFolder, keep_models: bool
) -> dict[str, dict]:
    """Runs a trainer with some flags set, unless that has been done.

    Args:
      trainer: what is run.
      runs: name -> values of flags.
      folder: of the result; begun.
      keep_models: False removes what is large of each finished run.

    Returns:
      name -> its report.json.

    Raises:
      ValueError: a run failed.
    """
    reports = {}
    with stopping_at_once():
        for name, values in runs.items():
            path = folder.file("runs", name)
            report = os.path.join(path, "report.json")
            done = "model" if keep_models else "report.json"
            if not os.path.exists(os.path.join(path, done)):
                print(f"{name}: {path}", flush=True)
                _run(TrainerProcess(trainer.command(values, path), path))
            with open(report, encoding="utf-8") as file:
                reports[name] = json.load(file)
            for large in () if keep_models else ("model", "training_state"):
                shutil.rmtree(os.path.join(path, large), ignore_errors=True)
    return reports


def _run(process: TrainerProcess) -> None:
    try:
        status = process.wait()
    finally:
        process.stop()
    if status:
        raise ValueError(
            f"{process.folder}: ended with status {status}: {process.last_line()}; what it printed "
            f"is in {process.log}"
        )
