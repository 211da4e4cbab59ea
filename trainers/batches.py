"""Batches: each a pure function of the seed and the step.

Nothing is remembered from one batch to the next, so a run resumes exactly at any step, and any
worker can make any batch.  An epoch is a permutation of the samples that depends on (seed, epoch)
alone; each sample comes exactly once in it.
"""

import functools
import math
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from gpt_keras.tasks.examples import Examples
from trainers.packing import PackedRows

Batch = dict[str, np.ndarray]


class BatchSource(Protocol):
    """Where the batches of a run come from.

    Attributes:
      steps_per_epoch: batches in which every sample comes once.
      shapes: the (rows, length) that batches have; each costs one XLA compilation.
      num_samples: texts of an epoch, or packed rows.
      num_tokens: real tokens of an epoch (no padding).
      num_bytes: bytes of text that the predicted tokens of an epoch stand for (0: unknown).
      source_names: names of several sources that batches are mixed from; empty for one.

    A batch holds int32 `token_ids` (B, T), right-padded, and

    - of a task on whole texts: `padding_mask` (B, T) bool, `weight` (B,) float32, `sample_id`
      (B,) int32, the row's number, and the task's targets by name, (B, ...) or (B, T). Filler
      rows, which complete the last batch of an epoch, have sample_id -1, one token and zeros.
      Where `Examples.masking` hides tokens, by (seed, epoch, sample), also `masked_at` and
      `targets` (B, P) int32, where those asked for stand and which they are, and `loss_mask` (B, P)
      float32, 1 where there is one;
    - of a language model: `segment_ids` (B, T) int32 (1, 2, ... along the row, 0 padding),
      `loss_mask` (B, T) float32, the weight of predicting the token AT this position from those
      before it (0 on the first of a segment), `sample_id` (B,) int32, the row's number. Filler
      rows are all padding, with sample_id -1. With `source_names` also `source_id` (B,) int32,
      which of these the row is from.
    """

    steps_per_epoch: int
    shapes: list[tuple[int, int]]
    num_samples: int
    num_tokens: int
    num_bytes: int
    source_names: Sequence[str]

    def batch(self, step: int) -> Batch:
        """The batch of this step, 0 being the first of the first epoch."""
        ...


