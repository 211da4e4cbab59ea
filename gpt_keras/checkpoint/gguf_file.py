"""GGUF files: metadata, tensors and tokenizer, as if they were a model directory.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import os
from collections.abc import Iterator

import gguf
import numpy as np

from gpt_keras.checkpoint import gguf_config
from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.families.family import heads_together
from gpt_keras.checkpoint.fields import Fields
from gpt_keras.checkpoint.gguf_header import Header, TensorInfo
from gpt_keras.checkpoint.gguf_tokenizer import make_tokenizer
from gpt_keras.checkpoint.weights import rows_at_once

_ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}


def open_file(path: str) -> "GGUFFile":
    """The file, parsed once however often it is asked for while it stays the same."""
    stat = os.stat(path)
    return _open(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1)  # what is kept is a mapping of the file, not a copy of it
def _open(path, mtime_ns, size):
    return GGUFFile(path)


class GGUFFile:
    """A GGUF file of a family that `families` knows. A `weights.TensorSource`.

    Raises:
      ValueError: damaged file, or one with an architecture, tensor type or option that is not
        supported; the message names it.
    """

    def __init__(self, path: str):
        self.where = path
        try:
            header = Header(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self._metadata = header.metadata
        self.family = self._supported_family()
        self._factors = {t.name: t for t in header.tensors if t.name in gguf_config.FACTORS}
        self._tensors = self._by_checkpoint_name(header.tensors)

    def get(self, key: str, default=None):
        """A metadata value, or the default."""
        return self._metadata.get(key, default)

    def fields(self) -> Fields:
        """What the config.json of this model would hold."""

        def factors(name):
            found = self._factors.get(name)
            return None if found is None else np.concatenate(list(self._pieces(found))).reshape(-1)

        return gguf_config.fields(self.family, self.get, self._tensors, factors, self.where)

    def tokenizer(self):
        return make_tokenizer(self)

    def has_weights(self) -> bool:
        return True

    def stored_dtype(self) -> str:
        """What `read` gives, whatever the tensors are quantized to."""
        return "float32"

    def names(self) -> set[str]:
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...] | None:
        if name not in self._tensors:
            return None
        tensor, expert = self._tensors[name]
        shape = tensor.shape if expert is None else tensor.shape[1:]
        return shape[::-1] if name.endswith(self.family.gguf.transposed) else shape

    def dtype(self, name: str) -> str:
        return self._tensors[name][0].type.name

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        pieces, keys = self._pieces(*self._tensors[name]), self.family.gguf
        offset = self.family.fixed.get("norm_offset")
        ends = by_head(self.family)
        if name.endswith(keys.transposed):
            yield np.concatenate(list(pieces)).T
        elif offset and name.endswith("norm.weight"):  # stored as what it multiplies by
            yield from (piece - np.float32(offset) for piece in pieces)
        elif ends and name.endswith(ends):
            heads = self._architecture("attention.head_count")
            yield heads_together(np.concatenate(list(pieces)), heads)
        elif name.endswith(keys.permuted):
            yield self._unpermuted(name, np.concatenate(list(pieces)))
        else:
            yield from pieces

    def _pieces(self, tensor: TensorInfo, expert: int | None = None) -> Iterator[np.ndarray]:
        """A tensor as it is stored, or the part of it that is one expert's."""
        data, shape = tensor.data, tensor.shape
        if expert is not None:
            data, shape = data.reshape(shape[0], -1)[expert], shape[1:]
        data, rows = data.reshape(shape[0], -1), rows_at_once(shape)
        try:
            for row in range(0, shape[0], rows):
                values = gguf.quants.dequantize(data[row : row + rows].reshape(-1), tensor.type)
                yield values.reshape(-1, *shape[1:])
        except NotImplementedError:
            raise ValueError(
                f"{self.where}: tensor {tensor.name} has type {tensor.type.name}, which "
                "is not supported; requantize the file, to Q8_0 for example"
            ) from None

    def _architecture(self, key: str, default=None):
        return self.get(f"{self.family.gguf.architecture}.{key}", default)

    def _supported_family(self) -> Family:
        name = self.get("general.architecture")
        known = [family for family in FAMILIES.values() if family.gguf]
        named = [family for family in known if family.gguf.architecture == name]
        if not named:
            names = dict.fromkeys(family.gguf.architecture for family in known)
            raise ValueError(
                f"{self.where}: general.architecture={name!r}: unsupported; supported are "
                f"{', '.join(names)}"
            )
        parts = self.get("split.count", 0)
        if parts not in (0, 1):
            raise ValueError(
                f"{self.where}: one of {parts} split files; merge them first "
                "(llama-gguf-split --merge)"
            )
        experts = self.get(f"{name}.expert_count", 0)
        for family in named:
            if ("num_experts" in family.keys) == bool(experts):
                return family
        raise ValueError(f"{self.where}: {name}.expert_count={experts}: unsupported")

    def _by_checkpoint_name(self, tensors: list[TensorInfo]) -> dict:
        """Tensors, each with the number of an expert or None, by Hugging Face's names.

        Unknown ones keep their own.
        """
        counts = {}
        for key in ("block_count", "expert_count"):
            counts[key] = count = self._architecture(key, 0)
            most = sum(tensor.shape[0] for tensor in tensors if len(tensor.shape) == 3)
            most = most if key == "expert_count" else len(tensors)
            if not isinstance(count, int) or not 0 <= count <= most:
                raise ValueError(
                    f"{self.where}: metadata {self.family.gguf.architecture}.{key}={count!r}, "
                    f"but the file has {len(tensors)} tensors in all"
                )
        names = tensor_names(self.family, *counts.values())
        found = {tensor.name: tensor for tensor in tensors if tensor.name not in self._factors}
        ours = {
            name: (found[theirs], expert)
            for name, (theirs, expert) in names.items()
            if theirs in found
        }
        for name, (tensor, expert) in ours.items():
            if (expert is None) != (len(tensor.shape) < 3) or (
                expert is not None and tensor.shape[0] != counts["expert_count"]
            ):
                raise ValueError(
                    f"{self.where}: tensor {tensor.name} has shape {tensor.shape}, which is none "
                    f"of {name}"
                )
        known = {theirs for theirs, _ in names.values()}
        return ours | {n: (tensor, None) for n, tensor in found.items() if n not in known}

    def _unpermuted(self, name: str, values: np.ndarray) -> np.ndarray:
        """Rows of query and key heads from llama.cpp's pairs (2i, 2i + 1) to (i, i + h/2).

        Source: `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py, whose inverse this is.
        """
        heads = self._architecture("attention.head_count")
        if ".k_proj." in name:
            heads = self._architecture("attention.head_count_kv", heads)
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])  # (heads, h/2, 2, ...)
        return pairs.swapaxes(1, 2).reshape(values.shape)


def by_head(family: Family) -> tuple[str, ...]:
    """Ends of the names of tensors that the checkpoint has head by head, and GGUF has not."""
    weights = (weight for weight in family.weights if weight.by_head)
    return tuple(weight.names[0].removeprefix("layers.{i}") for weight in weights)


def tensor_names(
    family: Family, num_layers: int, num_experts: int
) -> dict[str, tuple[str, int | None]]:
    """Tensors by Hugging Face's names -> their names in a GGUF file, and which expert's part."""
    names = gguf.get_tensor_name_map(_ARCHITECTURES[family.gguf.architecture], num_layers)
    found = {}
    for weight in family.weights:
        prefix = "" if weight.variable == "embedding/head" else family.prefix
        for i in range(num_layers if "{i}" in weight.variable else 1):
            for name in weight.names:
                # GGUF has all experts of a layer in one tensor, which is named without number.
                stacked = prefix + name.replace(".{e}", "").format(i=i)
                theirs = names.get_name(stacked, (".weight", ".bias"))
                for e in range(num_experts) if "{e}" in name else (None,):
                    found[prefix + name.format(i=i, e=e)] = theirs, e
    return found
