"""How good probabilities are: as an order, as they stand, and made better by a temperature."""

import math
from collections.abc import Callable

import numpy as np

ECE_BINS = 15
TEMPERATURES = (0.1, 10.0)  # that `fit_temperature` looks between
_GOLDEN = (math.sqrt(5) - 1) / 2


def ranks(scores: np.ndarray) -> np.ndarray:
    """(n, C) scores -> (n, C) int64, place of each among the different values of its column."""
    columns = [np.unique(column, return_inverse=True)[1] for column in scores.T]
    return np.stack(columns, axis=1) if columns else np.zeros(scores.shape, np.int64)


def auroc(places: np.ndarray, holds: np.ndarray) -> float:
    """Mean over the columns of the area under the ROC curve.

    That is how often a sample where the label holds has the higher score of two, ties half
    (Hanley & McNeil, 1982). A column in which all or none hold has no area and is left out.

    Args:
      places: (n, C) int, see `ranks`; of some rows, too.
      holds: (n, C) bool.

    Returns:
      0 to 1; nan where no column has an area.
    """
    areas = []
    for place, positive in zip(places.T, holds.T, strict=True):
        count = positive.sum()
        if 0 < count < len(positive):
            size = place.max() + 1
            above = np.bincount(place[positive], minlength=size)
            others = np.bincount(place[~positive], minlength=size)
            won = above * (np.cumsum(others) - others / 2)
            areas.append(won.sum() / (count * (len(positive) - count)))
    return float(np.mean(areas)) if areas else math.nan


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    Over ECE_BINS equal bins, (0, 1/15], (1/15, 2/15] ..., how far the mean confidence lies from
    the share that is right, weighted by the samples in the bin.

    Args:
      confidence: (n,) in 0 to 1.
      right: (n,) bool.
    """
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, confidence - right, ECE_BINS)
    return float(np.abs(gaps).sum() / max(len(bins), 1))


def fit_temperature(loss: Callable[[float], float], steps: int = 60) -> float:
    """What logits are best divided by: the least loss, by golden-section search over log T.

    Args:
      loss: mean -log p of the truth at a temperature; it has one valley, since it is convex in 1/T.
      steps: each leaves 0.618 of the range.
    """
    low, high = map(math.log, TEMPERATURES)
    x, y = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_x, at_y = loss(math.exp(x)), loss(math.exp(y))
    for _ in range(steps):
        if at_x < at_y:
            high, y, at_y = y, x, at_x
            x = high - _GOLDEN * (high - low)
            at_x = loss(math.exp(x))
        else:
            low, x, at_x = x, y, at_y
            y = low + _GOLDEN * (high - low)
            at_y = loss(math.exp(y))
    return math.exp((low + high) / 2)
