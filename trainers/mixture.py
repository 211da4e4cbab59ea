"""Mixture: the shards that --train_data names, with their weights."""

import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from absl import flags as absl_flags

from gpt_keras.tokenizers import Tokenizer
from trainers import shards
from trainers.args import FlagValues, UsageError
from trainers.batches import PackedBatches
from trainers.data import micro_batch_size
from trainers.run_folder import RunFolder
from trainers.shard_batches import JoinedRows, MixedBatches, ShardRows

SHARDS_FILE = "shards.json"  # in a run's folder: digests of the manifests

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

    def write_digests(self, folder: RunFolder) -> None:
        """Notes in a run's folder what the run is trained on."""
        folder.write_json(SHARDS_FILE, self.digests)

    def check_same(self, folder: RunFolder) -> None:
        """Refuses to resume on data that was prepared anew, and differently, since the run began.

        Raises:
          UsageError: naming the source.
        """
        path = folder.file(SHARDS_FILE)
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        for name, manifest in self.digests.items():
            if before.get(name) != manifest:
                raise UsageError(
                    f"--train_data: the shards of {name!r} are not those that the run in "
                    f"{folder.path} began with; put them back, or name another --output_dir"
                )

    def check_tokenizer(self, tokenizer: Tokenizer, model: str) -> None:
        """Refuses a model whose tokenizer is not the one of the shards, where ids mean other texts.

        Args:
          tokenizer: the model's.
          model: value of --model.

        Raises:
          ValueError: naming both.
        """
        with tempfile.TemporaryDirectory() as directory:  # a .gguf file has no tokenizer.json
            tokenizer.save(directory)
            its = shards.tokenizer_digest(directory)
        made_by = self.folders[0].manifest["tokenizer"]
        if its != made_by["sha256"]:
            raise ValueError(
                f"--model={model}: its tokenizer has the SHA-256 {its[:12]}…, but the shards of "
                f"{self.folders[0].path} were made with {made_by['sha256'][:12]}…; prepare the "
                "data anew with --tokenizer=DIR, the directory of the model"
            )
        if tokenizer.eos_token_id != made_by["eos_token_id"]:
            raise ValueError(
                f"--model={model}: ends texts with token {tokenizer.eos_token_id}, but those in "
                f"the shards of {self.folders[0].path} end with {made_by['eos_token_id']}; prepare "
                "the data anew with --tokenizer=DIR, the directory of the model"
            )

    def train_batches(self, flags: FlagValues, pad_id: int) -> MixedBatches:
        """Of --global_batch_size rows."""
        rows = self._rows("train", flags)
        return MixedBatches(
            rows, self.weights, flags.global_batch_size, seed=flags.seed, pad_id=pad_id
        )

    def eval_batches(self, flags: FlagValues, pad_id: int) -> PackedBatches | None:
        """The documents of all sources that were held out, alike; None without any."""
        rows = self._rows("eval", flags)
        if not rows.num_rows or not flags.eval_fraction:
            return None
        return PackedBatches(rows, micro_batch_size(flags), shuffle=False, pad_id=pad_id)

    def _rows(self, split: str, flags: FlagValues) -> JoinedRows:
        rows = [
            ShardRows(folder.shards(split), flags.max_length, flags.packing)
            for folder in self.folders
        ]
        return JoinedRows(rows, self.names)


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
    if not any(parts) and not any(map(shards.is_folder, train_data)):
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
            if not shards.is_folder(path):
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
