"""Pictures of what a run says that no number does: (height, width, 3) uint8."""

import math
import warnings
from collections.abc import Sequence

import numpy as np


def draw_confusion_matrix(matrix: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Counts, coloured by the share of the true class.

    Args:
      matrix: (C, C) int, rows true.
      labels: C names.
    """
    side = 2.5 + 0.8 * len(labels)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    _label(axes.xaxis, labels, rotation=45, ha="right")
    _label(axes.yaxis, labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return _draw(figure)


def draw_attention(weights: np.ndarray, tokens: Sequence[str]) -> np.ndarray:
    """A square for each head: row t is what token t takes from each token, the darker the more.

    Args:
      weights: (H, T, T), rows sum to 1.
      tokens: T texts.
    """
    count = len(weights)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    side = 1.2 + 0.12 * len(tokens)
    figure = _figure(columns * side, rows * side)
    for head, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if head >= count:
            axes.set_axis_off()
            continue
        axes.imshow(weights[head], cmap="Blues", vmin=0, vmax=1)
        axes.set_title(f"head {head}", fontsize=8)
        _label(axes.xaxis, tokens, rotation=90, fontsize=6)
        _label(axes.yaxis, tokens, fontsize=6)
    return _draw(figure)


def draw_curve(
    sizes: Sequence[int], values: Sequence[float], ranges: Sequence[Sequence[float]], name: str
) -> np.ndarray:
    """A number against how many samples there were, with its interval.

    Args:
      sizes: of the points; the axis is logarithmic.
      values, ranges: of each point, the number and where it lies.
      name: of the number.
    """
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    axes.fill_between(sizes, *zip(*ranges, strict=True), alpha=0.2)
    axes.plot(sizes, values, marker="o")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training samples")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    return _draw(figure)


def _label(axis, texts: Sequence[str], **style) -> None:
    axis.set_ticks(range(len(texts)), texts, parse_math=False, **style)


def _figure(width: float, height: float):
    # Imported here: it takes a second, and not every run draws.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _draw(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Of tokens in scripts that the font lacks: a box stands for each such character.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
