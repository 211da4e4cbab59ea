"""GGUF files out: a language model and its tokenizer in one file, for llama.cpp and its kin.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is written is what
convert_hf_to_gguf.py of llama.cpp writes of the same model.
"""

import math
import os

import gguf
import numpy as np

from gpt_keras.checkpoint import gguf_tokenizer, hf_config, weights
from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.families.family import heads_apart
from gpt_keras.checkpoint.gguf_file import by_head, tensor_names

TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_BLOCK = 32  # numbers that share a scale in Q8_0
_ADD = {
    bool: gguf.GGUFWriter.add_bool,
    int: gguf.GGUFWriter.add_uint32,
    float: gguf.GGUFWriter.add_float32,
}
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "Q8_0": np.dtype(np.uint8)}


def save(model, path: str, file_type: str) -> None:
    """Writes a GGUF file beside `path` and renames it once it is whole.

    Args, errors: see `tasks.CausalLM.save_gguf`.
    """
    if file_type not in TYPES:
        raise ValueError(f"type={file_type!r}: expected one of {', '.join(TYPES)}")
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a directory; give a file to write the model to")
    family = FAMILIES[model.config.model_type]
    if family.gguf is None:
        known = ", ".join(name for name, other in FAMILIES.items() if other.gguf)
        raise ValueError(f"{family.model_type} is not written as GGUF; these are: {known}")
    writer = gguf.GGUFWriter(None, family.gguf.architecture)
    writer.add_file_type(TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_name(os.path.basename(path).removesuffix(".gguf"))
    _add_config(writer, model.config, family)
    if model.tokenizer is not None:
        gguf_tokenizer.add(writer, model.tokenizer, model.config)
    partial = f"{path}.partial"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        _write(writer, model, family, file_type, partial)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _add_config(writer: gguf.GGUFWriter, config, family: Family) -> None:
    values = hf_config.to_dict(config, "CausalLM")
    for name, key in family.gguf.keys.items():
        value = values.get(name)
        if value is not None:
            add = _ADD[type(value)]
            add(writer, f"{family.gguf.architecture}.{key}", value)
    eos, eot = (*config.eos_token_ids, None, None)[:2]
    for name, token_id in {
        "bos": config.bos_token_id, "eos": eos, "eot": eot, "padding": config.pad_token_id,
    }.items():  # fmt: skip
        if token_id is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    if config.rotary is None:
        return
    scaling = dict(config.rotary.scaling)
    kind = scaling.get("rope_type", "none")
    if kind not in ("none", "linear"):
        raise ValueError(
            f"rope_type={kind!r} is not written as GGUF; scalings that are: none, linear"
        )
    writer.add_rope_dimension_count(int(config.head_dim * config.rotary.fraction))
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])


def _write(writer: gguf.GGUFWriter, model, family: Family, file_type: str, path: str) -> None:
    """The file, tensor after tensor: in memory is one of them, beside the model."""
    names = tensor_names(family, model.config.num_layers)
    for name, tensor in weights.tensors(model):
        shape = _stored(family, model.config, name, tensor).shape
        kind = _kind(name, shape, file_type)
        dtype = _DTYPES[kind.name]
        if kind.name == "Q8_0":
            shape = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(names[name], shape, dtype, math.prod(shape) * dtype.itemsize, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in weights.tensors(model):
        values = _stored(family, model.config, name, tensor)
        kind = _kind(name, values.shape, file_type)
        largest = np.abs(values).max()
        if kind.name == "F16" and largest > np.finfo(np.float16).max:
            raise ValueError(
                f"type={file_type}: tensor {name} has the value {largest:g}, F16 holds 65504 at "
                "most; take F32"
            )
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(values), kind))
    writer.close()


def _kind(name: str, shape: tuple[int, ...], file_type: str) -> gguf.GGMLQuantizationType:
    """Vectors and tables of positions keep their precision, as llama.cpp expects."""
    if len(shape) == 1 or name.endswith("wpe.weight"):
        file_type = "F32"
    elif file_type == "Q8_0" and shape[-1] % _BLOCK:
        file_type = "F16"
    return gguf.GGMLQuantizationType[file_type]


def _stored(family: Family, config, name: str, values: np.ndarray) -> np.ndarray:
    """A tensor as GGUF has it, of the family's own; the inverse of `GGUFFile.read`."""
    values = values.astype(np.float32, copy=False)
    if name.endswith(family.gguf.transposed):
        return values.T
    offset = family.fixed.get("norm_offset")
    if offset and name.endswith("norm.weight"):
        return values + np.float32(offset)
    if ends := by_head(family):
        return heads_apart(values, config.num_heads) if name.endswith(ends) else values
    if not name.endswith(family.gguf.permuted):
        return values
    heads = config.num_kv_heads if ".k_proj." in name else config.num_heads
    halves = values.reshape(heads, 2, -1, *values.shape[1:])  # (heads, 2, h/2, ...)
    return halves.swapaxes(1, 2).reshape(values.shape)
