"""Batches of several tasks, which take turns."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from gpt_keras.tasks.multi_task import MARK
from trainers.batches import Batch, BatchSource


class TaskBatches:
    """Batches of several sources, each whole, in random order: a pure function of seed and step.

    An epoch has as many batches of a task as an epoch of its own has, times its weight.

    Args:
      sources: name of the task -> its batches, all of as many rows.
      weights: name -> positive number; of none: 1 each.
      seed: of the order.
      shuffle: True to train; False takes one task after the other, each once (evaluation).
    """

    source_names: Sequence[str] = ()

    def __init__(
        self,
        sources: Mapping[str, BatchSource],
        weights: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ):
        self.sources, self.seed, self.shuffle = dict(sources), seed, shuffle
        weights = weights if weights and shuffle else dict.fromkeys(sources, 1.0)
        self.counts = [
            max(1, round(source.steps_per_epoch * weights[name]))
            for name, source in self.sources.items()
        ]
        self.steps_per_epoch = sum(self.counts)
        every = self.sources.values()
        self.shapes = sorted({shape for source in every for shape in source.shapes})
        # Samples are numbered through, task after task: what is kept of one is no other's.
        ends = np.cumsum([0, *(source.num_samples for source in every)])
        self._firsts, self.num_samples = ends[:-1], int(ends[-1])
        self.num_tokens = sum(source.num_tokens for source in every)
        self.num_bytes = 0
        self._order = functools.lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch,) the task of each step, by its place in `sources`."""
        tasks = np.repeat(np.arange(len(self.counts)), self.counts)
        if not self.shuffle:
            return tasks
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return rng.permutation(tasks)

    def batch(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        task = order[index]
        its_step = epoch * self.counts[task] + int((order[:index] == task).sum())
        name = list(self.sources)[task]
        batch = self.sources[name].batch(its_step)
        ids = batch["sample_id"]
        ids = np.where(ids < 0, ids, ids + self._firsts[task]).astype(np.int32)
        mark = {MARK + name: np.zeros(len(ids), np.int32)}
        return {**batch, "sample_id": ids, **mark}
