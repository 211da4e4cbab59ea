"""Presets of KerasHub: configuration, weights and tokenizer of a directory that it wrote.

Nothing of what they name is made: classes are names to look up here, and weights arrays of HDF5.
Layout: https://github.com/keras-team/keras-hub/blob/master/keras_hub/src/utils/preset_utils.py
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from gpt_keras.checkpoint import hf_config, keras_hub_tokenizer
from gpt_keras.checkpoint.families import FAMILIES, Family, Weight
from gpt_keras.checkpoint.families.family import gate_up_widths, qkv_widths
from gpt_keras.checkpoint.fields import Fields
from gpt_keras.config import GPTConfig

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
INDEX = "model.weights.json"
CONTEXT = "max_position_embeddings"  # in metadata.json, where KerasHub's own configuration has none
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_EMBEDDING = "layers/reversible_embedding/vars/"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How KerasHub keeps a family.

    Attributes:
      model_type: the family.
      name: begins the names of its classes.
      keys: key of Hugging Face's config.json -> KerasHub's key, and the type.
      fixed: entries of Hugging Face's config.json that are the same for all of its models.
      block: what the first block's name is; the others have a number behind it.
      weights: the variables and their arrays.
    """

    model_type: str
    name: str
    keys: Mapping[str, tuple[str, type]]
    fixed: Mapping[str, Any]
    block: str
    weights: tuple[Weight, ...]

    @property
    def family(self) -> Family:
        """The family, with the names that weights have in a preset."""
        return dataclasses.replace(
            FAMILIES[self.model_type], prefix="", weights=self.weights, ignored=()
        )


def _dense(name, *parts, biased, **options):
    """Weights of a projection that is stored as these layers."""
    kinds = {"kernel": 0, "bias": 1} if biased else {"kernel": 0}
    for kind, number in kinds.items():
        names = tuple(f"layers/{part}/vars/{number}" for part in parts)
        yield Weight(f"block_{{i}}/{name}/{kind}", names, transposed=False, **options)


def _norm(name, layer, biased):
    for kind, number in {"scale": 0, "bias": 1}.items() if biased else [("scale", 0)]:
        yield Weight(f"{name}/{kind}", (f"layers/{layer}/vars/{number}",))


def _attention(block, prefix, biased):
    layer = f"{block}_{{i}}/_self_attention_layer/{prefix}"
    parts = (f"{layer}{kind}_dense" for kind in ("query", "key", "value"))
    yield from _dense("attention/qkv", *parts, biased=biased, widths=qkv_widths)
    yield from _dense("attention/out", f"{layer}output_dense", biased=biased)


