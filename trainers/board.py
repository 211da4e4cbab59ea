"""Board: what TensorBoard shows of a run."""

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf


class Board:
    """Writes TensorBoard event files.

    Args:
      folder: `tensorboard --logdir` of it, or of a folder above it.
      writes: False shows nothing.

    Its methods raise OSError where the disk is full.
    """

    def __init__(self, folder: str, writes: bool = True):
        self.folder = folder
        self._writer = (
            tf.summary.create_file_writer(folder) if writes else tf.summary.create_noop_writer()
        )

    @contextlib.contextmanager
    def _step(self, step: int):
        try:
            with self._writer.as_default(step=step):
                yield
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder) from error

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        with self._step(step):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)

    def texts(self, name: str, prompts: Sequence[str], texts: Sequence[str], step: int) -> None:
        """Prompts and what the model makes of them."""
        # Four spaces make it code in Markdown, which keeps line breaks and shows no markup.
        blocks = [
            f"**{prompt}**\n\n" + "\n".join("    " + line for line in text.splitlines())
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        with self._step(step):
            tf.summary.text(name, "\n\n---\n\n".join(blocks))

    def confusion_matrix(
        self, name: str, matrix: np.ndarray, labels: Sequence[str], step: int
    ) -> None:
        """Args: matrix: (C, C) int, rows true. labels: C names."""
        with self._step(step):
            tf.summary.image(name, draw_confusion_matrix(matrix, labels)[None])

    def close(self) -> None:
        with contextlib.suppress(tf.errors.ResourceExhaustedError):  # what could not be written
            self._writer.close()


def draw_confusion_matrix(matrix: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A picture (height, width, 3) uint8: counts, coloured by the share of the true class."""
    # Imported here: it takes a second, and not every run draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = 2.5 + 0.8 * len(labels)
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
