"""The header of a GGUF file: metadata, and where its tensors lie.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length is checked against
the file before anything is made of it: what a damaged one asks for is never allocated.
"""

import math
import mmap
import struct
from typing import Any, NamedTuple

import gguf
import numpy as np

_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_ELEMENTS = 2**22  # of a list: eight times the merges of the largest vocabularies there are
_SCALARS = {  # type -> its format in struct's and numpy's words
    0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _LIST = 8, 9


class TensorInfo(NamedTuple):
    """A tensor of a file.

    Attributes:
      name: as the file has it.
      shape: the slowest-running dimension first, as numpy has it.
      type: how its numbers are stored.
      data: its bytes, mapped.
    """

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    data: np.ndarray


class Header:
    """What the file says of itself.

    Attributes:
      metadata: key -> number, text, or list of such.
      tensors: `TensorInfo`s in the file's order.
    """

    def __init__(self, path: str):
        """
        Raises:
          ValueError: no GGUF file, or a truncated, damaged or big-endian one; does not name it.
        """
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("no GGUF file: it does not begin with the bytes GGUF")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 4  # the byte that is next
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version} of GGUF: supported are 2 and 3, little-endian")
        tensors, keys = self._scalar("<Q"), self._scalar("<Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text("a metadata key")
            if key in self.metadata:
                raise ValueError(f"truncated or damaged GGUF file: metadata {key} is there twice")
            self.metadata[key] = self._value(key)
        found = [self._tensor_info() for _ in range(tensors)]
        names = [name for name, *_ in found]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"truncated or damaged GGUF file: tensor {twice} is there twice")
        alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"metadata general.alignment={alignment!r}: expected a power of two")
        start = -(-self._at // alignment) * alignment
        self.tensors = [self._tensor(start, *info) for info in found]

    def _skip(self, size: int) -> int:
        """Passes the next bytes; where they begin."""
        begin, left = self._at, len(self._data) - self._at
        if size > left:
            raise ValueError(
                f"truncated or damaged GGUF file: at byte {begin} it says that {size} bytes "
                f"follow, {left} do"
            )
        self._at += size
        return begin

    def _scalar(self, kind: str):
        return struct.unpack_from(kind, self._data, self._skip(struct.calcsize(kind)))[0]

    def _text(self, what: str) -> str:
        begin = self._skip(self._scalar("<Q"))
        try:
            return self._data[begin : self._at].decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"truncated or damaged GGUF file: {what}: {error}") from None

    def _value(self, key: str):
        kind = self._scalar("<I")
        if kind != _LIST:
            return self._one(key, kind)
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if count > _MAX_ELEMENTS:
            raise ValueError(f"metadata {key}: {count} elements: {_MAX_ELEMENTS} at most are read")
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            begin = self._skip(count * dtype.itemsize)
            return np.frombuffer(self._data, dtype, count, begin).tolist()
        return [self._one(key, kind) for _ in range(count)]

    def _one(self, key: str, kind: int):
        if kind == _STRING:
            return self._text(f"metadata {key}")
        if kind not in _SCALARS:
            raise ValueError(f"truncated or damaged GGUF file: metadata {key} has type {kind}")
        return self._scalar(_SCALARS[kind])

    def _tensor_info(self):
        name, count = self._text("a tensor's name"), self._scalar("<I")
        if count > _MAX_DIMENSIONS:
            raise ValueError(
                f"truncated or damaged GGUF file: tensor {name} has {count} dimensions"
            )
        shape = [self._scalar("<Q") for _ in range(count)]
        return name, tuple(reversed(shape)), self._scalar("<I"), self._scalar("<Q")

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int):
        try:
            kind = gguf.GGMLQuantizationType(kind)
            block, size = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise ValueError(f"tensor {name} is of an unknown type: {kind}") from None
        row = math.prod(shape[-1:])
        if row % block:
            raise ValueError(
                f"truncated or damaged GGUF file: tensor {name} has rows of {row} numbers, which "
                f"are no whole {kind.name} blocks of {block}"
            )
        self._at, count = start + offset, math.prod(shape) // block * size
        return TensorInfo(
            name, shape, kind, np.frombuffer(self._data, np.uint8, count, self._skip(count))
        )
