"""Board: what is shown of a run while it goes on."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from trainers import args
from trainers.args import FlagValues
from trainers.board_writers import BoardWriter, TensorBoardWriter, WandbWriter
from trainers.pictures import draw_attention, draw_confusion_matrix
from trainers.run_folder import RunFolder


class Board(contextlib.AbstractContextManager):
    """Hands what is shown to all that show it.

    Args:
      writers: none show nothing.
    """

    def __init__(self, writers: Sequence[BoardWriter] = ()):
        self._writers = writers

    @classmethod
    def of(cls, flags: FlagValues, folder: RunFolder) -> Self:
        """That of a run; of its processes but one shows."""
        if not folder.writes:
            return cls()
        writers = [TensorBoardWriter(folder.file("tensorboard"))]
        if flags.wandb_project:
            config = args.flag_values(flags)
            writers.append(WandbWriter(flags.wandb_project, folder.path, config))
        return cls(writers)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        named = {f"{group}/{name}": value for name, value in values.items()}
        for writer in self._writers:
            writer.scalars(named, step)

    def texts(self, name: str, prompts: Sequence[str], texts: Sequence[str], step: int) -> None:
        """Prompts and what the model makes of them."""
        for writer in self._writers:
            writer.texts(name, prompts, texts, step)

    def confusion_matrix(
        self, name: str, matrix: np.ndarray, labels: Sequence[str], step: int
    ) -> None:
        """Args: as of `draw_confusion_matrix`."""
        self._picture(name, step, draw_confusion_matrix, matrix, labels)

    def attention(self, name: str, weights: np.ndarray, tokens: Sequence[str], step: int) -> None:
        """Args: as of `draw_attention`."""
        self._picture(name, step, draw_attention, weights, tokens)

    def _picture(self, name: str, step: int, draw, *arguments) -> None:
        if self._writers:
            picture = draw(*arguments)
            for writer in self._writers:
                writer.picture(name, picture, step)

    def __exit__(self, kind, *_):
        for writer in self._writers:
            writer.close(failed=kind is not None)