class ExampleBatches:
    """Batches of a task's examples in few lengths.

    Rows are sorted into length buckets, each with its group. Batches are of one bucket each and
    come in random order. What does not fill a batch of its bucket moves up to the next longer one,
    so an epoch has one incomplete batch at most, filled up with rows of weight 0.

    Args:
      examples: see `gpt_keras.tasks.examples`; its targets have a `weight`.
      global_batch_size: rows of a batch, over all replicas and accumulation steps.
      seed: of the shuffling.
      shuffle: True to train; False takes the samples by bucket, in their order (evaluation).
      bucket_lengths: ascending, the last at least the longest row; see `choose_bucket_lengths`.
      pad_id: token id of the padding.
      mixup: above 0, batches have `mixup` (B,) float32, drawn from Beta(mixup, mixup) by (seed,
        epoch, sample): the share that a row keeps when it is mixed with its neighbour.

    Raises:
      ValueError: a batch to train on larger than the data, or one that would cut groups.
    """

    source_names = ()

    def __init__(
        self,
        examples: Examples,
        global_batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        bucket_lengths: Sequence[int] | None = None,
        pad_id: int = 0,
        mixup: float = 0.0,
    ):
        lengths, group = examples.lengths, examples.group
        check_batch_size(global_batch_size, len(lengths), "samples", shuffle)
        if global_batch_size % group:
            raise ValueError(
                f"global_batch_size={global_batch_size}: {group} rows of this data belong "
                f"together; give a multiple of {group}"
            )
        self.examples, self.pad_id = examples, pad_id
        self.seed, self.shuffle, self.mixup = seed, shuffle, mixup
        self.global_batch_size = global_batch_size
        self.lengths = list(bucket_lengths or choose_bucket_lengths(lengths))
        if lengths.max() > self.lengths[-1]:
            raise ValueError(
                f"bucket_lengths={self.lengths}: the longest text has {lengths.max()} tokens; "
                "truncate the texts or add a bucket"
            )
        longest = lengths.reshape(-1, group).max(axis=1)  # of each group
        self.bucket_of = np.searchsorted(self.lengths, longest)  # (n / group,)
        self.num_samples = len(lengths)
        self.num_tokens, self.num_bytes = int(lengths.sum()), 0
        self.steps_per_epoch = math.ceil(self.num_samples / global_batch_size)
        self.shapes = sorted({(global_batch_size, T) for T, _ in self._plan(0)})
        self._plan = functools.lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """(length, rows) of each batch of an epoch."""
        rng = _generator(self.seed, epoch)
        groups, group = len(self.bucket_of), self.examples.group
        size = self.global_batch_size // group
        order = rng.permutation(groups) if self.shuffle else np.arange(groups)
        plan, rest = [], order[:0]
        for bucket, length in enumerate(self.lengths):
            members = np.concatenate([rest, order[self.bucket_of[order] == bucket]])
            full = len(members) - len(members) % size
            plan += [(length, some) for some in members[:full].reshape(-1, size)]
            rest = members[full:]
        if len(rest):
            plan.append((self.lengths[-1], rest))
        plan = [
            (length, (some[:, None] * group + np.arange(group)).reshape(-1))
            for length, some in plan
        ]
        return [plan[i] for i in rng.permutation(len(plan))] if self.shuffle else plan

    def batch(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        T, rows = self._plan(epoch)[index]
        B, examples = self.global_batch_size, self.examples
        of_tokens = {"token_ids": examples.values, **examples.token_targets}
        batch = {name: np.zeros((B, T), values.dtype) for name, values in of_tokens.items()}
        batch["token_ids"][:] = self.pad_id
        batch["padding_mask"] = np.zeros((B, T), bool)
        batch["padding_mask"][:, 0] = True  # a filler row has a last token to pool as well
        for at, row in enumerate(rows):
            begin, end = examples.row_splits[row : row + 2]
            for name, values in of_tokens.items():
                batch[name][at, : end - begin] = values[begin:end]
            batch["padding_mask"][at, : end - begin] = True
        for name, values in examples.targets.items():
            batch[name] = np.zeros((B, *values.shape[1:]), values.dtype)
            batch[name][: len(rows)] = values[rows]
        batch["sample_id"] = np.full(B, -1, np.int32)
        batch["sample_id"][: len(rows)] = rows
        if examples.masking is not None:
            batch |= self._masked(batch, epoch)
        if self.mixup:
            kept = [_share(self.mixup, self.seed, epoch, int(row)) for row in rows]
            batch["mixup"] = np.ones(B, np.float32)
            batch["mixup"][: len(rows)] = kept
        return batch

    def _masked(self, batch: Batch, epoch: int) -> Batch:
        """What masking changes of a batch, and adds: where which tokens are asked for."""
        masking, token_ids = self.examples.masking, batch["token_ids"].copy()
        B, P = len(token_ids), masking.places(token_ids.shape[1])
        masked_at, targets = np.zeros((2, B, P), np.int32)
        loss_mask = np.zeros((B, P), np.float32)
        lengths = batch["padding_mask"].sum(axis=1)
        for at, (row, length) in enumerate(zip(batch["sample_id"], lengths, strict=True)):
            if row < 0:
                continue
            # To evaluate, the same places whatever the seed.
            key = (self.seed, epoch, row) if self.shuffle else (0, 0, row)
            token_ids[at, :length], places = masking(
                batch["token_ids"][at, :length], np.random.default_rng(key)
            )
            masked_at[at, : len(places)] = places
            targets[at, : len(places)] = batch["token_ids"][at, places]
            loss_mask[at, : len(places)] = 1
        return {"token_ids": token_ids, "masked_at": masked_at, "targets": targets,
                "loss_mask": loss_mask}  # fmt: skip


class PackedBatches:
    """Batches of packed rows for language modelling; one shape.

    Args:
      rows: see `trainers.packing.pack`, or of `trainers.shard_batches`.
      global_batch_size: rows of a batch, over all replicas and accumulation steps.
      seed: of the shuffling of the rows.
      shuffle: True to train; False takes the rows in their order (evaluation).
      pad_id: token id of the padding.

    Raises:
      ValueError: a batch to train on larger than the data.
    """

    def __init__(
        self,
        rows: PackedRows,
        global_batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
    ):
        what = f"rows of {rows.length} tokens"
        check_batch_size(global_batch_size, rows.num_rows, what, shuffle)
        self.rows, self.pad_id = rows, pad_id
        self.seed, self.shuffle = seed, shuffle
        self.global_batch_size = global_batch_size
        self.num_samples = rows.num_rows
        self.num_tokens, self.num_bytes = rows.num_tokens, rows.num_bytes
        self.source_names = rows.source_names
        self.steps_per_epoch = math.ceil(rows.num_rows / global_batch_size)
        self.shapes = [(global_batch_size, rows.length)]
        self._order = functools.lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_samples)
        return _generator(self.seed, epoch).permutation(self.num_samples)

    def batch(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.global_batch_size
        samples = self._order(epoch)[start : start + self.global_batch_size]
        return fill_batch(self.rows, samples, self.global_batch_size, self.pad_id)


def fill_batch(rows, samples: np.ndarray, global_batch_size: int, pad_id: int) -> Batch:
    """A language model's batch of these rows, and filler rows after them.

    Args:
      rows: `trainers.packing.PackedRows`, or of `trainers.shard_batches`.
      samples: numbers of rows, no more than `global_batch_size`.
    """
    B, T = global_batch_size, rows.length
    batch = {
        "token_ids": np.full((B, T), pad_id, np.int32),
        "segment_ids": np.zeros((B, T), np.int32),
        "loss_mask": np.zeros((B, T), np.float32),
        "sample_id": np.full(B, -1, np.int32),
    }
    for at, row in enumerate(samples):
        rows.fill(row, batch["token_ids"][at], batch["segment_ids"][at], batch["loss_mask"][at])
    batch["sample_id"][: len(samples)] = samples
    if rows.source_names:
        batch["source_id"] = np.zeros(B, np.int32)
        batch["source_id"][: len(samples)] = rows.source_of(samples)
    return batch


class Prefetcher:
    """Makes batches ahead in a thread.

    Iterating gives `(step, batch)` for `start_step`, `start_step + 1`, ... up to `stop_step`
    (not included; None: without end). An error of the source is raised here. Leave it with
    `with` or `close()`.
    """

    def __init__(
        self, source: BatchSource, start_step: int = 0, stop_step: int | None = None, depth: int = 2
    ):
        self.source = source
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._produce, args=(start_step, stop_step), name="prefetch", daemon=True
        )
        self._thread.start()

    def _produce(self, step: int, stop_step: int | None) -> None:
        try:
            while stop_step is None or step < stop_step:
                if not self._put((step, self.source.batch(step))):
                    return
                step += 1
            self._put(None)
        except BaseException as error:  # raised again where the batches are used
            self._put(error)

    def _put(self, item) -> bool:
        """False once closed."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        while not self._stop.is_set():
            item = self._queue.get()
            if item is None or isinstance(item, BaseException):
                self._stop.set()  # nothing comes after it
                if item is not None:
                    raise item
                return
            yield item

    def close(self) -> None:
        """Ends the thread; batches made ahead are dropped."""
        self._stop.set()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def choose_bucket_lengths(
    lengths: np.ndarray, max_buckets: int = 3, multiple: int = 8, tolerance: float = 0.05
) -> list[int]:
    """The few lengths to pad to that waste the least.

    Args:
      lengths: (n,) int, tokens of each sample.
      max_buckets: how many at most.
      multiple: lengths are multiples of it.
      tolerance: take fewer buckets where that pads by no more than this share.

    Returns:
      Ascending lengths; the last covers the longest sample.
    """
    units = np.maximum(1, -(-np.asarray(lengths) // multiple))  # length in multiples
    top = int(units.max())
    below = np.concatenate([[0], np.cumsum(np.bincount(units, minlength=top + 1)[1:])])  # (top+1,)
    # cost[j]: padded units of all samples of up to j units in the best k buckets, the last at j.
    ends = np.arange(top + 1)
    cost, cuts = below * ends, []
    totals = [cost[top]]
    for _ in range(max_buckets - 1):
        # Last bucket from i (exclusive) to j: (below[j] - below[i]) * j on top of cost[i].
        table = cost[:, None] + (below[None, :] - below[:, None]) * ends[None, :]
        table = np.where(ends[:, None] <= ends[None, :], table, np.iinfo(np.int64).max)
        cuts.append(table.argmin(axis=0))
        cost = table.min(axis=0)
        totals.append(cost[top])
    k = next(k for k, total in enumerate(totals) if total <= totals[-1] * (1 + tolerance))
    chosen = [top]
    for cut in reversed(cuts[:k]):
        chosen.append(int(cut[chosen[-1]]))
    return sorted({int(u) * multiple for u in chosen if u})


def check_batch_size(global_batch_size: int, available: int, what: str, shuffle: bool) -> None:
    """Raises ValueError for a training batch that the data cannot fill.

    To evaluate, filler rows will do.
    """
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size={global_batch_size}: give 1 or more")
    if shuffle and global_batch_size > available:
        raise ValueError(
            f"global_batch_size={global_batch_size} is larger than the data, which has "
            f"{available} {what}; give a smaller batch or more data"
        )


def _share(mixup: float, *key: int) -> float:
    return np.random.default_rng(key).beta(mixup, mixup)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))
