"""GGUF files: metadata, tensors and tokenizer, as if they were a model directory.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import os

import gguf
import numpy as np

from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.families.family import heads_together
from gpt_keras.checkpoint.fields import REQUIRED, Fields
from gpt_keras.checkpoint.gguf_tokenizer import make_tokenizer

_ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
_DAMAGE = (ValueError, IndexError, KeyError, OverflowError, MemoryError, TypeError, OSError)


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
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{path}: no GGUF file: it does not begin with the bytes GGUF")
        try:
            self._reader = gguf.GGUFReader(path)
        except _DAMAGE as error:
            if "is not a valid GGMLQuantizationType" in str(error):
                raise ValueError(f"{path}: holds a tensor of an unknown type: {error}") from None
            raise ValueError(f"{path}: truncated or damaged GGUF file: {error}") from None
        self.family = self._supported_family()
        self._tensors = self._by_checkpoint_name()

    def get(self, key: str, default=None):
        """A metadata value, or the default."""
        field = self._reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where}: metadata {key} is damaged: {error}") from None

    def fields(self) -> Fields:
        """What the config.json of this model would hold."""
        values = {"model_type": self.family.model_type}
        required = {
            name
            for key in self.family.keys.values() if key.default is REQUIRED
            for name in key.names
        }  # fmt: skip
        for name, key in self.family.gguf.keys.items():
            value = self._architecture(key)
            if name == "vocab_size" and value is None:
                value = len(self.get("tokenizer.ggml.tokens", ())) or None
            if value is None and name in required:
                name = f"{self.family.gguf.architecture}.{key}"
                raise ValueError(f"{self.where}: metadata {name} missing")
            # Written as float32: the shortest decimal that says the same is what was meant.
            values[name] = float(str(np.float32(value))) if isinstance(value, float) else value
        values.update(self._options())
        # An absent token id means "none" here, not what the family's configuration assumes.
        kept = {k: v for k, v in values.items() if v is not None or k.endswith("token_id")}
        return Fields(kept, self.where)

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
        # GGUF counts dimensions from the fastest-running one.
        shape = tuple(int(n) for n in reversed(self._tensors[name].shape))
        return shape[::-1] if name.endswith(self.family.gguf.transposed) else shape

    def dtype(self, name: str) -> str:
        return self._tensors[name].tensor_type.name

    def read(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ValueError(
                f"{self.where}: tensor {tensor.name} has type {tensor.tensor_type.name}, which "
                "is not supported; requantize the file, to Q8_0 for example"
            ) from None
        values = values.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        if name.endswith(self.family.gguf.transposed):
            return values.T
        offset = self.family.fixed.get("norm_offset")
        if offset and name.endswith("norm.weight"):  # stored as what it multiplies by
            return values - np.float32(offset)
        ends = by_head(self.family)
        if ends and name.endswith(ends):
            return heads_together(values, self._architecture("attention.head_count"))
        return self._unpermuted(name, values)

    def _architecture(self, key: str, default=None):
        return self.get(f"{self.family.gguf.architecture}.{key}", default)

    def _supported_family(self) -> Family:
        name = self.get("general.architecture")
        known = {f.gguf.architecture: f for f in FAMILIES.values() if f.gguf}
        if name not in known:
            raise ValueError(
                f"{self.where}: general.architecture={name!r}: unsupported; supported are "
                f"{', '.join(known)}"
            )
        if self.get("split.count", 0) > 1:
            raise ValueError(
                f"{self.where}: one of {self.get('split.count')} split files; merge them first "
                "(llama-gguf-split --merge)"
            )
        if self.get(f"{name}.expert_count", 0):
            raise ValueError(f"{self.where}: {name}.expert_count: mixtures of experts unsupported")
        return known[name]

    def _by_checkpoint_name(self) -> dict:
        """Tensors under the names that Hugging Face gives them; unknown ones keep their own."""
        blocks = self._architecture("block_count", 0)
        if not isinstance(blocks, int) or not 0 <= blocks <= len(self._reader.tensors):
            raise ValueError(
                f"{self.where}: metadata {self.family.gguf.architecture}.block_count={blocks!r}, "
                f"but the file has {len(self._reader.tensors)} tensors in all"
            )
        ours = {theirs: name for name, theirs in tensor_names(self.family, blocks).items()}
        return {ours.get(tensor.name, tensor.name): tensor for tensor in self._reader.tensors}

    def _options(self) -> dict:
        """The entries of config.json that GGUF does not say in a number of its own."""
        for name in ("rope_freqs.weight", "rope_factors_long.weight"):
            if name in self._tensors:
                raise ValueError(
                    f"{self.where}: tensor {name} (scaled rotary positions, as in Llama 3 or "
                    "Phi-3) is not supported; import the model from its Hugging Face directory"
                )
        kind = self._architecture("rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise ValueError(
                f"{self.where}: rope.scaling.type={kind!r}: supported are none, linear"
            )
        width = self._architecture("attention.key_length")
        rotated = self._architecture("rope.dimension_count", width)
        rotary = self.family.rotary
        even = _quotient(self._architecture("embedding_length"),
                         self._architecture("attention.head_count"))  # fmt: skip
        if rotary and rotary.fraction_key:
            width = width or even
        elif width is not None and width != rotated:
            raise ValueError(
                f"{self.where}: rope.dimension_count={rotated} rotates a part of the head's "
                f"{width} numbers only: unsupported"
            )
        bos, eos, eot, pad = (
            self.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "padding")
        )
        family = self.family
        heads = [w.names[0] for w in family.weights if w.variable == "embedding/head"]
        scalar = even if self._architecture("block_count") == family.gguf.scalar_layers else width
        biased = {name.removesuffix(".bias") for name in self._tensors if name.endswith(".bias")}
        scaling = {"rope_type": "linear", "factor": self._architecture("rope.scaling.factor")}
        attention_bias = any(name.endswith(("self_attn.o_proj", "dense")) for name in biased)
        options = {}
        if rotary and rotary.fraction_key and width and rotated:
            options[rotary.fraction_key] = rotated / width
        if "attention_scalar" in family.keys:
            options["query_pre_attn_scalar"] = scalar or even
        return {
            **options,
            "tie_word_embeddings": heads[0] not in self._tensors,
            "attention_bias": attention_bias,
            "use_bias": attention_bias,
            "mlp_bias": any(name.endswith("mlp.down_proj") for name in biased),
            "rope_scaling": scaling if kind == "linear" else None,
            "head_dim": width or rotated,
            "bos_token_id": bos,
            "eos_token_id": [i for i in dict.fromkeys((eos, eot)) if i is not None],
            "pad_token_id": pad,
        }

    def _unpermuted(self, name: str, values: np.ndarray) -> np.ndarray:
        """Rows of query and key heads from llama.cpp's pairs (2i, 2i + 1) to (i, i + h/2).

        Source: `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py, whose inverse this is.
        """
        if not name.endswith(self.family.gguf.permuted):
            return values
        heads = self._architecture("attention.head_count")
        if ".k_proj." in name:
            heads = self._architecture("attention.head_count_kv", heads)
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])  # (heads, h/2, 2, ...)
        return pairs.swapaxes(1, 2).reshape(values.shape)


def by_head(family: Family) -> tuple[str, ...]:
    """Ends of the names of tensors that the checkpoint has head by head, and GGUF has not."""
    weights = (weight for weight in family.weights if weight.by_head)
    return tuple(weight.names[0].removeprefix("layers.{i}") for weight in weights)


def tensor_names(family: Family, num_layers: int) -> dict[str, str]:
    """Tensors by the names that Hugging Face gives them -> their names in a GGUF file."""
    names = gguf.get_tensor_name_map(_ARCHITECTURES[family.gguf.architecture], num_layers)
    found = {}
    for weight in family.weights:
        for i in range(num_layers if "{i}" in weight.variable else 1):
            for name in weight.names:
                name = name.format(i=i)
                is_head = weight.variable == "embedding/head"
                full = name if is_head else family.prefix + name
                found[full] = names.get_name(full, (".weight", ".bias"))
    return found


def _quotient(a, b) -> int | None:
    """a // b where both are positive numbers: what is not is refused where it is read."""
    known = all(isinstance(x, int) and x > 0 for x in (a, b))
    return a // b if known else None