# https://github.com/keras-team/keras-hub/blob/master/keras_hub/src/models/gpt2/gpt2_backbone.py
_BLOCK = "transformer_decoder"
GPT2 = Layout(
    model_type="gpt2",
    name="GPT2",
    keys={
        "vocab_size": ("vocabulary_size", int),
        "n_layer": ("num_layers", int),
        "n_head": ("num_heads", int),
        "n_embd": ("hidden_dim", int),
        "n_inner": ("intermediate_dim", int),
        "n_positions": ("max_sequence_length", int),
        "resid_pdrop": ("dropout", float),
    },
    fixed={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    block=_BLOCK,
    weights=(
        Weight("embedding/table", (f"{_EMBEDDING}0",)),
        Weight("embedding/positions", ("layers/position_embedding/vars/0",), transposed=False),
        *_norm("block_{i}/attention_norm", f"{_BLOCK}_{{i}}/_self_attention_layer_norm", True),
        *_attention(_BLOCK, "", biased=True),
        *_norm("block_{i}/feed_forward_norm", f"{_BLOCK}_{{i}}/_feedforward_layer_norm", True),
        *_dense("feed_forward/up", f"{_BLOCK}_{{i}}/_feedforward_intermediate_dense", biased=True),
        *_dense("feed_forward/down", f"{_BLOCK}_{{i}}/_feedforward_output_dense", biased=True),
        *_norm("final_norm", "layer_normalization", True),
    ),
)

# https://github.com/keras-team/keras-hub/blob/master/keras_hub/src/models/llama/llama_backbone.py
_BLOCK = "llama_transformer_decoder"
LLAMA = Layout(
    model_type="llama",
    name="Llama",
    keys={
        "vocab_size": ("vocabulary_size", int),
        "num_hidden_layers": ("num_layers", int),
        "num_attention_heads": ("num_query_heads", int),
        "num_key_value_heads": ("num_key_value_heads", int),
        "hidden_size": ("hidden_dim", int),
        "intermediate_size": ("intermediate_dim", int),
        "rms_norm_eps": ("layer_norm_epsilon", float),
        "rope_theta": ("rope_max_wavelength", float),
    },
    fixed={},
    block=_BLOCK,
    weights=(
        Weight("embedding/table", (f"{_EMBEDDING}0",)),
        Weight("embedding/head", (f"{_EMBEDDING}1",), transposed=False),
        *_norm("block_{i}/attention_norm", f"{_BLOCK}_{{i}}/_self_attention_layernorm", False),
        *_attention(_BLOCK, "_", biased=False),
        *_norm("block_{i}/feed_forward_norm", f"{_BLOCK}_{{i}}/_feedforward_layernorm", False),
        *_dense(
            "feed_forward/up",
            f"{_BLOCK}_{{i}}/_feedforward_gate_dense",
            f"{_BLOCK}_{{i}}/_feedforward_intermediate_dense",
            biased=False,
            widths=gate_up_widths,
        ),
        *_dense("feed_forward/down", f"{_BLOCK}_{{i}}/_feedforward_output_dense", biased=False),
        *_norm("final_norm", "llama_layer_norm", False),
    ),
)
LAYOUTS = {f"{layout.name}Backbone": layout for layout in (GPT2, LLAMA)}
# Keys of a Llama that speak of rotary positions -> those of Hugging Face's `llama3` scaling.
_SCALE = "rope_position_scaling_factor"  # which 0.32 does not apply
LLAMA3_SCALING = {
    "factor": ("rope_frequency_adjustment_factor", float),
    "low_freq_factor": ("rope_low_freq_factor", float),
    "high_freq_factor": ("rope_high_freq_factor", float),
    "original_max_position_embeddings": ("rope_pretraining_sequence_length", int),
}


def is_preset(path: str) -> bool:
    """Whether a directory is a preset of KerasHub: its config.json names a class of Keras."""
    config = os.path.join(path, CONFIG)
    return os.path.isfile(config) and "registered_name" in Fields.read(config).values


class Preset:
    """A preset of a family that is read, for `checkpoint`. A `weights.TensorSource`.

    Arrays have the names that they have in the file, but the first block's too has a number. They
    have two dimensions where KerasHub keeps heads apart.

    Raises:
      ValueError: a backbone that is not read, or a malformed config.json; the message names it.
    """

    def __init__(self, path: str):
        self.where = path
        fields = Fields.read(os.path.join(path, CONFIG))
        name = fields.get("registered_name", str).split(">")[-1]
        if name not in LAYOUTS:
            raise fields.error("registered_name", f"unsupported; supported are {_known()}")
        self.layout = LAYOUTS[name]
        self._config = Fields(fields.get("config", dict), f"{fields.where}: config")

    @property
    def family(self) -> Family:
        return self.layout.family

    def fields(self) -> Fields:
        """What the config.json of this model in Hugging Face layout would hold."""
        metadata = os.path.join(self.where, METADATA)
        context = Fields.read(metadata).get(CONTEXT, int, 0) if os.path.isfile(metadata) else 0
        values = as_hugging_face(self.layout, self._config, context)
        bos, eos = keras_hub_tokenizer.token_ids(self.where)
        ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None}
        return Fields({"tie_word_embeddings": self._is_tied(), **values, **ids}, self._config.where)

    def _is_tied(self) -> bool:
        tied = self._config.get("tie_word_embeddings", bool, False)
        return tied or (self.has_weights() and f"{_EMBEDDING}1" not in self._arrays)

    def tokenizer(self):
        """Its `tokenizers.Tokenizer`, or None if it has none."""
        return keras_hub_tokenizer.read(self.where)

    def has_weights(self) -> bool:
        return any(os.path.isfile(os.path.join(self.where, name)) for name in (WEIGHTS, INDEX))

    def stored_dtype(self) -> str:
        policy = self._config.values.get("dtype")
        if isinstance(policy, dict):
            policy = (policy.get("config") or {}).get("name")
        return policy if policy in _FLOATS else "float32"

    @functools.cached_property
    def _arrays(self) -> dict[str, h5py.Dataset]:
        """Arrays that are read when they are asked for, by their names."""
        arrays, single = {}, os.path.join(self.where, WEIGHTS)
        index = os.path.join(self.where, INDEX)
        if os.path.isfile(single):
            paths = [single]
        elif os.path.isfile(index):
            named = Fields.read(index).get("weight_map", dict).values()
            names = {n for x in named for n in (x if isinstance(x, list) else [x])}
            paths = [os.path.join(self.where, os.path.basename(str(name))) for name in names]
        else:
            raise ValueError(f"{self.where}: holds no {WEIGHTS} and no {INDEX}")
        for path in sorted(paths):
            if not os.path.isfile(path):
                raise ValueError(f"{path}: missing; {index} names it as a shard")
            try:
                file = h5py.File(path)
                file.visititems(functools.partial(self._add, arrays))
            except (OSError, RuntimeError, KeyError) as error:
                raise ValueError(f"{path}: truncated or damaged HDF5 file: {error}") from None
        return arrays

    def _add(self, arrays, name, item):
        if isinstance(item, h5py.Dataset):
            arrays[
                name.replace(f"layers/{self.layout.block}/", f"layers/{self.layout.block}_0/")
            ] = item

    def names(self) -> set[str]:
        return set(self._arrays)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return matrix_shape(name, self._arrays[name].shape) if name in self._arrays else None

    def dtype(self, name: str) -> str:
        array = self._arrays[name]
        return str(array.attrs.get("dtype", array.dtype))

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        array, dtype = self._arrays[name], self.dtype(name)
        if dtype not in _FLOATS:
            raise ValueError(
                f"{array.file.filename}: {name} has dtype {dtype}; supported are "
                f"{', '.join(_FLOATS)}: save the preset as one of these"
            )
        try:
            values = np.array(array)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{array.file.filename}: {name}: truncated or damaged HDF5 file: {error}"
            ) from None
        if dtype == "bfloat16" and values.dtype != ml_dtypes.bfloat16:
            values = values.view(ml_dtypes.bfloat16)
        yield values.reshape(matrix_shape(name, values.shape))


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """An array's shape with the heads together: (D, H, h), (H, h, D) or (H, h) -> (D, H h) ..."""
    if "/_self_attention_layer/" not in name:
        return shape
    if len(shape) == 3 and "output_dense" in name:
        return shape[0] * shape[1], shape[2]
    if len(shape) == 3:
        return shape[0], shape[1] * shape[2]
    return (int(np.prod(shape)),) if "output_dense" not in name else shape


