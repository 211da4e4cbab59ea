"""Metrics: what every collector has in common."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import numpy as np


class Metrics(abc.ABC):
    """Numbers about the samples of an evaluation, collected batch by batch.

    What each sample adds is kept, so that the numbers can be had of any choice of samples: that
    is what a bootstrap needs.

    Attributes:
      KEY: the number that early stopping watches.
      HIGHER_IS_BETTER: which way it is to go.
    """

    KEY: ClassVar[str] = "loss"
    HIGHER_IS_BETTER: ClassVar[bool] = False

    def __init__(self):
        self._batches: list[np.ndarray] = []

    @abc.abstractmethod
    def update(self, batch: Mapping[str, np.ndarray], loss) -> None:
        """Adds a batch.

        Args:
          batch: as trained on; samples of weight 0 only fill it.
          loss: `losses.Loss` of NumPy values, the outputs of each row end to end, (B, C).
        """

    def collect(self, batch, columns) -> None:
        """Keeps numbers of each sample of a batch, but for those that only fill it.

        Args:
          columns: (B,) or (B, n) arrays.
        """
        numbers = np.asarray(batch["sample_id"])
        row = np.column_stack([*columns, numbers]).astype(np.float64)
        self._batches.append(row[numbers >= 0])

    @property
    def samples(self) -> np.ndarray:
        """(n, C) float64, what `collect` got, ordered by `sample_id`, which is the last column."""
        if len(self._batches) > 1:
            rows = np.concatenate(self._batches)
            self._batches = [rows[np.argsort(rows[:, -1], kind="stable")]]
        return self._batches[0] if self._batches else np.zeros((0, 0))

    @property
    def num_samples(self) -> int:
        """Samples so far."""
        return sum(map(len, self._batches))

    @abc.abstractmethod
    def score(self, samples: np.ndarray | None = None) -> dict[str, float]:
        """The numbers.

        Args:
          samples: (m,) int, indices of those to look at, as often as they come; None: all, once.
            They are ordered by the batches' `sample_id`.
        """

    def result(self) -> dict[str, float]:
        """The numbers of all samples."""
        return self.score()

    def details(self) -> dict:
        """`result`, and what else a report holds: plain values for JSON."""
        return self.result()

    def report(self) -> str:
        """A few lines for the end of a run."""
        return "\n".join(f"{name:>14}  {value:.4f}" for name, value in self.result().items())
