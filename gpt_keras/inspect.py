"""Tells what a model is, without reading its weights: family, sizes, tokenizer, signatures, memory.

    python -m gpt_keras.inspect PATH [--json]

PATH: a model directory in Hugging Face layout, a .gguf file, a preset of KerasHub,
ORG/NAME[@REVISION] of the Hub, or a SavedModel: the folder of a version, or of versions, whose
newest is taken.

Exit status: 0 told, 1 failed, 2 misused.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import flags as absl_flags
from tensorflow.core.protobuf import saved_model_pb2

from gpt_keras import chat, checkpoint, program, tasks

SAVED_MODEL = "saved_model.pb"
FLOAT = 4  # bytes
TRAINED = 4  # weights, gradients and AdamW's two averages
MB = 1e6


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """What there is to know of a model: name -> a text, a number, or a dict of such.

    Raises:
      ValueError: no model that this package can read.
    """
    saved_model = _find_saved_model(os.fspath(path))
    return _saved_model(saved_model) if saved_model else _checkpoint(checkpoint.locate(path))


def _checkpoint(path: str) -> dict[str, Any]:
    config, task = checkpoint.read_config(path), checkpoint.read_task(path)
    sizes = checkpoint.read_sizes(path)
    parameters = sizes.total()
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * FLOAT
    found = {
        "format": checkpoint.format_of(path),
        "family": config.model_type,
        "task": tasks.of(path).NAME,
        "parameters": parameters,
        "stored as": dict(sizes),
        "context": config.max_position_embeddings,
        "layers": config.num_layers,
        "width": config.hidden_size,
        "heads": config.num_heads,
        "key and value heads": config.num_kv_heads,
        "vocabulary": config.vocab_size,
        **_tokenizer(path),
    }
    memory = {
        "weights, float32": parameters * FLOAT,
        "to train, AdamW, without activations": parameters * FLOAT * TRAINED,
    }
    if config.id2label:
        found["labels"] = ", ".join(config.id2label)
    if task == "CausalLM":
        memory["to serve, for each token of context"] = token
    return {**found, "memory": memory}


def _tokenizer(path: str) -> dict[str, Any]:
    try:
        tokenizer = checkpoint.read_tokenizer(path)
    except ValueError as error:
        return {"tokenizer": f"unsupported: {error}"}
    if tokenizer is None:
        return {"tokenizer": "none"}
    template = "none"
    if tokenizer.chat_template is not None:
        template = "compiles into the graph"
        try:
            refuses = chat.compile_for(tokenizer).refuses
            template += refuses and f", in part: {refuses}"
        except ValueError as error:
            template = f"stays outside of the graph: {error}"
    kind = f"{type(tokenizer).__name__}, {tokenizer.vocab_size} tokens"
    single = tokenizer.post_processor.single
    for where, ids in (("before", single.prefix.ids), ("after", single.suffix.ids)):
        if ids:
            kind += f", {' '.join(map(tokenizer.id_to_token, ids))} {where} a text"
    return {"tokenizer": kind, "chat template": template}


def _find_saved_model(path: str) -> str | None:
    """The folder that holds the SavedModel's file: `path`, or its newest version."""
    if not os.path.isdir(path):
        return None
    if os.path.isfile(os.path.join(path, SAVED_MODEL)):
        return path
    versions = [n for n in os.listdir(path) if n.isdecimal()]
    for version in sorted(versions, key=int, reverse=True):
        if os.path.isfile(os.path.join(path, version, SAVED_MODEL)):
            return os.path.join(path, version)
    return None


def _saved_model(path: str) -> dict[str, Any]:
    saved_model = saved_model_pb2.SavedModel()
    try:
        with open(os.path.join(path, SAVED_MODEL), "rb") as file:
            saved_model.ParseFromString(file.read())
        (meta_graph,) = saved_model.meta_graphs
        variables = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
    except Exception as error:  # protobuf's and TensorFlow's have no base of their own
        raise ValueError(f"{path}: damaged SavedModel: {str(error).splitlines()[0]}") from None
    sizes, size = Counter(), 0
    shapes, dtypes = (
        variables.get_variable_to_shape_map(),
        variables.get_variable_to_dtype_map(),
    )
    for name, shape in shapes.items():
        if dtypes[name] != tf.string:  # of the object graph
            count = tf.TensorShape(shape).num_elements()
            sizes[dtypes[name].name] += count
            size += count * dtypes[name].size
    return {
        "format": "SavedModel",
        "path": path,
        "TensorFlow": meta_graph.meta_info_def.tensorflow_version,
        "variables": sizes.total(),
        "stored as": dict(sizes),
        "signatures": {
            name: _signature(signature)
            for name, signature in sorted(meta_graph.signature_def.items())
            if signature.method_name  # TensorFlow's own entry for initialisation has none
        },
        "memory": {"variables": size},
    }


def _signature(signature) -> str:
    def names(tensors):
        return ", ".join(sorted(tensors))

    method = signature.method_name.removeprefix("tensorflow/serving/")
    return f"{method}({names(signature.inputs)}) -> {names(signature.outputs)}"


def table(found: dict[str, Any]) -> str:
    """The findings of `inspect`, for people."""
    lines, width = [], max(map(len, found)) + 2
    for name, value in found.items():
        values = value if isinstance(value, dict) else {"": value}
        for i, (key, entry) in enumerate(values.items()):
            if name == "memory":
                entry = f"{entry / MB:,.1f} MB" if entry >= MB else f"{entry:,} bytes"
            elif isinstance(entry, int):
                entry = f"{entry:,}"
            label = name if i == 0 else ""
            lines.append(f"{label:{width}}{key + ': ' if key else ''}{entry}")
    return "\n".join(lines)


def define_flags(flags: absl_flags.FlagValues) -> None:
    """The program's flags."""
    absl_flags.DEFINE_boolean("json", False, "print JSON", flag_values=flags)


def main(argv: Sequence[str]) -> int:
    """Runs the program with these arguments, program name first, and returns its exit status."""

    def action(flags, path):
        found = inspect(path)
        print(json.dumps(found, indent=2, ensure_ascii=False) if flags.json else table(found))

    return program.run(argv, __doc__, define_flags, action, positional=["PATH"])


if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
