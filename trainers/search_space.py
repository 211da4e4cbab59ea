"""SearchSpace: which flags of a trainer are searched, and between what values.

A dimension is written `flag=kind:values`:

    learning_rate=log:1e-5:1e-3   evenly in the logarithm, for numbers that scale
    dropout=float:0:0.3           evenly
    num_epochs=int:1:4            whole numbers, both ends included
    hidden_size=int:64:256:64     in steps of 64
    schedule=choice:cosine,linear one of these; quotes as in CSV around what holds a comma
"""

import csv
import dataclasses
import difflib
import math
from collections.abc import Sequence

from absl import flags as absl_flags

from trainers.args import FlagValues, UsageError
from trainers.trainer_process import OURS, Trainer

KINDS = {"log": "low:high", "float": "low:high", "int": "low:high or low:high:step",
         "choice": "value,value,..."}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A flag that is searched.

    Attributes:
      flag: its name.
      kind: one of KINDS.
      low, high: both included; whole numbers if `whole`.
      step: between whole numbers.
      whole: only whole numbers.
      choices: texts, of kind "choice".
    """

    flag: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: int = 1
    whole: bool = False
    choices: tuple[str, ...] = ()

    def suggest(self, trial):
        """The value that an `optuna.Trial` has of it, or is given now."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.flag, self.choices)
        log = self.kind == "log"
        if self.whole:
            return trial.suggest_int(self.flag, self.low, self.high, step=self.step, log=log)
        return trial.suggest_float(self.flag, self.low, self.high, log=log)

    def __str__(self):
        if self.kind == "choice":
            return f"--{self.flag} one of {', '.join(self.choices)}"
        step = f" in steps of {self.step}" if self.step > 1 else ""
        log = ", logarithmic" if self.kind == "log" else ""
        return f"--{self.flag} from {self.low:g} to {self.high:g}{step}{log}"


def parse_space(texts: Sequence[str], trainer: Trainer) -> list[Dimension]:
    """Dimensions of the `--search` flags, checked against the trainer's own.

    Raises:
      UsageError: none, one twice, an unknown flag (close ones are named), one that is given a
        fixed value too, or values that the flag does not take.
    """
    if not texts:
        raise UsageError("--search is missing: name a flag to search, learning_rate=log:1e-5:1e-3")
    space = [_parse(text, trainer) for text in texts]
    names = [dimension.flag for dimension in space]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--search={name} is given twice")
    return space


def _parse(text: str, trainer: Trainer) -> Dimension:
    name, _, rest = text.partition("=")
    kind, _, values = rest.partition(":")
    name = name.lstrip("-").replace("-", "_")
    _check_flag(name, text, trainer)
    if kind not in KINDS or not values:
        forms = ", ".join(f"{name}={kind}:{form}" for kind, form in KINDS.items())
        raise UsageError(f"--search={text}: write {forms}")
    try:
        if kind == "choice":
            return _choice(name, values, trainer.flags)
        return _interval(name, kind, values.split(":"), trainer.flags)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--search={text}: {error.args[0]}") from error


def _check_flag(name: str, text: str, trainer: Trainer) -> None:
    ours = {*OURS, "config_file"}
    if name in ours:
        raise UsageError(f"--search={text}: --{name} is set for each trial, it cannot be searched")
    if name not in trainer.flags:
        close = difflib.get_close_matches(name, set(trainer.flags) - ours, 3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"--search={text}: {trainer.module} has no flag --{name}{hint}")
    if isinstance(trainer.flags[name], absl_flags.MultiFlag):
        raise UsageError(f"--search={text}: --{name} is repeatable, it cannot be searched")
    if name in trainer.given:
        raise UsageError(f"--search={text}: --{name} is given a value after -- too; drop one")


def _choice(name: str, values: str, flags: FlagValues) -> Dimension:
    choices = tuple(next(csv.reader([values])))
    for value in choices:
        flags[name].parser.parse(value)
    if len(set(choices)) < max(len(choices), 2):
        raise ValueError("give two or more values, each once")
    return Dimension(name, "choice", choices=choices)


def _interval(name: str, kind: str, ends: Sequence[str], flags: FlagValues) -> Dimension:
    takes_whole = isinstance(flags[name].parser, absl_flags.IntegerParser)
    takes_real = isinstance(flags[name].parser, absl_flags.FloatParser)
    if not takes_whole and not takes_real:
        raise ValueError(f"--{name} is no number; write {name}=choice:value,value")
    if takes_whole and kind == "float":
        raise ValueError(f"--{name} takes whole numbers; write int or log")
    whole = takes_whole or kind == "int"
    if len(ends) != 2 and not (len(ends) == 3 and kind == "int"):
        raise ValueError(f"write {kind}:{KINDS[kind]}")
    low, high = (int(end) if whole else float(end) for end in ends[:2])
    for end in (low, high):
        flags[name].parser.parse(str(end))
    if not low < high or not math.isfinite(high - low):
        raise ValueError(f"{low} is not below {high}")
    if kind == "log" and low <= 0:
        raise ValueError(f"{low} has no logarithm; begin above 0")
    step = int(ends[2]) if len(ends) == 3 else 1
    if step < 1 or (whole and (high - low) % step):
        raise ValueError(f"steps of {step} do not lead from {low} to {high}")
    return Dimension(name, kind, low, high, step, whole)
