"""FrozenFeatures: what the untrained lower blocks give, computed once for each sample.

With `--train_top_layers` the blocks below say the same of a sample in every epoch. Their output is
kept in a file, without padding, and later epochs start from it.
"""

import os

import numpy as np
import tensorflow as tf

from gpt_keras.tasks import Task
from trainers.batches import Batch
from trainers.strategy import distribute, gather


class FrozenFeatures:
    """Adds `features` to batches: read from the file, or computed and written to it.

    The file grows by 4 bytes x hidden size per token. It is made anew by each run, and removed by
    `close`.

    Args:
      path: of the file.
      task: made under `strategy.scope()`.
      strategy: a `tf.distribute.Strategy`.
      layers: blocks that are frozen, from the first.
    """

    def __init__(
        self, path: str | os.PathLike, task: Task, strategy: tf.distribute.Strategy, layers: int
    ):
        self.path, self.strategy = os.fspath(path), strategy
        self.width = task.config.hidden_size
        # sample id -> tokens before it in the file, and its own
        self._places: dict[int, tuple[int, int]] = {}
        self._num_tokens = 0
        self._file = open(self.path, "w+b")  # noqa: SIM115, closed by close()
        self._body = tf.function(
            lambda batch: strategy.run(lambda b: task.features(b, last=layers), (batch,)),
            autograph=False,
            reduce_retracing=True,
        )

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `features` (B, T, D) float32, zero on padding."""
        real = _real_tokens(batch)  # (B, T) bool
        samples = batch["sample_id"].tolist()
        if all(sample in self._places for sample in samples if sample >= 0):
            features = np.zeros((*real.shape, self.width), np.float32)
            for row, sample in enumerate(samples):
                if sample >= 0:
                    features[row, real[row]] = self._read(sample)
            return {**batch, "features": features}
        features = gather(self.strategy, self._body(distribute(self.strategy, batch)))
        features = np.where(real[..., None], features.astype(np.float32), 0)
        for row, sample in enumerate(samples):
            if sample >= 0 and sample not in self._places:
                self._write(sample, features[row, real[row]])
        self._file.flush()
        return {**batch, "features": features}

    def _write(self, sample: int, features: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(features, np.float32))
        self._places[sample] = self._num_tokens, len(features)
        self._num_tokens += len(features)

    def _read(self, sample: int) -> np.ndarray:
        start, count = self._places[sample]
        size = 4 * self.width
        data = os.pread(self._file.fileno(), count * size, start * size)
        return np.frombuffer(data, np.float32).reshape(count, self.width)

    def close(self) -> None:
        """Removes the file."""
        self._file.close()
        if os.path.exists(self.path):
            os.remove(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _real_tokens(batch: Batch) -> np.ndarray:
    if "padding_mask" in batch:
        return batch["padding_mask"]
    return batch["segment_ids"] > 0
