"""Bootstrap: how far the numbers of an evaluation would move with other samples of the kind.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals; the paired test
as in Koehn, 2004, "Statistical Significance Tests for Machine Translation Evaluation".
"""

import math
from typing import NamedTuple

import numpy as np
from absl import flags as absl_flags

from gpt_keras.metrics import Metrics
from trainers.args import FlagValues

LEVEL = 0.95


def bootstrap_flags(flags: FlagValues) -> None:
    """Confidence."""
    absl_flags.DEFINE_integer(
        "bootstrap", 1000, "choices of samples, with repetition, that the 95 % confidence interval "
        "of each number of a finished model is made of; 0: none", lower_bound=0, flag_values=flags,
    )  # fmt: skip


class Interval(NamedTuple):
    """Of a number: what it is, and where it lies with probability LEVEL."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of a number of two models on the same samples, the second minus the first.

    Attributes:
      value, low, high: the difference and its interval.
      p_value: how often, of two sides, a difference as far from zero comes by chance.
    """

    value: float
    low: float
    high: float
    p_value: float


def intervals(metrics: Metrics, resamples: int, seed: int = 0) -> dict[str, Interval]:
    """Of each number of an evaluation; none without samples.

    Args:
      metrics: what was collected.
      resamples: choices of samples, with repetition, as many as there are.
      seed: of the choices.
    """
    if not metrics.num_samples:
        return {}
    found = metrics.result()
    scores = _scores(resamples, metrics.num_samples, seed, metrics)
    return {name: Interval(found[name], *_range(values)) for name, values in scores[0].items()}


def compare(
    first: Metrics, second: Metrics, resamples: int, seed: int = 0
) -> dict[str, Difference]:
    """Of each number that two evaluations have, of two models on the same samples in one order.

    Args: as of `intervals`.

    Raises:
      ValueError: they are of different numbers of samples.
    """
    if first.num_samples != second.num_samples:
        raise ValueError(
            f"evaluations of {first.num_samples} and {second.num_samples} samples cannot be "
            "compared sample by sample; evaluate both on the same data"
        )
    scores = _scores(resamples, first.num_samples, seed, first, second)
    here, there = first.result(), second.result()
    found = {}
    for name in here:
        if name not in there or name not in scores[0]:
            continue
        gaps = scores[1][name] - scores[0][name]
        below, above = np.mean(gaps <= 0), np.mean(gaps >= 0)
        p_value = min(1.0, 2 * float(min(below, above)))
        found[name] = Difference(there[name] - here[name], *_range(gaps), p_value)
    return found


def table(found: dict[str, Interval]) -> str:
    """The intervals, for people."""
    lines = [
        f"{name:>14}  {x.value:.4f}  ({x.low:.4f} to {x.high:.4f})" for name, x in found.items()
    ]
    return "\n".join([f"{100 * LEVEL:.0f} % confidence intervals", *lines]) if lines else ""


def comparison(found: dict[str, Difference]) -> str:
    """The differences, for people."""
    return "\n".join(
        f"{name:>14}  {x.value:+.4f}  ({x.low:+.4f} to {x.high:+.4f}), p = {x.p_value:.3f}"
        for name, x in found.items()
    )


def _scores(resamples, n, seed, *metrics) -> list[dict[str, np.ndarray]]:
    """Of each of `metrics`: name -> (resamples,), the same choices for all."""
    if not resamples:
        return [{} for _ in metrics]
    rng = np.random.default_rng(seed)
    rows = [[] for _ in metrics]
    for _ in range(resamples):
        samples = rng.integers(0, n, n)
        for some, of in zip(rows, metrics, strict=True):
            some.append(of.score(samples))
    # A number that some choice does not have, as the loss of a source without samples, is nan.
    return [
        {name: np.array([row.get(name, math.nan) for row in some]) for name in of.result()}
        for some, of in zip(rows, metrics, strict=True)
    ]


def _range(values) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
