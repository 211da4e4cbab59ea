"""TrainerProcess: a run of a trainer as a process of its own, watched by its run folder.

What starts trainers (`trainers.tune`, `trainers.scaling`, `trainers.launch`) takes their command
line after a lone `--`, and knows their flags before anything starts.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from absl import flags as absl_flags

from trainers import args
from trainers.args import FlagValues, UsageError

TRAINERS = ("trainers.finetune", "trainers.pretrain")
OURS = ("output_dir", "resume", "dry_run")  # flags that are set for each run
GRACE_SECONDS = 30.0  # for a run that is stopped to save and end
PR_SET_PDEATHSIG = 1


def trainer_flags(flags: FlagValues) -> None:
    """Trainer."""
    absl_flags.DEFINE_multi_string(
        "trainer",
        [],
        "the trainer and its flags, one a time; on a command line write them at its end, after a "
        "lone --",
        flag_values=flags,
    )


def with_trainer_flags(argv: Sequence[str]) -> list[str]:
    """A command line whose part after `--` is written as `--trainer` flags."""
    argv = list(argv)
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place] + [f"--trainer={argument}" for argument in argv[place + 1 :]]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A trainer's module, the arguments of all its runs, and its flags with their values."""

    module: str
    arguments: tuple[str, ...]
    flags: FlagValues

    @classmethod
    def parse(cls, texts: Sequence[str], fixed: Sequence[str] = OURS) -> "Trainer":
        """Of the `--trainer` flag; `fixed` are flags that are set for each run.

        Raises:
          UsageError: another program, or flags that it does not know or that are set for each run.
        """
        module, *arguments = texts or [""]
        if module not in TRAINERS:
            got = f"not {module!r}" if module else "which is missing"
            raise UsageError(
                f"write {' or '.join(TRAINERS)} and its flags at the end, after a lone --; {got}"
            )
        trainer = cls(module, tuple(arguments), _parse(module, arguments))
        for name in fixed:
            if name in trainer.given:
                raise UsageError(f"{module} --{name}: leave it out, each run is given its own")
        return trainer

    @property
    def given(self) -> set[str]:
        """Flags on the command line itself, not in its config files."""
        return {_flag_name(argument, self.flags) for argument in self.arguments}

    def command(self, values: Mapping[str, object], folder: str) -> list[str]:
        """The command line of a run with these values of flags, in this folder."""
        return [
            sys.executable, "-m", self.module, *self.arguments,
            *(f"--{name}={value}" for name, value in values.items()),
            f"--output_dir={folder}", "--resume",
        ]  # fmt: skip


def _parse(module: str, arguments: Sequence[str]) -> FlagValues:
    groups = importlib.import_module(module).FLAGS
    try:
        flags = args.parse(groups, [module, *arguments])
    except UsageError as error:
        raise UsageError(f"{module}: {error}") from error
    if flags is None:
        raise UsageError(f"for the flags of {module}: python -m {module} --help")
    return flags


def _flag_name(argument: str, flags: FlagValues) -> str:
    name = argument.lstrip("-").split("=")[0]
    return name.removeprefix("no") if name not in flags else name


class TrainerProcess:
    """A run in its folder: started, or continued from its newest checkpoint if it has one.

    It dies with the process that started it, however that one ends. What it prints goes to
    `<folder>.log`.

    Args:
      command: see `Trainer.command`.
      folder: of the run.
      share: of the machine; by default all of it.
    """

    def __init__(self, command: Sequence[str], folder: str, share: "Share | None" = None):
        self.folder, self.log = folder, f"{folder}.log"
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            self._process = start_process(command, share or Share(), log)
        self._metrics = _Tail(os.path.join(folder, "metrics.jsonl"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def evaluations(self) -> list[dict]:
        """All evaluations so far but that of the untrained model: lines of `metrics.jsonl`."""
        return [
            line
            for line in self._metrics.read()
            if line["step"] > 0 and any(name.startswith("eval_") for name in line)
        ]

    def poll(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """Ends it: SIGTERM, and SIGKILL if it does not follow."""
        stop_processes([self._process], GRACE_SECONDS)

    def last_line(self) -> str:
        """What it printed last: the error, if it failed."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1] if lines else "nothing printed"


class _Tail:
    """Lines of a JSONL file that grows, and that a run which resumes may replace."""

    def __init__(self, path: str):
        self.path, self.lines, self._place, self._inode = path, [], 0, None

    def read(self) -> list[dict]:
        try:
            file = open(self.path, "rb")  # noqa: SIM115, closed below
        except FileNotFoundError:
            return self.lines
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self.lines, self._place, self._inode = [], 0, inode
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # half written
                self._place += len(line)
                if b"eval_" in line:
                    self.lines.append(json.loads(line))
        return self.lines


@dataclasses.dataclass(frozen=True)
class Share:
    """What of the machine a process gets: its CPU cores (none: all), and variables."""

    cores: frozenset[int] = frozenset()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def shares(count: int, num_gpus: int) -> list[Share]:
    """Cuts the machine into as many: cores that do not overlap while there are enough, and GPUs.

    Threads that outnumber their cores wait for each other actively, and TensorFlow takes all
    memory of each GPU that it sees.
    """
    if count == 1:
        return [Share()]
    cores = sorted(os.sched_getaffinity(0))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[:num_gpus]
    gpus = names if num_gpus and all(names) else [str(i) for i in range(num_gpus)]
    result = []
    for i in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[i % num_gpus]} if num_gpus else {}
        if count > num_gpus > 0:
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        result.append(Share(frozenset(cores[i::count]), environment))
    return result


def start_process(
    command: Sequence[str], share: Share, output, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """A process on its share of the machine, which dies with this one, however this one ends.

    Args:
      output: file, or what `subprocess` takes for one, of all that it prints.
      environment: more variables.
    """
    libc = ctypes.CDLL(None)
    own = {"PYTHONUNBUFFERED": "1", **share.environment, **(environment or {})}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **own},
        start_new_session=True,  # so Ctrl-C reaches us alone, and we end it in order
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    if share.cores:
        os.sched_setaffinity(process.pid, share.cores)
    return process


def signal_processes(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to those of `start_process` that run, and to what they have started."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, number)


def stop_processes(processes: Sequence[subprocess.Popen], seconds: float) -> None:
    """Ends them: SIGTERM, and SIGKILL for those that do not follow within these seconds."""
    deadline = time.monotonic() + seconds
    signal_processes(processes, signal.SIGTERM)
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    signal_processes(processes, signal.SIGKILL)
    for process in processes:
        process.wait()
