"""Class weights: how much the loss of each label counts in training."""

from collections.abc import Sequence

import numpy as np

BALANCED = "balanced"


def parse(text: str, names: Sequence[str]) -> np.ndarray | None:
    """Weights (C,) float32 of labels; None where all are 1.

    Args:
      text: NAME=WEIGHT,NAME=WEIGHT, where those not named have 1; or all weights in index order.
      names: of the labels, in index order.

    Raises:
      ValueError: an unknown name, or something that is no number above 0.
    """
    if not text:
        return None
    parts = text.split(",")
    if not any("=" in part for part in parts) and len(parts) != len(names):
        raise ValueError(
            f"--class_weights={text}: {len(parts)} weights for {len(names)} labels; give each its "
            f"own, in the order {', '.join(names)}, or NAME=WEIGHT"
        )
    weights = np.ones(len(names), np.float32)
    for i, part in enumerate(parts):
        name, equals, number = part.rpartition("=")
        if equals and name.strip() not in names:
            raise ValueError(
                f"--class_weights={text}: unknown label {name.strip()!r}; known are "
                f"{', '.join(names)}"
            )
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight < np.inf:
            raise ValueError(f"--class_weights={text}: {number!r} is no number above 0")
        weights[names.index(name.strip()) if equals else i] = weight
    return weights


def balanced(counts: np.ndarray, total: int, multi_label: bool) -> str:
    """Weights that make labels count alike, in index order, as `parse` reads them.

    n / (C n_c), as scikit-learn's "balanced"; of many labels a text, where a label is weighted
    where it holds, (n - n_c) / n_c.

    Args:
      counts: (C,) int, texts of each label.
      total: texts.
    """
    counts = np.maximum(counts, 1)
    if multi_label:
        weights = np.maximum(total - counts, 1) / counts
    else:
        weights = total / (len(counts) * counts)
    return ",".join(f"{weight:.6g}" for weight in weights)
