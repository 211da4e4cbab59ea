"""Checkpoints: numbered folders of tensors and JSON, which count once they are whole.

    checkpoint-12/
      state.safetensors   tensors by name
      progress.json       plain values
      manifest.json       size and SHA-256 of both

A checkpoint is written beside its place, brought to the disk (fsync) and then renamed. So a kill or
a full disk at any moment leaves those before it, and remains with another name.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from trainers.files import write

TENSORS, VALUES, MANIFEST = "state.safetensors", "progress.json", "manifest.json"

_PLACE = re.compile(r"checkpoint-(\d+)")
_REMAINS = re.compile(r"checkpoint-\d+\.(new|old)")
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_BLOCK = 1 << 20  # bytes that are read at once


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing, cut short or not what was written."""


class Checkpoints:
    """The checkpoints in a folder.

    Args:
      folder: made when the first is written.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = os.fspath(folder)

    def path(self, step: int) -> str:
        return os.path.join(self.folder, f"checkpoint-{step}")

    def steps(self) -> list[int]:
        """Those that lie there, damaged ones too, ascending."""
        return sorted(int(match[1]) for match in map(_PLACE.fullmatch, self._names()) if match)

    def write(self, step: int, tensors: Mapping[str, np.ndarray], values: Mapping) -> None:
        """Writes a checkpoint, in place of the one of this step if there is one.

        Raises:
          OSError: it could not be written, and nothing of it is left.
        """
        place, partial = self.path(step), f"{self.path(step)}.new"
        os.makedirs(self.folder, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            os.mkdir(partial)
            files = {
                TENSORS: write(os.path.join(partial, TENSORS), _safetensors(tensors)),
                VALUES: write(os.path.join(partial, VALUES), [_json(values)]),
            }
            write(os.path.join(partial, MANIFEST), [_json({"files": files})])
            _sync(partial)
            self._remove(step)
            os.rename(partial, place)
            _sync(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def read(self, step: int):
        """Verifies a checkpoint.

        Returns:
          Its values, and its tensors as an open `safetensors.safe_open`.

        Raises:
          DamagedCheckpointError: it is not what was written.
        """
        folder = self.path(step)
        try:
            files = _read_json(os.path.join(folder, MANIFEST))["files"]
            for name in (TENSORS, VALUES):
                _verify(os.path.join(folder, name), files[name])
            values = _read_json(os.path.join(folder, VALUES))
            return values, safe_open(os.path.join(folder, TENSORS), framework="np")
        except OSError as error:
            reason = f"{os.path.basename(error.filename or folder)}: {error.strerror}"
        except (ValueError, LookupError, TypeError, SafetensorError) as error:
            reason = f"{MANIFEST}: {error!r}" if type(error) is not ValueError else str(error)
        raise DamagedCheckpointError(f"{folder} is damaged ({reason})")

    def keep(self, steps: Collection[int]) -> None:
        """Removes all but these."""
        for step in self.steps():
            if step not in steps:
                self._remove(step)

    def remove_remains(self) -> None:
        """Removes what a kill left half written or half removed."""
        for name in filter(_REMAINS.fullmatch, self._names()):
            shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)

    def _names(self) -> list[str]:
        return os.listdir(self.folder) if os.path.isdir(self.folder) else []

    def _remove(self, step: int) -> None:
        """By rename first: half of it is no checkpoint."""
        place, former = self.path(step), f"{self.path(step)}.old"
        if os.path.isdir(place):
            shutil.rmtree(former, ignore_errors=True)
            os.rename(place, former)
            shutil.rmtree(former, ignore_errors=True)


def _safetensors(tensors: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces; the package's own writer would copy all tensors first."""
    header, end = {}, 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for array in tensors.values():
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _json(values) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _verify(path: str, entry: Mapping) -> None:
    name, size = os.path.basename(path), os.path.getsize(path)
    if size != entry["bytes"]:
        raise ValueError(f"{name}: {size} bytes instead of {entry['bytes']}")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != entry["sha256"]:
        raise ValueError(f"{name}: its SHA-256 is not the manifest's")


def _read_json(path: str):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _sync(folder: str) -> None:
    """Brings the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
