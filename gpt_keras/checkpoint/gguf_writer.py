"""GGUF files out: a language model and its tokenizer in one file, for llama.cpp and its kin.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is written is what
convert_hf_to_gguf.py of llama.cpp writes of the same model.
"""

import math
import os
from collections.abc import Iterator

import gguf
import numpy as np

from gpt_keras.checkpoint import gguf_config, gguf_tokenizer, weights
from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.families.family import heads_apart
from gpt_keras.checkpoint.gguf_file import by_head, tensor_names

TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_PRECISE = ("position_embd.weight",)
_BLOCK = 32  # numbers that share a scale in Q8_0
_ADD = {
    bool: gguf.GGUFWriter.add_bool,
    int: gguf.GGUFWriter.add_uint32,
    float: gguf.GGUFWriter.add_float32,
    str: gguf.GGUFWriter.add_string,
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
    found, factors = gguf_config.metadata(model.config, family)
    names = tensor_names(family, model.config.num_layers, model.config.num_experts)
    names = {name: names[name] for name in weights.names(model)}
    gguf_config.check(model.config, family, found, factors, names)
    writer = gguf.GGUFWriter(None, family.gguf.architecture)
    writer.add_file_type(TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_name(os.path.basename(path).removesuffix(".gguf"))
    for key, value in found.items():
        _ADD[type(value)](writer, key, value)
    if model.tokenizer is not None:
        gguf_tokenizer.add(writer, model.tokenizer, model.config)
    partial = f"{path}.partial"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        _write(writer, lambda: _tensors(model, family, names, factors), file_type, partial)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _tensors(model, family: Family, names, factors) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors by GGUF's names, one at a time; experts of a layer are one tensor."""
    yield from factors.items()
    experts = {}  # name -> those of the experts so far
    for name, tensor in weights.tensors(model):
        theirs, expert = names[name]
        values = _stored(family, model.config, name, tensor)
        if expert is None:
            yield theirs, values
            continue
        experts.setdefault(theirs, []).append(values)
        if len(experts[theirs]) == model.config.num_experts:
            yield theirs, np.stack(experts.pop(theirs))


def _write(writer: gguf.GGUFWriter, tensors, file_type: str, path: str) -> None:
    """The file, tensor after tensor: in memory is one of them, beside the model."""
    for name, values in tensors():
        kind = _kind(name, values.shape, file_type)
        dtype, shape = _DTYPES[kind.name], values.shape
        if kind.name == "Q8_0":
            shape = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(name, shape, dtype, math.prod(shape) * dtype.itemsize, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in tensors():
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
    """Vectors, routers and tables of positions keep their precision, as llama.cpp expects."""
    if len(shape) == 1 or name in _PRECISE or name.endswith(".ffn_gate_inp.weight"):
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
