"""TrainingState: what a run needs to go on where it was killed."""

import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


@dataclasses.dataclass
class Progress:
    """How far a run has come; the position in the data and the random numbers follow from it.

    Attributes:
      step: updates done.
      best_step: updates at the best evaluation; -1 before the first.
      best_metric: the metric there.
      evaluations_since_best: for early stopping.
      stopped: early stopping ended the run.
    """

    step: int = 0
    best_step: int = -1
    best_metric: float = 0.0
    evaluations_since_best: int = 0
    stopped: bool = False


class TrainingState:
    """Weights being trained, optimizer and progress in a `tf.train.CheckpointManager` folder.

    A checkpoint counts once it is whole: TensorFlow writes the data under another name, renames
    it, and then replaces the small file that says which is the newest. A kill at any moment leaves
    the one before. The best weights so far lie in the folder `best`, written before the checkpoint
    that refers to them; the former best is kept until then.

    Args:
      folder: made where it does not exist.
      variables: Keras variables being trained.
      optimizer: made for them.
      notify: is told, in one line, of a damaged checkpoint.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        variables: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
        notify: Callable[[str], None] = print,
    ):
        self.folder, self.notify = os.fspath(folder), notify
        self.progress = Progress()
        self._saved_step = -1
        weights = {v.path: v.value for v in variables}
        # Numbered: Keras' Adafactor gives several of them one name.
        slots = {f"{i}_{v.path}": v.value for i, v in enumerate(optimizer.variables)}
        self._progress = _Json()
        self._all = tf.train.Checkpoint(weights=weights, optimizer=slots, progress=self._progress)
        self._weights = tf.train.Checkpoint(weights=weights)
        self._manager = tf.train.CheckpointManager(self._all, self.folder, max_to_keep=2)
        self._best = tf.train.CheckpointManager(
            self._weights, os.path.join(self.folder, "best"), max_to_keep=2
        )

    def save(self) -> None:
        """Writes a checkpoint of this step, if there is none."""
        if self.progress.step == self._saved_step:
            return  # never over one that counts
        self._progress.value = dataclasses.asdict(self.progress)
        self._manager.save(checkpoint_number=self.progress.step)
        self._saved_step = self.progress.step

    def save_best(self, metric: float) -> None:
        """Keeps the weights of this step as the best so far; `save` makes that lasting."""
        self.progress.best_step, self.progress.best_metric = self.progress.step, metric
        self.progress.evaluations_since_best = 0
        self._best.save(checkpoint_number=self.progress.step)

    def restore(self) -> bool:
        """Loads the newest checkpoint that can be read; False where there is none.

        Raises:
          ValueError: there are checkpoints, but each is damaged.
        """
        self._remove_remains()
        paths = list(reversed(self._manager.checkpoints))
        for path in paths:
            try:
                self._all.restore(path).assert_consumed()
            except (tf.errors.OpError, AssertionError, KeyError, ValueError) as error:
                reason = " ".join(str(error).split())[:120]
                self.notify(f"{path} is damaged, taking the one before it: {reason}")
                continue
            self.progress = Progress(**self._progress.value)
            self._saved_step = self.progress.step
            return True
        if paths:
            raise ValueError(
                f"{self.folder}: no checkpoint there can be read; remove the output folder to "
                "start anew"
            )
        return False

    def restore_best(self) -> None:
        """Loads the weights of the best evaluation."""
        path = os.path.join(self.folder, "best", f"ckpt-{self.progress.best_step}")
        self._weights.restore(path).assert_consumed()

    def _remove_remains(self):
        """What a killed run left half written."""
        for path in glob.glob(os.path.join(self.folder, "**", "*_temp*"), recursive=True):
            shutil.rmtree(path, ignore_errors=True)


class _Json(tf.train.experimental.PythonState):
    """A JSON value inside a TensorFlow checkpoint."""

    def __init__(self):
        self.value = None

    def serialize(self) -> str:
        return json.dumps(self.value)

    def deserialize(self, string_value) -> None:
        self.value = json.loads(string_value)
