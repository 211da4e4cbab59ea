"""Study: the trials of a search, each a run of a trainer in a process and a folder of its own."""

import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Sequence

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import TrialState

from trainers import hparams
from trainers.args import FlagValues, UsageError
from trainers.files import replacing
from trainers.run_folder import RunFolder
from trainers.search_space import Dimension
from trainers.trainer_process import Share, Trainer, TrainerProcess

POLL_SECONDS = 0.1
HOPELESS = 3  # failed trials, where none succeeded, after which the fault is not in the values


class Study:
    """A search that can be stopped at any moment and continued.

    Optuna proposes values (a tree-structured Parzen estimator: Bergstra et al., 2011,
    https://papers.nips.cc/paper/4443; Watanabe, 2023, https://arxiv.org/abs/2304.11127) and says
    which trials to prune. The folder holds `study.db` (Optuna's study, SQLite), `trials/0000/` ...
    (the run folders), `trials.json`, `best.yaml`, and what TensorBoard's HParams page shows.

    What is proposed for a trial depends on the seed, its number and the trials before alone, so
    a continued search proposes what the uninterrupted one would; with several workers it depends
    on which trial ends first as well.

    Args:
      trainer: what is run.
      space: the flags that differ between trials.
      metric: of an evaluation.
      direction: "minimize" or "maximize".
      flags: of `trainers.tune`.
      folder: of the search; begun.

    Leave it with `with`: no other process searches in the folder until then.

    Raises:
      UsageError: another process searches in this folder.
    """

    def __init__(
        self,
        trainer: Trainer,
        space: Sequence[Dimension],
        metric: str,
        direction: str,
        flags: FlagValues,
        folder: RunFolder,
    ):
        self.trainer, self.space, self.flags, self.folder = trainer, space, flags, folder
        self.metric = metric
        self._lock = open(folder.file("config.yaml"), encoding="utf-8")  # noqa: SIM115, held
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UsageError(
                f"--output_dir={flags.output_dir}: another process searches there; wait for it, "
                "give it more --workers, or name another folder"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.NopPruner()
        if flags.pruner == "median":
            pruner = optuna.pruners.MedianPruner(
                flags.pruner_startup_trials, flags.pruner_warmup_evaluations + 1
            )
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder.file('study.db')}",
            study_name="study",
            direction=direction,
            pruner=pruner,
            load_if_exists=True,
        )
        self._interrupted = self._trials(TrialState.RUNNING)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lock.close()

    def run(self, shares: Sequence[Share]) -> None:
        """Runs trials, one at a time on each share of the machine, until there are enough.

        Raises:
          ValueError: the first trials fail all.
        """
        hparams.write_experiment(self.folder.path, self.space, self.metric)
        begin, free, running = time.monotonic(), list(shares), []
        limit = self.flags.timeout_seconds or float("inf")
        try:
            while True:
                while free and self._wants_more() and time.monotonic() - begin < limit:
                    trial = self._next_trial()
                    process = self._start(trial, free[-1])
                    if process is not None:
                        running.append((trial, process, free.pop()))
                if not running:
                    return
                for entry in list(running):
                    trial, process, share = entry
                    if self._ended(trial, process):
                        running.remove(entry)
                        free.append(share)
                        self._check_hope()
                time.sleep(POLL_SECONDS)
        finally:
            for _, process, _ in running:
                process.stop()

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best of the trials that ran to their end."""
        sign = -1 if self._study.direction == StudyDirection.MAXIMIZE else 1
        complete = self._trials(TrialState.COMPLETE)
        # Of equals the first: the others may have no folder.
        return min(complete, key=lambda t: (sign * t.value, t.number), default=None)

    def trial_folder(self, number: int) -> str:
        return self.folder.file("trials", f"{number:04d}")

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(states=states or None)

    def _wants_more(self) -> bool:
        return bool(self._interrupted) or len(self._trials()) < self.flags.trials

    def _next_trial(self) -> optuna.Trial:
        """One that was interrupted, or a new one."""
        frozen = self._interrupted.pop(0) if self._interrupted else None
        number = frozen.number if frozen else len(self._trials())
        # A sampler of its own for each trial: a shared one would begin anew at each resume and
        # propose once more what it has proposed.
        seed = np.random.SeedSequence([self.flags.seed, number]).generate_state(1)[0]
        self._study.sampler = optuna.samplers.TPESampler(
            seed=int(seed), n_startup_trials=self.flags.startup_trials
        )
        return optuna.Trial(self._study, frozen._trial_id) if frozen else self._study.ask()

    def _start(self, trial: optuna.Trial, share: Share) -> TrainerProcess | None:
        """Starts the run of a trial; None if an equal one has told its value already."""
        values = {dimension.flag: dimension.suggest(trial) for dimension in self.space}
        for other in self._trials(TrialState.COMPLETE):
            if other.params == values:
                trial.set_user_attr("same_as", other.number)
                self._study.tell(trial, other.value)
                self._say(trial.number, f"the same flags as trial {other.number}")
                self._write_trials()
                return None
        folder = self.trial_folder(trial.number)
        return TrainerProcess(self.trainer.command(values, folder), folder, share)

    def _ended(self, trial: optuna.Trial, process: TrainerProcess) -> bool:
        """Looks after a trial: takes what it reports, and its end."""
        status = process.poll()  # before its reports are read, or the last could be missed
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        # Evaluations are counted, not updates, which mean less the smaller a trial's batch is.
        for index, line in enumerate(process.evaluations(), 1):
            if index in known or f"eval_{self.metric}" not in line:
                continue
            trial.report(line[f"eval_{self.metric}"], index)
            if status is None and trial.should_prune():
                process.stop()
                self._finish(trial, TrialState.PRUNED, f"pruned at evaluation {index}")
                return True
        if status is None:
            return False
        if status:
            self._fail(trial, f"status {status}: {process.last_line()} ({process.log})")
        else:
            self._complete(trial)
        return True

    def _complete(self, trial: optuna.Trial) -> None:
        with open(os.path.join(self.trial_folder(trial.number), "report.json")) as file:
            scores = json.load(file).get("eval", {})
        if self.metric not in scores:
            numbers = [name for name, score in scores.items() if isinstance(score, float)]
            self._fail(trial, f"its evaluation has no {self.metric!r}, but {', '.join(numbers)}")
            return
        self._finish(trial, TrialState.COMPLETE, "", scores[self.metric])

    def _fail(self, trial: optuna.Trial, error: str) -> None:
        trial.set_user_attr("error", error)
        self._finish(trial, TrialState.FAIL, f"failed, {error}")

    def _finish(self, trial, state: TrialState, text: str, value: float | None = None) -> None:
        before = self.best
        result = self._study.tell(trial, value, state)
        self._say(trial.number, text)
        hparams.write_trial(
            os.path.join(self.trial_folder(trial.number), "tensorboard"),
            result.params,
            self.metric,
            result.value,
            result.datetime_start.timestamp(),
            failed=state == TrialState.FAIL,
        )
        if self.best and self.best.number == trial.number:
            self._write_best()
            self._remove(trial.number, "training_state", "frozen_*")
            if before:
                self._remove(before.number, "model")
        else:
            self._remove(trial.number, "training_state", "frozen_*", "model")
        self._write_trials()

    def _say(self, number: int, text: str) -> None:
        trial = self._study.trials[number]
        value = "" if trial.value is None else f"{self.metric} {trial.value:.5g}  "
        values = " ".join(
            f"--{name}={value:.5g}" if isinstance(value, float) else f"--{name}={value}"
            for name, value in trial.params.items()
        )
        best = f"  (best: trial {self.best.number}, {self.best.value:.5g})" if self.best else ""
        print(f"trial {number}: {value}{text + '  ' if text else ''}{values}{best}", flush=True)

    def _check_hope(self) -> None:
        ended = self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        if len(ended) >= HOPELESS and all(trial.state == TrialState.FAIL for trial in ended):
            raise ValueError(f"all {len(ended)} trials failed: {ended[-1].user_attrs['error']}")

    def _write_best(self) -> None:
        """Writes the flags of the best trial, for `--config_file`."""
        path = self.folder.file("best.yaml")
        with open(os.path.join(self.trial_folder(self.best.number), "config.yaml")) as file:
            values = yaml.safe_load(file)
        for name in ("output_dir", "resume"):
            values.pop(name)
        with replacing(path) as file:
            yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)

    def _remove(self, number: int, *names: str) -> None:
        """Removes what is large of a trial that has ended."""
        if self.flags.keep_models:
            return
        folder = glob.escape(self.trial_folder(number))
        for path in (path for name in names for path in glob.glob(os.path.join(folder, name))):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def _write_trials(self) -> None:
        rows = []
        for trial in self._study.trials:
            seconds = trial.duration.total_seconds() if trial.duration else None
            rows.append(
                {
                    "number": trial.number, "state": trial.state.name.lower(),
                    self.metric: trial.value, "flags": trial.params, "seconds": seconds,
                    "evaluations": list(trial.intermediate_values.values()), **trial.user_attrs,
                }
            )  # fmt: skip
        self.folder.write_json("trials.json", rows)
