"""TrainingState: what a run needs to go on where it was killed."""

import copy
import dataclasses
import json
import math
import os
import threading
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainers.checkpoints import Checkpoints, DamagedCheckpointError
from trainers.strategy import broadcast, exchange_text, num_workers


@dataclasses.dataclass
class Progress:
    """How far a run has come; the position in the data and the random numbers follow from it.

    Attributes:
      step: batches done.
      evaluated_step: step of the last evaluation; -1 before the first.
      best_step: step of the best evaluation; -1 before the first.
      best_metric: the metric there.
      evaluations_since_best: for early stopping.
      stopped: early stopping ended the run.
      scores: [step, score] of the evaluated checkpoints that are kept; higher is better.
      losses: of the last updates, where spikes are looked for.
      skipped: batches left out just before this step, one after the other.
    """

    step: int = 0
    evaluated_step: int = -1
    best_step: int = -1
    best_metric: float = 0.0
    evaluations_since_best: int = 0
    stopped: bool = False
    scores: list[list] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    skipped: int = 0


class TrainingState:
    """Weights being trained, optimizer and progress, kept as `trainers.checkpoints.Checkpoints`.

    `save` copies the variables and returns; a thread writes them. One write is under way at most:
    the next `save` waits for it. What went wrong in it shows in `poll` and `wait`: a full disk is a
    warning, since those before it are still there; anything else is raised.

    Args:
      folder: of the checkpoints.
      variables: Keras variables being trained.
      optimizer: made for them.
      keep_last: newest checkpoints that are kept.
      keep_best: besides these, the ones of the best evaluations.
      strategy: of the run. With several workers the chief alone writes and reads, and tells the
        others what it has read.
      notify: is told, in one line, of a checkpoint that is damaged or could not be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        variables: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        strategy: tf.distribute.Strategy | None = None,
        notify: Callable[[str], None] = print,
    ):
        self.checkpoints, self.notify = Checkpoints(folder), notify
        self.keep_last, self.keep_best = keep_last, keep_best
        self._strategy = strategy or tf.distribute.get_strategy()
        self._writes = self._strategy.extended.should_checkpoint
        self.progress = Progress()
        # Numbered, since Keras gives several slots of some optimizers one path.
        slots = enumerate(optimizer.variables)
        self._variables = {
            **{f"weights/{v.path}": v for v in variables},
            **{f"optimizer/{i}/{v.path}": v for i, v in slots},
        }
        self._saved_step = -1
        self._whole: set[int] = set()  # steps of checkpoints that count
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def record(self, score: float) -> None:
        """Remembers how well these weights do (higher is better), for `keep_best`.

        The next `save`, at this step, makes it lasting.
        """
        self.wait()
        step = self.progress.step
        kept = [pair for pair in self.progress.scores if pair[0] in self._whole - {step}]
        self.progress.scores = kept if math.isnan(score) else [*kept, [step, score]]

    def save(self) -> None:
        """Begins to write a checkpoint of this step, if there is none."""
        step = self.progress.step
        if step == self._saved_step:
            return
        self.wait()
        self._saved_step = step
        if not self._writes:
            return
        tensors = {name: v.value.numpy() for name, v in self._variables.items()}  # copies
        values = copy.deepcopy(dataclasses.asdict(self.progress))
        self._thread = threading.Thread(
            target=self._write, args=(step, tensors, values), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _write(self, step: int, tensors: dict[str, np.ndarray], values: dict) -> None:
        try:
            self.checkpoints.write(step, tensors, values)
            self._whole.add(step)
            last = sorted(self._whole)[-self.keep_last :]
            best = _best(values["scores"], self._whole)[: self.keep_best]
            self._whole = {*last, *best}
            self.checkpoints.keep(self._whole)
        except BaseException as error:  # raised again where the run can see it
            self._error = error

    def poll(self) -> None:
        """Tells what became of the last write, if it has ended."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the last write has ended."""
        if self._thread is None:
            return
        self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is None:
            return
        step, self._saved_step = self._saved_step, -1  # the same step may be tried again
        if not isinstance(error, OSError):
            raise error
        newest = f"the last one is of step {max(self._whole)}" if self._whole else "there is none"
        self.notify(
            f"the checkpoint of step {step} could not be written ({error.filename}: "
            f"{error.strerror}); {newest}"
        )

    def restore(self) -> bool:
        """Loads the newest checkpoint that is whole; False where there is none.

        Raises:
          ValueError: there are checkpoints, but each is damaged, or of another model.
        """
        restored = self._restore() if self._writes else False
        if restored := bool(broadcast(self._strategy, np.int32(restored))):
            self._share()
        return restored

    def _restore(self) -> bool:
        self.checkpoints.remove_remains()
        steps = self.checkpoints.steps()
        while steps:
            step = steps[-1]
            try:
                values, tensors = self.checkpoints.read(step)
            except DamagedCheckpointError as error:
                self.notify(f"{error}; taking the one before it")
                steps.pop()
                continue
            self._check(step, tensors)
            self._assign(tensors)
            self.progress = Progress(**values)
            self._saved_step, self._whole = step, set(steps)
            return True
        if self.checkpoints.steps():
            raise ValueError(
                f"{self.checkpoints.folder}: no checkpoint there can be read; remove the output "
                "folder to start anew"
            )
        return False

    def restore_best(self) -> None:
        """Loads weights and optimizer of the best evaluation whose checkpoint is whole."""
        if self._writes:
            self._restore_best()
        self._share()

    def _share(self) -> None:
        """Gives all workers the variables and the progress of the chief."""
        if num_workers(self._strategy) == 1:
            return
        for variable in self._variables.values():
            variable.assign(broadcast(self._strategy, variable.value.numpy()))
        values = json.dumps(dataclasses.asdict(self.progress))
        self.progress = Progress(**json.loads(exchange_text(self._strategy, values)[0]))

    def _restore_best(self) -> None:
        self.wait()
        for step in _best(self.progress.scores, self._whole | {self.progress.step}):
            if step != self.progress.step:
                try:
                    _, tensors = self.checkpoints.read(step)
                except DamagedCheckpointError as error:
                    self.notify(f"{error}; taking the next best")
                    continue
                self._assign(tensors)
            self.progress.best_step = step
            return
        self.notify("no evaluated checkpoint can be read: the weights are those of the last step")
        self.progress.best_step = self.progress.step

    def _check(self, step: int, tensors) -> None:
        """Raises ValueError where a checkpoint is of other variables than these."""
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        for name in sorted(shapes.keys() ^ self._variables.keys()):
            where = "the checkpoint lacks it" if name in self._variables else "the run has none"
            raise ValueError(f"{self.checkpoints.path(step)}: tensor {name}: {where}; "
                             "resume with the version and the flags that wrote it")  # fmt: skip
        for name, variable in self._variables.items():
            if shapes[name] != tuple(variable.shape):
                raise ValueError(
                    f"{self.checkpoints.path(step)}: tensor {name} has shape {shapes[name]}, the "
                    f"run's {tuple(variable.shape)}; resume with the flags that wrote it"
                )

    def _assign(self, tensors) -> None:
        for name, variable in self._variables.items():
            variable.assign(tensors.get_tensor(name))


def _best(scores: list[list], among: set[int]) -> list[int]:
    """Steps among these that have a score, the best first, of equal ones the earliest."""
    ranked = sorted((-score, step) for step, score in scores if step in among)
    return [step for _, step in ranked]
