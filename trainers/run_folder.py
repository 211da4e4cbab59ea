"""RunFolder: what a run leaves behind, and that no other run writes over it."""

import contextlib
import json
import os
from collections.abc import Mapping

import yaml

from trainers import args
from trainers.args import FlagValues, UsageError
from trainers.files import is_free, naming, replacing, write_json

# Flags that do not change what a run computes, and may differ when it is resumed. Devices and XLA
# change the order of sums only; what is done with bad batches is decided when one has come.
HARMLESS = frozenset(
    ("output_dir", "resume", "save_steps", "log_seconds", "strategy", "num_replicas",
     "join_seconds", "gradient_accumulation_steps", "xla", "frozen_features", "sample_prompts",
     "remat", "keep_last", "keep_best", "bad_loss", "loss_spike", "profile_steps", "trials",
     "workers", "timeout_seconds", "keep_models", "budgets", "tokens_per_parameter", "flops", "law",
     "verify_shards", "insight_steps", "attention_prompts", "wandb_project", "intended_use",
     "license", "sizes")
)  # fmt: skip


class RunFolder:
    """The output folder of one run.

    It holds `config.yaml` (the flags), `metrics.jsonl` (one line a step, one an evaluation),
    `bad_batches.jsonl` (those left out), `tensorboard/`, `training_state/` (to resume),
    `report.json`, and when the run is finished `model/`, a Hugging Face directory.

    Args:
      flags: of the program, with `output_dir` and `resume`.
      writes: False in all but one of the processes of a run; what they are told to write is not.

    Raises:
      UsageError: no folder given; the folder holds a run and `--resume` was not given; or it was,
        and a flag that changes results differs from that run's. Nothing has been written then.
    """

    def __init__(self, flags: FlagValues, writes: bool = True):
        if not flags.output_dir:
            raise UsageError("--output_dir is missing: name the folder that the run is to fill")
        self.path = os.path.abspath(os.path.expanduser(flags.output_dir))
        self.flags, self.writes = flags, writes
        self.resumes = os.path.exists(self.file("config.yaml"))
        if self.resumes:
            self._check_resumable(flags)
        elif not is_free(self.path):
            raise UsageError(
                f"--output_dir={flags.output_dir}: is not an empty folder, and holds no run to "
                "resume; name another"
            )
        self._files = {}  # open JSONL files by name

    def begin(self) -> None:
        """Makes the folder and writes the config, once all that the run needs has been found good.

        So a mistake in the data does not leave a folder that the next try is refused.
        """
        os.makedirs(self.path, exist_ok=True)
        if self.writes and not self.resumes:
            args.write_config(self.flags, self.file("config.yaml"))

    def file(self, *names: str) -> str:
        """Path of something in the folder."""
        return os.path.join(self.path, *names)

    @property
    def finished(self) -> bool:
        """Whether the model of the run has been written."""
        return os.path.isdir(self.file("model"))

    def _check_resumable(self, flags: FlagValues) -> None:
        if not flags.resume:
            raise UsageError(
                f"--output_dir={flags.output_dir}: holds a run already; name another, or continue "
                "that one with --resume"
            )
        with open(self.file("config.yaml"), encoding="utf-8") as file:
            before = yaml.safe_load(file)
        for name in before:
            if name not in HARMLESS and name in flags and flags[name].value != before[name]:
                raise UsageError(
                    f"--{name}={flags[name].value} differs from {before[name]}, with which the run "
                    f"in {flags.output_dir} began; resume with the same, or name another folder"
                )

    def truncate(self, step: int, evaluated: bool) -> None:
        """Drops the lines of what the run will do again.

        Args:
          step: from which it goes on; -1: from the beginning.
          evaluated: whether that step's evaluation is behind it.
        """
        for name in ("metrics.jsonl", "bad_batches.jsonl"):
            if not (self.writes and os.path.exists(self.file(name))):
                continue
            kept = [
                line
                for line in read_lines(self.file(name))
                if line["step"] < step or (line["step"] == step and (evaluated or "loss" in line))
            ]
            with replacing(self.file(name)) as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)

    def log(self, values: Mapping, name: str = "metrics.jsonl") -> None:
        """Adds a line to a JSONL file."""
        if not self.writes:
            return
        if name not in self._files:
            self._files[name] = open(  # noqa: SIM115, closed with the run
                self.file(name), "a", encoding="utf-8"
            )
        with naming(self.file(name)):
            self._files[name].write(json.dumps(dict(values)) + "\n")
            self._files[name].flush()

    def write_json(self, name: str, value) -> None:
        """Writes a JSON file into the folder, whole or not at all."""
        if self.writes:
            write_json(self.file(name), value)

    def close(self) -> None:
        while self._files:
            with contextlib.suppress(OSError):  # a line that `log` could not write
                self._files.popitem()[1].close()


def read_lines(path: str | os.PathLike) -> list[dict]:
    """Lines of a JSONL file, without one that a kill cut short; none where there is no file yet."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines
