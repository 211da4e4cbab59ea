"""Packing: token sequences laid end to end in rows of one length, so that no step is padding.

A segment of a row attends to itself alone (segment ids), so packing changes no prediction.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainers.features import LanguageFeatures

Piece = tuple[int, int]  # start, number of tokens

PACKINGS = ("auto", "concat", "best_fit", "none")


@dataclass(frozen=True)
class PackedRows:
    """Rows of segments, each segment a piece of a sequence.

    Attributes:
      features: the sequences.
      length: T, tokens of a row with its padding.
      pieces: (P, 2) int64, start in `features.values` and number of tokens.
      row_splits: (R + 1,) int64, which pieces are in which row.
    """

    features: LanguageFeatures
    length: int
    pieces: np.ndarray
    row_splits: np.ndarray
    source_names: ClassVar = ()

    @property
    def num_rows(self) -> int:
        return len(self.row_splits) - 1

    @property
    def num_tokens(self) -> int:
        """Real tokens in the rows."""
        return int(self.pieces[:, 1].sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of the text that the predicted tokens stand for."""
        return self.features.num_target_bytes

    def fill(self, row: int, token_ids, segment_ids, loss_mask) -> None:
        """Writes a row into three (T,) arrays that hold padding."""
        pieces = self.pieces[self.row_splits[row] : self.row_splits[row + 1]]
        tokens, is_target = self.features.values, self.features.is_target
        fill_row(pieces, tokens, is_target, token_ids, segment_ids, loss_mask)


def fill_row(pieces, tokens, is_target, token_ids, segment_ids, loss_mask) -> None:
    """Writes a row into three (T,) arrays that hold padding, each piece a segment.

    Args:
      pieces: start and number of tokens of each.
      tokens: (N,) of all sequences.
      is_target: (N,) bool, which of them are to be predicted; None: all.
    """
    at = 0
    for segment, (start, size) in enumerate(pieces, 1):
        token_ids[at : at + size] = tokens[start : start + size]
        segment_ids[at : at + size] = segment
        # Nothing stands before the first token of a segment to predict it from.
        targets = 1.0 if is_target is None else is_target[start + 1 : start + size]
        loss_mask[at + 1 : at + size] = targets
        at += size


def pack(features: LanguageFeatures, length: int, packing: str = "auto") -> PackedRows:
    """Packs sequences into rows.

    Where a sequence is cut, its next piece repeats the last token before the cut, so that each
    token but the first of a sequence is predicted exactly once.

    Args:
      features: the sequences, longer ones than a row too.
      length: T, tokens of a row.
      packing: "concat" lays the sequences end to end and cuts where a row ends: no padding but at
        the end. "best_fit" cuts only sequences longer than a row and puts each piece into the
        fullest row that has room (Ding et al. 2024, arXiv:2404.10830). "none" gives each piece a
        row of its own. "auto" is "concat" where every token is to be predicted, else "best_fit":
        an answer cut from its question would be learnt without it.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing={packing!r}: give one of {', '.join(PACKINGS)}")
    if length < 2:
        raise ValueError(f"max_length={length}: rows need 2 tokens or more to predict any")
    if packing == "auto":
        firsts = len(features.row_splits) - 1  # nothing predicts these
        whole = features.is_target.sum() == len(features.values) - firsts
        packing = "concat" if whole else "best_fit"
    pieces, row_splits = lay_out(features.row_splits, length, packing)
    return PackedRows(features, length, pieces, row_splits)


def lay_out(splits: np.ndarray, length: int, packing: str) -> tuple[np.ndarray, np.ndarray]:
    """`pieces` and `row_splits` of `PackedRows`.

    Args:
      splits: (n + 1,) int64, where each sequence begins and the last ends.
      length: T, tokens of a row.
      packing: as for `pack`, but for "auto".
    """
    sequences = itertools.pairwise(splits.tolist())
    if packing == "concat":
        rows = _concat(sequences, length)
    else:
        rows = [[piece] for piece in _cut(sequences, length)]
        if packing == "best_fit":
            rows = _best_fit([row[0] for row in rows], length)
    row_splits = np.cumsum([0, *(len(row) for row in rows)])
    pieces = np.array([piece for row in rows for piece in row], np.int64)
    return pieces, row_splits


def _concat(sequences: Iterable[tuple[int, int]], length: int) -> list[list[Piece]]:
    rows, room = [], 0
    for start, stop in sequences:
        while True:
            if room < 2:
                rows.append([])
                room = length
            size = min(room, stop - start)
            rows[-1].append((start, size))
            room -= size
            if start + size == stop:
                break
            start += size - 1
    return rows


def _cut(sequences: Iterable[tuple[int, int]], length: int) -> Iterator[Piece]:
    for start, stop in sequences:
        while stop - start > length:
            yield start, length
            start += length - 1
        yield start, stop - start


def _best_fit(pieces: list[Piece], length: int) -> list[list[Piece]]:
    """Best-fit decreasing: longest piece first, each into the row with the least room that fits."""
    rows: list[list[Piece]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room -> rows with that room
    rooms = 0  # bit r is set where by_room[r] is not empty
    for piece in sorted(pieces, key=lambda piece: -piece[1]):
        size = piece[1]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(piece)
        by_room[room - size].append(row)
        rooms |= 1 << (room - size)
    return rows
