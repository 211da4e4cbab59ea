"""Preparation: the folder in which shards come to be, and how it goes on after a kill."""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_keras.tokenizers import Tokenizer
from trainers import shards
from trainers.args import UsageError
from trainers.files import is_free, save_folder, write_json

DIGEST_BYTES = 16  # of a document's hash; two of 10^12 documents agree with a chance of 10^-15


class Position(NamedTuple):
    """How far the input has been read: all of the first `file` files, and `record` of the next."""

    file: int = 0
    record: int = 0


class Documents(NamedTuple):
    """Tokenized documents of a split.

    Attributes:
      tokens: (N,) unsigned, end to end.
      lengths: (n,) int64.
      target_bytes: bytes of text that all tokens but the first of each document stand for.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    target_bytes: int


class Preparation:
    """Makes `<output_dir>` in `<output_dir>.partial`, by one process at a time.

    What has been added is safe once it fills a shard: then the shard's files are written, and last
    `journal-00000.json`, which says where the input was left. A process that is killed leaves
    files without a journal, which the next one writes anew. When all is whole, the folder takes
    its final name. Work in it with `with`.

    Args:
      output_dir: of the shards.
      settings: flag name -> value, of those that decide what will be in the shards.
      inputs: `{"path", "bytes", "mtime_ns"}` of each file to read, in order.

    Attributes:
      finished: the output is there already, made with these settings.
      position: where to read on.
      digests: 16 bytes of each document so far, about 90 bytes of memory each.
      counts: documents read, and of these the duplicates and empty ones.

    Raises:
      UsageError: another preparation is there, or the input that has been read has changed.
    """

    def __init__(self, output_dir: str, settings: Mapping[str, Any], inputs: Sequence[Mapping]):
        self.path = os.path.abspath(os.path.expanduser(output_dir))
        self.partial = f"{self.path}.partial"
        self.settings, self.inputs = dict(settings), [dict(entry) for entry in inputs]
        self.position, self.digests = Position(), set()
        self.counts = {"read": 0, "duplicate": 0, "empty": 0}
        self._shards: dict[str, list[dict]] = {split: [] for split in shards.SPLITS}
        self._files: dict[str, dict] = {}
        self._number, self._new_digests = 0, []
        self._added: dict[str, list[Documents]] = {split: [] for split in shards.SPLITS}
        self.finished = shards.is_folder(self.path)
        if self.finished:
            before = shards.open_folder(self.path, verify=False).manifest["preparation"]
            self._check_settings({**self.settings, "inputs": self._sizes()}, before, self.path)
        elif not is_free(self.path):
            raise UsageError(
                f"--output_dir={output_dir}: is not an empty folder, and holds no shards; name "
                "another"
            )

    def __enter__(self) -> "Preparation":
        """Takes the folder, and what is left of it from before."""
        if not is_free(self.partial) and not os.path.exists(self._file("lock")):
            raise UsageError(
                f"{self.partial}: is where the work would go on, but holds something else; move "
                "it, or name another --output_dir"
            )
        os.makedirs(self.partial, exist_ok=True)
        self._lock = open(self._file("lock"), "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UsageError(
                f"{self.partial}: another process is at work there; wait for it or stop it"
            ) from error
        plan, now = self._file("plan.json"), {"settings": self.settings, "inputs": self.inputs}
        if os.path.exists(plan):
            with open(plan, encoding="utf-8") as file:
                before = json.load(file)
            self._replay()
            if self._number:
                self._check_settings(self.settings, before["settings"], self.partial)
                self._check_inputs(before["inputs"])
            elif before != now:  # nothing was made with them, but perhaps a tokenizer
                shutil.rmtree(self._file("tokenizer"), ignore_errors=True)
        write_json(plan, now)
        return self

    def __exit__(self, *_) -> None:
        self._lock.close()

    def add(
        self,
        documents: Mapping[str, Documents],
        digests: Sequence[bytes],
        counts: Mapping[str, int],
        position: Position,
    ) -> None:
        """Takes the next documents.

        Args:
          documents: of each split.
          digests: of those that are new.
          counts: as the attribute, of these alone.
          position: where the input is after them.
        """
        for split in shards.SPLITS:
            if len(documents[split].lengths):
                self._added[split].append(documents[split])
        self._new_digests += digests
        for name, count in counts.items():
            self.counts[name] += count
        self.position = position

    @property
    def pending_tokens(self) -> int:
        """Tokens that are in memory alone."""
        return sum(len(part.tokens) for parts in self._added.values() for part in parts)

    def commit(self, dtype: np.dtype) -> None:
        """Writes what has been added as a shard of each split that it holds documents of."""
        number, written, added = self._number, {}, {}
        for split, parts in self._added.items():
            if not parts:
                continue
            name = f"{split}-{number:05d}"
            lengths = np.concatenate([part.lengths for part in parts])
            for kind, arrays, kind_dtype in (
                ("tokens", [part.tokens for part in parts], dtype),
                ("offsets", [np.zeros(1, np.int64), np.cumsum(lengths)], np.int64),
            ):
                file = f"{name}.{kind}.npy"
                written[file] = shards.write_array(self._file(file), arrays, kind_dtype)
            added[split] = {
                "name": name,
                "documents": len(lengths),
                "tokens": int(lengths.sum()),
                "target_bytes": sum(part.target_bytes for part in parts),
            }
        digests = np.frombuffer(b"".join(self._new_digests), np.uint8)
        shards.write_array(self._file(f"digests-{number:05d}.npy"), [digests], np.uint8)
        entry = {
            "position": self.position,
            "counts": self.counts,
            "shards": added,
            "files": written,
        }
        write_json(self._file(f"journal-{number:05d}.json"), entry)
        self._take(entry)
        self._new_digests = []
        self._added = {split: [] for split in shards.SPLITS}

    def finish(self, tokenizer: Tokenizer) -> None:
        """Writes the manifest and gives the folder its name.

        Args:
          tokenizer: the one that was saved.
        """
        splits = {}
        for split, parts in self._shards.items():
            offsets = (
                np.load(self._file(f"{s['name']}.offsets.npy"), mmap_mode="r") for s in parts
            )
            totals = {
                name: sum(shard[name] for shard in parts)
                for name in ("documents", "tokens", "target_bytes")
            }
            lengths = shards.length_statistics(offsets)
            splits[split] = {**totals, "lengths": lengths, "shards": parts}
        for path in sorted(glob.glob(self._file("tokenizer", "*"))):
            name = os.path.relpath(path, self.partial)
            self._files[name] = shards.describe_file(path)
        manifest = {
            "format": shards.FORMAT,
            "preparation": {**self.settings, "inputs": self._sizes()},
            "tokenizer": {
                "sha256": shards.tokenizer_digest(self._file("tokenizer")),
                "vocab_size": tokenizer.vocab_size,
                "eos_token_id": tokenizer.eos_token_id,
            },
            "documents": self.counts,
            "splits": splits,
            "files": self._files,
        }
        write_json(self._file(shards.MANIFEST), manifest)
        listed = {shards.MANIFEST, *self._files}
        for name in os.listdir(self.partial):
            if name not in listed and name != "tokenizer":
                os.remove(self._file(name))
        os.rename(self.partial, self.path)

    def save_tokenizer(self, tokenizer: Tokenizer) -> str:
        """Puts the tokenizer into the folder, whole or not at all; returns its directory."""
        path = self._file("tokenizer")
        save_folder(tokenizer.save, path)
        return path

    @property
    def tokenizer_dir(self) -> str | None:
        """That of an earlier start, or None."""
        path = self._file("tokenizer")
        return path if os.path.isdir(path) else None

    def _file(self, *names: str) -> str:
        return os.path.join(self.partial, *names)

    def _replay(self) -> None:
        """Takes the shards that have a journal."""
        while os.path.exists(path := self._file(f"journal-{self._number:05d}.json")):
            with open(path, encoding="utf-8") as file:
                entry = json.load(file)
            digests = np.load(self._file(f"digests-{self._number:05d}.npy")).tobytes()
            self.digests.update(
                digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)
            )
            self.position, self.counts = Position(*entry["position"]), entry["counts"]
            self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        for split, shard in entry["shards"].items():
            self._shards[split].append(shard)
        self._files.update(entry["files"])
        self._number += 1

    def _sizes(self) -> dict[str, int]:
        """Bytes of each input file: its time would make equal data unequal."""
        return {entry["path"]: entry["bytes"] for entry in self.inputs}

    def _check_settings(self, now: Mapping[str, Any], before: Mapping[str, Any], folder: str):
        for name, value in now.items():
            if value == before.get(name):
                continue
            if name == "inputs":
                raise UsageError(
                    f"--train_data: not the files, or not of the sizes, that {folder} was made of; "
                    "name another --output_dir, or delete that folder"
                )
            raise UsageError(
                f"--{name}={value} differs from {before.get(name)}, with which {folder} was "
                "made; give the same, name another --output_dir, or delete that folder"
            )

    def _check_inputs(self, before: Sequence[Mapping]) -> None:
        """What lies ahead may change; what has been read may not."""
        file, record = self.position
        for index in range(file + (record > 0)):
            now = self.inputs[index] if index < len(self.inputs) else None
            if now != before[index]:
                path = before[index]["path"]
                raise UsageError(
                    f"--train_data: {path} has been read into {self.partial}, and is not the same "
                    "any more; put it back, or delete that folder to begin anew"
                )
