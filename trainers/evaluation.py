"""Evaluator: the metrics of a task over all of a data source."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from gpt_keras.losses import Loss
from gpt_keras.tasks import Task
from trainers.batches import Batch, BatchSource
from trainers.strategy import distribute, exchange, gather


class Evaluator:
    """Runs a task over one epoch of its batches. Not compiled: it runs too seldom to pay for XLA.

    Args:
      task: made under `strategy.scope()`.
      strategy: a `tf.distribute.Strategy`.
      source: the batches; as many rows as a multiple of the replicas.
      first: as for `trainers.step.TrainStep`.
      prepare: applied to each batch, see `trainers.frozen.FrozenFeatures`.
    """

    def __init__(
        self,
        task: Task,
        strategy: tf.distribute.Strategy,
        source: BatchSource,
        *,
        first: int = 0,
        prepare: Callable[[Batch], Batch] | None = None,
    ):
        self.task, self.strategy, self.source = task, strategy, source
        self.first, self.prepare = first, prepare
        self._run = tf.function(
            lambda batch: strategy.run(self._replica_loss, (batch,)),
            autograph=False,
            reduce_retracing=True,
        )

    def __call__(self, on_batch: Callable[[int, int], None] | None = None):
        """The metrics of the whole source, see `gpt_keras.metrics`.

        Args:
          on_batch: called with the number of batches done, and of all.
        """
        metrics = self.task.new_metrics(self.source.num_bytes)
        for step in range(self.source.steps_per_epoch):
            batch = self.source.batch(step)
            metrics.update(batch, self._loss(batch))
            if on_batch:
                on_batch(step + 1, self.source.steps_per_epoch)
        return metrics

    def _loss(self, batch: Batch) -> Loss:
        """Sums over the global batch, and the logits of a classifier, as NumPy values."""
        inputs = self.prepare(batch) if self.prepare else batch
        loss = self._run(distribute(self.strategy, inputs))
        logits = None if loss.logits is None else gather(self.strategy, loss.logits)
        return Loss(self._sum(loss.total), self._sum(loss.weight), logits)

    def _sum(self, value) -> float:
        parts = self.strategy.experimental_local_results(value)
        return float(exchange(self.strategy, sum(np.float64(part) for part in parts)).sum())

    def _replica_loss(self, batch) -> Loss:
        first = self.first if "features" in batch else 0
        return self.task.batch_loss(batch, self.task.features(batch, first=first))
