"""Mixture: the shards that --train_data names, with their weights."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from absl import flags as absl_flags

from trainers import shards
from trainers.args import FlagValues, UsageError
from trainers.batches import PackedBatches
from trainers.shard_batches import MixedBatches, ShardRows

_WEIGHTED = re.compile(r"([\w.-]+)=([^:/]*):(.+)")  # wiki=0.7:DIR


def shards_flags(flags: FlagValues) -> None:
    """Shards."""
    absl_flags.DEFINE_boolean(
        "verify_shards", True, "compare the checksums of shards at start, about 1 s a GB; their "
        "sizes are always compared", flag_values=flags,
    )  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """Sources of training data.

    Attributes:
      names: of the sources.
      folders: of each, opened.
      weights: of each, or None: all documents alike.
    """

    names: tuple[str, ...]
    folders: tuple[shards.ShardFolder, ...]
    weights: tuple[float, ...] | None

    @property
    def tokenizer_dir(self) -> str:
        """Of the tokenizer that made the shards."""
        return self.folders[0].tokenizer_dir

    @property
    def digests(self) -> dict[str, str]:
        """Of each source the digest of its manifest."""
        return {n: folder.digest for n, folder in zip(self.names, self.folders, strict=True)}

    def train_batches(self, flags: FlagValues, pad_id: int) -> MixedBatches:
        """Of --global_batch_size rows."""
        rows = [
            ShardRows(folder.shards("train"), flags.max_length, flags.packing)
            for folder in self.folders
        ]
        return MixedBatches(
            rows,
            self.weights,
            flags.global_batch_size,
            names=self.names,
            seed=flags.seed,
            pad_id=pad_id,
        )

    def eval_batches(self, flags: FlagValues, pad_id: int) -> PackedBatches | None:
        """The documents of all sources that were held out, alike; None without any."""
        held_out = [shard for folder in self.folders for shard in folder.shards("eval")]
        if not held_out or not flags.eval_fraction:
            return None
        rows = ShardRows(held_out, flags.max_length, flags.packing)
        batch_size = max(1, flags.global_batch_size // flags.gradient_accumulation_steps)
        return PackedBatches(rows, batch_size, shuffle=False, pad_id=pad_id)


def open_mixture(train_data: Sequence[str], tokenizer: str, verify: bool) -> Mixture | None:
    """The mixture that --train_data names; None if it names files.

    Args:
      train_data: folders of shards, or `name=weight:folder` of each.
      tokenizer: directory of the one that is to be the shards', or "".
      verify: see `trainers.shards.open_folder`.

    Raises:
      UsageError: shards beside files, weights for some, a weight that is not positive, a name
        twice.
      ValueError: a folder with no shards or bad ones, another tokenizer, nothing to train on.
    """
    parts = [_WEIGHTED.fullmatch(item) for item in train_data]
    if not any(parts) and not any(shards.is_folder(os.path.expanduser(d)) for d in train_data):
        return None
    if any(parts):
        for item, part in zip(train_data, parts, strict=True):
            if part is None:
                raise UsageError(
                    f"--train_data: {item!r} has no weight, though others have one; write all as "
                    "name=weight:folder"
                )
        names, texts, paths = zip(*(part.groups() for part in parts), strict=True)
        weights = tuple(map(_weight, names, texts))
    else:
        paths, weights = tuple(train_data), None
        names = tuple(os.path.basename(os.path.abspath(path)) for path in paths)
        for path in paths:
            if not shards.is_folder(os.path.expanduser(path)):
                raise UsageError(
                    f"--train_data: {path} holds no shards, though others do; prepare it with "
                    "trainers.prepare_data as well"
                )
        if len(set(names)) < len(names):
            names = paths
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"--train_data: source {twice!r} comes twice; give each its own name")
    folders = tuple(shards.open_folder(path, verify=verify) for path in paths)
    if tokenizer:
        folders[0].check_tokenizer(tokenizer)
    for name, folder in zip(names, folders, strict=True):
        if folder.manifest["tokenizer"] != folders[0].manifest["tokenizer"]:
            raise ValueError(
                f"--train_data: sources {names[0]!r} and {name!r} were made with different "
                f"tokenizers; prepare both with --tokenizer={folders[0].tokenizer_dir}"
            )
        if not folder.shards("train"):
            raise ValueError(
                f"--train_data: source {name!r} is empty: {folder.path} holds no document to train "
                "on; leave it out, or prepare it with a smaller --eval_fraction"
            )
    return Mixture(names, folders, weights)


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(
            f"--train_data: source {name!r} has the weight {text!r}; give a number above 0, or "
            "leave the source out"
        )
    return weight
