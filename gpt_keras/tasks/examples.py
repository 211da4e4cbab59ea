"""Examples: records as token ids, and what a task is to say of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt_keras.masking import Masking
from gpt_keras.tasks.left_out import LeftOut


@dataclasses.dataclass(frozen=True)
class Examples:
    """n rows of tokens with their targets.

    Attributes:
      values: (N,) int32, the token ids of all rows end to end.
      row_splits: (n + 1,) int64, where each row begins and the last ends.
      targets: name -> (n, ...), what is to be said of each row; batches hold them by these names.
      token_targets: name -> (N,), the same of each token; padding gets 0.
      record_ids: (n,) int32, index in `records` of the record that the row was made of.
      records: what was read, as far as it is used.
      labels: names of the labels in index order; () for a task without.
      group: rows that belong together, one after the other: they come in the same batch, and only
        whole groups are shuffled.
      num_truncated: records cut at the length limit.
      skipped: what is left out, and why.
      counted: "num_truncated" or a reason of `skipped` -> how many there are of what it counts,
        such as "480 pairs", where that is not records.
      masking: hides some tokens of each row, others in each epoch, see `batches.ExampleBatches`;
        None for a task that sees all.
      options: values of the task's options that these data decide.
    """

    values: np.ndarray
    row_splits: np.ndarray
    targets: Mapping[str, np.ndarray]
    record_ids: np.ndarray
    records: Sequence[Mapping[str, Any]]
    token_targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    group: int = 1
    num_truncated: int = 0
    skipped: LeftOut = dataclasses.field(default_factory=LeftOut)
    counted: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masking: Masking | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64, tokens of each row."""
        return np.diff(self.row_splits)
