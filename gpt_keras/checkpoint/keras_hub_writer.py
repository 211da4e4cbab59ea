"""Presets of KerasHub out, which `keras_hub.models.CausalLM.from_preset` loads."""

import os

import h5py
import numpy as np

from gpt_keras.checkpoint import directory, keras_hub, keras_hub_tokenizer, weights
from gpt_keras.checkpoint.keras_hub import Layout

TASK, ASSETS = "task.json", "assets"
_NAMES = {
    keras_hub.CONFIG, keras_hub.METADATA, keras_hub.WEIGHTS, keras_hub_tokenizer.CONFIG, TASK,
    keras_hub_tokenizer.PREPROCESSOR, ASSETS,
}  # fmt: skip
_PADDED = 1024  # tokens; what KerasHub fills texts up to where nothing is said


def save(model, path: str, dtype=None) -> None:
    """Writes a preset beside `path` and renames it once it is whole.

    Args, errors: see `tasks.CausalLM.save_keras_hub`.
    """
    path = os.path.realpath(path)
    directory.check_replaceable(path, _NAMES)
    dtype = directory.checked_dtype(dtype or model.weights[0].dtype)
    layout, config = keras_hub.from_config(model.config)
    backbone = _object(layout, "Backbone", config, dtype.name)
    with directory.whole(path) as preset:
        preprocessor = None
        if model.tokenizer is not None:
            kind = f"{layout.name}Tokenizer"
            options = keras_hub_tokenizer.write(preset, model.tokenizer, kind)
            options |= {"config_file": keras_hub_tokenizer.CONFIG}
            tokenizer = _object(layout, "Tokenizer", options, "int32")
            options = {
                "tokenizer": tokenizer,
                "config_file": keras_hub_tokenizer.PREPROCESSOR,
                "sequence_length": min(_PADDED, model.config.max_position_embeddings),
                **keras_hub_tokenizer.around(model.tokenizer),
            }
            preprocessor = _object(layout, "CausalLMPreprocessor", options, "float32")
            directory.write_json(os.path.join(preset, keras_hub_tokenizer.CONFIG), tokenizer)
            directory.write_json(
                os.path.join(preset, keras_hub_tokenizer.PREPROCESSOR), preprocessor
            )
        task = {"backbone": backbone, "preprocessor": preprocessor}
        directory.write_json(os.path.join(preset, TASK), _object(layout, "CausalLM", task))
        directory.write_json(os.path.join(preset, keras_hub.CONFIG), backbone)
        metadata = {
            "parameter_count": sum(weight.shape.num_elements() for weight in model.weights),
            "tasks": ["CausalLM"],
            keras_hub.CONTEXT: model.config.max_position_embeddings,
        }
        directory.write_json(os.path.join(preset, keras_hub.METADATA), metadata)
        _write_weights(model, layout, os.path.join(preset, keras_hub.WEIGHTS), dtype)


def _object(layout: Layout, kind: str, config: dict, dtype: str | None = None) -> dict:
    """An object as Keras writes it down."""
    folder, name = layout.name.lower(), f"{layout.name}{kind}"
    module = {"CausalLMPreprocessor": "causal_lm_preprocessor", "CausalLM": "causal_lm"}
    if dtype:
        policy = {"module": "keras", "class_name": "DTypePolicy", "registered_name": None}
        config = {"trainable": True, "dtype": {**policy, "config": {"name": dtype}}, **config}
    return {
        "module": f"keras_hub.src.models.{folder}.{folder}_{module.get(kind, kind.lower())}",
        "class_name": name,
        "config": {"name": f"{folder}_{module.get(kind, kind.lower())}", **config},
        "registered_name": f"keras_hub>{name}",
    }


def _write_weights(model, layout: Layout, path: str, dtype: np.dtype) -> None:
    """The arrays, one at a time, with heads apart as KerasHub has them."""
    config = model.config
    with h5py.File(path, "w") as file:
        for name, values in directory.cast(weights.tensors(model, layout.family), dtype):
            if "/_self_attention_layer/" in name:
                values = _heads_apart(name, values, config.head_dim)
            name = name.replace(f"layers/{layout.block}_0/", f"layers/{layout.block}/")
            array = file.create_dataset(name, data=values)
            if dtype.name == "bfloat16":
                array.attrs["dtype"] = dtype.name


def _heads_apart(name: str, values: np.ndarray, head_dim: int) -> np.ndarray:
    """Inverse of `keras_hub.matrix_shape`."""
    if "output_dense" not in name:
        return values.reshape((*values.shape[:-1], -1, head_dim))  # (D, H, h) or (H, h)
    return values.reshape((-1, head_dim, values.shape[1])) if values.ndim == 2 else values
