"""config.json to GPTConfig and back, by the tables of `families`."""

import dataclasses
from typing import Any

from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.fields import Fields
from gpt_keras.config import GPTConfig, RotaryConfig

SEQUENCE_CLASSIFICATION = "ForSequenceClassification"
ROPE_SCALINGS = {  # kind -> the numbers it needs
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip


def family_of(fields: Fields) -> Family:
    """The family that a config.json says it is of.

    Raises:
      ValueError: `model_type` or `architectures` is not one we compute.
    """
    family = FAMILIES.get(fields.get("model_type", str))
    if family is None:
        raise fields.error("model_type", f"unsupported; supported are {', '.join(FAMILIES)}")
    architectures = fields.values.get("architectures") or []
    supported = list(family.architectures.values())
    if not isinstance(architectures, list) or any(a not in supported for a in architectures):
        raise fields.error("architectures", f"unsupported; supported are {', '.join(supported)}")
    return family


def is_classifier(fields: Fields) -> bool:
    """Whether the checkpoint has a classification head."""
    return any(
        a.endswith(SEQUENCE_CLASSIFICATION) for a in fields.values.get("architectures") or ()
    )


def from_fields(fields: Fields) -> GPTConfig:
    """The GPTConfig that a config.json describes.

    Raises:
      ValueError: something is missing, malformed or unsupported; names file, key and value.
    """
    family = family_of(fields)
    for key, values in family.supported.items():
        if fields.values.get(key) not in (None, *values):
            raise fields.error(key, f"unsupported; supported is {values[0]!r}")
    if fields.values.get("quantization_config") is not None:
        raise ValueError(
            f"{fields.where}: quantization_config: quantized checkpoints are not read; "
            "convert to float32, float16 or bfloat16 first"
        )
    found = dict(family.fixed)
    for field, key in family.keys.items():
        name = next((n for n in key.names if fields.values.get(n) is not None), key.names[0])
        found[field] = fields.get(name, key.kind, key.default)
    found["intermediate_size"] = found["intermediate_size"] or 4 * found["hidden_size"]
    found["activation"] = _activation(family, fields)
    if family.rotary:
        found["rotary"] = _rotary(fields, found["max_position_embeddings"])
    if is_classifier(fields):
        found["id2label"] = _labels(fields)
    bos, eos, pad = family.token_ids
    try:
        return GPTConfig(
            **found,
            bos_token_id=fields.token_id("bos_token_id", bos),
            eos_token_ids=fields.token_ids("eos_token_id", (eos,)),
            pad_token_id=fields.token_id("pad_token_id", pad),
            model_type=family.model_type,
        )
    except ValueError as error:
        prefix = "" if str(error).startswith(fields.where) else f"{fields.where}: "
        raise ValueError(f"{prefix}{error}") from None


def to_dict(config: GPTConfig, task: str) -> dict[str, Any]:
    """config.json of a model.

    Args:
      config: its architecture.
      task: name of the task's class, such as "CausalLM".

    Raises:
      ValueError: the family cannot express the configuration; names the field.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"model_type={config.model_type!r} cannot be written; supported are "
            f"{', '.join(FAMILIES)}"
        )
    if task not in family.architectures:
        raise ValueError(f"Hugging Face has no {family.model_type} class for {task}: not written")
    values = {"architectures": [family.architectures[task]], "model_type": family.model_type}
    for field, key in family.keys.items():
        values.update(dict.fromkeys(key.names, getattr(config, field)))
    values.update(family.written)
    values[family.activation_key] = family.activations[config.activation][0]
    if family.rotary and config.rotary:
        # The form that both transformers 4 and 5 read; 5 writes it as `rope_parameters`.
        values["rope_theta"] = config.rotary.theta
        values["rope_scaling"] = dict(config.rotary.scaling) or None
    eos = config.eos_token_ids
    values["bos_token_id"] = config.bos_token_id
    values["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos) or None
    values["pad_token_id"] = config.pad_token_id
    if family.architectures[task].endswith(SEQUENCE_CLASSIFICATION):
        labels = config.id2label
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
        values["label2id"] = {label: i for i, label in enumerate(labels)}
        values["problem_type"] = "single_label_classification"
    _check_expressible(config, values)
    return values


def _check_expressible(config: GPTConfig, values: dict[str, Any]) -> None:
    """Refuses what would be read back as another model."""
    back = from_fields(Fields(values, "config.json"))
    for field in dataclasses.fields(config):
        name = field.name
        # Dropout acts in training alone; labels are written for a classifier alone.
        if name in ("dropout", "id2label") or getattr(back, name) == getattr(config, name):
            continue
        raise ValueError(
            f"{name}={getattr(config, name)!r} cannot be written as model_type="
            f"{config.model_type!r}: it would be read back as {name}={getattr(back, name)!r}"
        )


def _activation(family: Family, fields: Fields) -> str:
    known = {name: ours for ours, names in family.activations.items() for name in names}
    default = family.activations["silu" if family.rotary else "gelu_tanh"][0]
    name = fields.get(family.activation_key, str, default)
    if name not in known:
        raise fields.error(
            family.activation_key, f"unsupported; supported are {', '.join(sorted(known))}"
        )
    return known[name]


def _rotary(fields: Fields, max_position_embeddings: int) -> RotaryConfig:
    """Rotary positions, in transformers 4's form (`rope_theta`, `rope_scaling`) or 5's."""
    new = Fields(fields.get("rope_parameters", dict, {}), fields.where)
    theta = new.get("rope_theta", float, fields.get("rope_theta", float, 10000.0))
    key = "rope_parameters" if new.values else "rope_scaling"
    scaling = Fields(fields.get(key, dict, {}), f"{fields.where}: {key}")
    kind = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    if kind == "default":
        return RotaryConfig(theta)
    if kind not in ROPE_SCALINGS or scaling.values.get("partial_rotary_factor") not in (None, 1.0):
        raise fields.error(key, f"unsupported; supported are default, {', '.join(ROPE_SCALINGS)}")
    numbers = {
        name: scaling.get(name, int, max_position_embeddings)
        if name == "original_max_position_embeddings"
        else scaling.get(name, float)
        for name in ROPE_SCALINGS[kind]
    }
    return RotaryConfig(theta, tuple(sorted({"rope_type": kind, **numbers}.items())))


def _labels(fields: Fields) -> tuple[str, ...]:
    if fields.values.get("problem_type") not in (None, "single_label_classification"):
        raise fields.error("problem_type", "unsupported; supported is single_label_classification")
    named = fields.get("id2label", dict, None)
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(fields.get("num_labels", int, 2)))
    if set(named) != {str(i) for i in range(len(named))}:
        raise fields.error("id2label", 'expected the keys "0", "1", ... without a gap')
    return tuple(str(named[str(i)]) for i in range(len(named)))
