"""Batches out of shards: rows that are cut on demand, shuffled and mixed by their numbers alone."""

import itertools
import logging
import math
from collections.abc import Sequence

import numpy as np

from trainers.batches import Batch, check_batch_size, fill_batch
from trainers.packing import fill_row, lay_out
from trainers.shards import Shard


class ShardRows:
    """Rows of one length out of shards, numbered through; no row holds documents of two shards.

    A document is a segment of its own, or where it is cut several, each of which begins with the
    last token of the one before: each token but the first of a document is predicted once.

    Args:
      shards: of which the documents are taken, in this order.
      length: T, tokens of a row.
      packing: "concat" or "auto" lays the documents of a shard end to end and cuts them every
        T - 1 tokens, which needs no memory. "best_fit" and "none" are those of
        `trainers.packing.pack`; they hold 8 bytes a document, and take seconds a million of them.
    """

    source_names = ()

    def __init__(self, shards: Sequence[Shard], length: int, packing: str = "auto"):
        if length < 2:
            raise ValueError(f"max_length={length}: rows need 2 tokens or more to predict any")
        self.length = length
        if packing in ("auto", "concat"):
            self._layouts = [_Concat(shard, length) for shard in shards]
        else:
            self._layouts = [_Packed(shard, length, packing) for shard in shards]
        self._first_rows = np.cumsum([0, *(layout.num_rows for layout in self._layouts)])
        self.num_rows = int(self._first_rows[-1])
        self.num_tokens = sum(layout.num_tokens for layout in self._layouts)
        self.num_bytes = sum(shard.num_target_bytes for shard in shards)

    def fill(self, row: int, token_ids, segment_ids, loss_mask) -> None:
        """Writes a row into three (T,) arrays that hold padding."""
        part = int(np.searchsorted(self._first_rows, row, "right")) - 1
        layout = self._layouts[part]
        pieces = layout.pieces(row - self._first_rows[part])
        fill_row(pieces, layout.shard.tokens, None, token_ids, segment_ids, loss_mask)


class JoinedRows:
    """Rows of several sources, numbered through.

    Args:
      sources: of each its rows, all of one length.
      names: of the sources.
    """

    def __init__(self, sources: Sequence[ShardRows], names: Sequence[str]):
        self._sources = sources
        self.source_names = tuple(names) if len(sources) > 1 else ()
        self.splits = np.cumsum([0, *(rows.num_rows for rows in sources)])
        self.length, self.num_rows = sources[0].length, int(self.splits[-1])
        self.num_tokens = sum(rows.num_tokens for rows in sources)
        self.num_bytes = sum(rows.num_bytes for rows in sources)

    def source_of(self, rows):
        """Index of the source of a row, or of each."""
        return np.searchsorted(self.splits, rows, "right") - 1

    def fill(self, row: int, token_ids, segment_ids, loss_mask) -> None:
        """As `ShardRows.fill`."""
        source = int(self.source_of(row))
        self._sources[source].fill(row - self.splits[source], token_ids, segment_ids, loss_mask)


class _Concat:
    """Row r is the tokens r (T - 1) to (r + 1) (T - 1): neighbours share one."""

    def __init__(self, shard: Shard, length: int):
        self.shard, self.length = shard, length
        self.num_rows = max(1, math.ceil((shard.num_tokens - 1) / (length - 1)))
        self.num_tokens = shard.num_tokens + self.num_rows - 1

    def pieces(self, row: int) -> list[tuple[int, int]]:
        start = int(row) * (self.length - 1)
        stop = min(start + self.length, self.shard.num_tokens)
        offsets = self.shard.offsets
        first = np.searchsorted(offsets, start, "right")
        ends = offsets[first : np.searchsorted(offsets, stop, "left")].tolist()
        return [(a, b - a) for a, b in itertools.pairwise([start, *ends, stop])]


class _Packed:
    def __init__(self, shard: Shard, length: int, packing: str):
        self.shard = shard
        pieces, row_splits = lay_out(shard.offsets, length, packing)
        self._pieces, self._row_splits = pieces.astype(np.uint32), row_splits.astype(np.uint32)
        self.num_rows, self.num_tokens = len(row_splits) - 1, int(pieces[:, 1].sum())

    def pieces(self, row: int) -> list[tuple[int, int]]:
        return self._pieces[self._row_splits[row] : self._row_splits[row + 1]].tolist()


class MixedBatches:
    """Batches to train on out of one or several sources; a `trainers.batches.BatchSource`.

    Which rows are in a batch is a function of seed and step: Grain computes row i of a shuffled,
    mixed, endless data set without those before it. Each source is a new permutation in each of
    its passes. Batches run across the end of a pass, so none holds filler rows.

    Args:
      rows: of all sources.
      weights: share of each source in the batches, to 1% of the smallest; they need not sum to 1.
        None takes all rows as one source, each once an epoch. With weights, an epoch is as many
        rows as there are, while each source begins anew whenever it is through.
      global_batch_size: rows of a batch, over all replicas and accumulation steps.
      seed: of the shuffling.
      pad_id: token id of the padding.

    Raises:
      ValueError: a batch larger than the data.
    """

    def __init__(
        self,
        rows: JoinedRows,
        weights: Sequence[float] | None,
        global_batch_size: int,
        *,
        seed: int = 0,
        pad_id: int = 0,
    ):
        what = f"rows of {rows.length} tokens"
        check_batch_size(global_batch_size, rows.num_rows, what, shuffle=True)
        self.rows, self.global_batch_size, self.pad_id = rows, global_batch_size, pad_id
        self.source_names, self.num_samples = rows.source_names, rows.num_rows
        self.num_tokens, self.num_bytes = rows.num_tokens, rows.num_bytes
        self.steps_per_epoch = math.ceil(rows.num_rows / global_batch_size)
        self.shapes = [(global_batch_size, rows.length)]
        self._order = _order(rows.splits, weights, seed)

    def batch(self, step: int) -> Batch:
        first = step * self.global_batch_size
        samples = np.array([self._order[first + i] for i in range(self.global_batch_size)])
        return fill_batch(self.rows, samples, self.global_batch_size, self.pad_id)


def _order(splits: np.ndarray, weights: Sequence[float] | None, seed: int):
    """Endless sequence of row numbers, each computed when it is asked for."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that there is no JAX to profile with
    try:
        import grain
    finally:
        log.setLevel(level)
    bounds = itertools.pairwise(splits.tolist()) if weights else [(0, int(splits[-1]))]
    shuffled = [
        grain.MapDataset.range(start, stop).seed(seed + i).shuffle().repeat()
        for i, (start, stop) in enumerate(bounds)
    ]
    return grain.MapDataset.mix(shuffled, weights) if weights else shuffled[0]