def as_hugging_face(layout: Layout, config: Fields, context: int = 0) -> dict[str, Any]:
    """Entries of config.json in Hugging Face layout, token ids and ties aside.

    Args:
      config: the configuration of a backbone.
      context: longest context; 0 for the family's default, where `config` does not say it.
    """
    values = {"model_type": layout.model_type, **layout.fixed}
    for name, (key, kind) in layout.keys.items():
        values[name] = config.get(key, kind)
    if layout is GPT2:
        return {**values, "embd_pdrop": values["resid_pdrop"]}
    if config.get(_SCALE, float, 1.0) != 1.0:
        raise config.error(
            _SCALE,
            "unsupported: versions of KerasHub differ in what they make of it; supported is 1.0",
        )
    scaling = {name: config.get(key, kind, None) for name, (key, kind) in LLAMA3_SCALING.items()}
    if any(value is not None for value in scaling.values()):
        values["rope_scaling"] = {"rope_type": "llama3", **scaling}
    return {**values, **({CONTEXT: context} if context else {})}


def from_config(config: GPTConfig) -> tuple[Layout, dict[str, Any]]:
    """The layout that a model is written in, and the configuration of its backbone.

    Raises:
      ValueError: KerasHub cannot express the model; names the field.
    """
    layout = next((x for x in LAYOUTS.values() if x.model_type == config.model_type), None)
    if layout is None:
        raise ValueError(
            f"model_type={config.model_type!r} is not written for KerasHub; these are: "
            f"{', '.join(x.model_type for x in LAYOUTS.values())}; save_pretrained writes all"
        )
    ours = hf_config.to_dict(config, "CausalLM")
    values = {key: ours[name] for name, (key, _) in layout.keys.items()}
    if layout is LLAMA:
        values |= _rotary(config)
        values |= {"dropout": config.dropout, "tie_word_embeddings": config.tie_embeddings}
    fields = Fields(values, "config")
    read = {"tie_word_embeddings": config.tie_embeddings}
    read |= as_hugging_face(layout, fields, config.max_position_embeddings)
    kept = {k: ours[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    back = hf_config.from_fields(Fields({**read, **kept}, "config"))
    hf_config.check_same(config, back, f"a KerasHub {layout.name}", ("initializer_range",))
    return layout, values


def _rotary(config: GPTConfig) -> dict[str, Any]:
    kind, theta = config.rotary.kind, config.rotary.theta
    if kind not in ("default", "llama3"):
        raise ValueError(
            f"rope_type={kind!r} is not written for KerasHub, whose Llama has llama3 alone; "
            "save_pretrained writes it"
        )
    scaling = dict(config.rotary.scaling)
    values = {key: scaling.get(name) for name, (key, _) in LLAMA3_SCALING.items()}
    return {**values, "rope_max_wavelength": int(theta) if theta == int(theta) else theta}


def _known() -> str:
    return ", ".join(f"keras_hub>{name}" for name in LAYOUTS)
