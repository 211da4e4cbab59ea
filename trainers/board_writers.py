"""Board writers: programs that show a run, TensorBoard and Weights & Biases."""

import contextlib
import errno
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from trainers.args import UsageError


class BoardWriter(Protocol):
    """Takes what a run shows, in the order of the steps. Names are `group/name`."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def texts(self, name: str, prompts: Sequence[str], texts: Sequence[str], step: int) -> None:
        """Prompts and what the model makes of them."""

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Args: picture: (height, width, 3) uint8."""

    def close(self, failed: bool) -> None: ...


class TensorBoardWriter:
    """Writes TensorBoard event files.

    Args:
      folder: `tensorboard --logdir` of it, or of a folder above it.

    Its methods raise OSError where the disk is full.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._writer = tf.summary.create_file_writer(folder)

    @contextlib.contextmanager
    def _step(self, step: int):
        try:
            with self._writer.as_default(step=step):
                yield
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        # In one event: `tf.summary.scalar` runs some ops for each value, milliseconds in all.
        numbers = [tf.compat.v1.Summary.Value(tag=n, simple_value=x) for n, x in values.items()]
        with self._step(step):
            summary = tf.compat.v1.Summary(value=numbers)
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    def texts(self, name: str, prompts: Sequence[str], texts: Sequence[str], step: int) -> None:
        # Four spaces make it code in Markdown, which keeps line breaks and shows no markup.
        blocks = [
            f"**{prompt}**\n\n" + "\n".join("    " + line for line in text.splitlines())
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        with self._step(step):
            tf.summary.text(name, "\n\n---\n\n".join(blocks))

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        with self._step(step):
            tf.summary.image(name, picture[None])

    def close(self, failed: bool) -> None:
        with contextlib.suppress(tf.errors.ResourceExhaustedError):  # what could not be written
            self._writer.close()


class WandbWriter:
    """A run of Weights & Biases (https://docs.wandb.ai), one for a run folder with its resumes.

    Where it goes is for wandb's own settings to say: WANDB_MODE=offline keeps it in the folder,
    for `wandb sync`.

    Args:
      project: its name.
      folder: of the run; `wandb/` appears in it.
      config: shown with the run.

    Raises:
      UsageError: wandb refuses, as where nobody is logged in.
    """

    def __init__(self, project: str, folder: str, config: Mapping):
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project,
                name=os.path.basename(folder),
                dir=folder,
                config=dict(config),
                resume="auto",  # the same run until one has ended well
                settings=wandb.Settings(console="off"),
            )
        except (wandb.Error, ValueError) as error:
            reason = str(error).rstrip(".")
            raise UsageError(
                f"--wandb_project={project}: {reason}; set WANDB_API_KEY, or WANDB_MODE=offline"
            ) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._log(values, step)

    def texts(self, name: str, prompts: Sequence[str], texts: Sequence[str], step: int) -> None:
        rows = list(map(list, zip(prompts, texts, strict=True)))
        self._log({name: self._wandb.Table(["prompt", "text"], rows)}, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self._log({name: self._wandb.Image(picture)}, step)

    def _log(self, values: Mapping, step: int) -> None:
        # Steps that are done anew after a kill are there already; wandb would warn of each.
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def check_wandb(project: str) -> None:
    """Raises UsageError if a project is named and wandb is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            f"--wandb_project={project}: wandb is not installed; pip install 'gpt-keras[wandb]'"
        )
