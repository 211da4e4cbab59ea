"""Evaluator: the metrics of a task over all of a data source."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from gpt_keras.losses import Loss
from gpt_keras.tasks import Task
from trainers.batches import Batch, BatchSource
from trainers.strategy import distribute, gather


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
            lambda batch: strategy.run(self._replica_rows, (batch,)),
            autograph=False,
            reduce_retracing=True,
        )

    def __call__(self, on_batch: Callable[[int, int], None] | None = None):
        """The metrics of the whole source, see `gpt_keras.metrics`.

        Args:
          on_batch: called with the number of batches done, and of all.
        """
        metrics = self.task.new_metrics(self.source)
        for step in range(self.source.steps_per_epoch):
            batch = self.source.batch(step)
            metrics.update(batch, self._loss(batch))
            if on_batch:
                on_batch(step + 1, self.source.steps_per_epoch)
        return metrics

    def _loss(self, batch: Batch) -> Loss:
        """Of the global batch, as NumPy values; the outputs of each row end to end."""
        inputs = self.prepare(batch) if self.prepare else batch
        rows = gather(self.strategy, self._run(distribute(self.strategy, inputs)))  # (B, 2 + C)
        total, weight = rows[:, :2].sum(axis=0, dtype=np.float64)
        return Loss(total, weight, rows[:, 2:], rows[:, :2])

    def _replica_rows(self, batch):
        """(b, 2 + C): `rows` of the loss and its `outputs`, as one for the exchange."""
        first = self.first if "features" in batch else 0
        loss = self.task.batch_loss(batch, self.task.features(batch, first=first))
        if loss.outputs is None:
            return loss.rows
        outputs = tf.reshape(loss.outputs, (tf.shape(loss.rows)[0], -1))  # (b, C)
        return tf.concat([loss.rows, outputs], axis=1)
