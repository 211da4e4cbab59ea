"""config.json to GPTConfig and back, by the tables of `families`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from gpt_keras.checkpoint.families import FAMILIES, Family
from gpt_keras.checkpoint.families.family import SAME_CLASS, Key
from gpt_keras.checkpoint.fields import REQUIRED, Fields
from gpt_keras.checkpoint.own_tasks import OWN_TASKS
from gpt_keras.config import GPTConfig, RotaryConfig

MAX_LAYERS = 10_000
# What Hugging Face's classes for sequence classification do, by `problem_type`.
SINGLE, MULTI = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"
LAYER_TYPES = ("full_attention", "sliding_attention")
_ORIGINAL = "original_max_position_embeddings"
# Kind -> entry -> its type; entries of the second kind may be absent.
ROPE_SCALINGS = {
    "linear": ({"factor": float}, {}),
    "dynamic": ({"factor": float}, {}),
    "yarn": (
        {"factor": float, _ORIGINAL: int},
        {"attention_factor": float, "beta_fast": float, "beta_slow": float, "mscale": float,
         "mscale_all_dim": float, "truncate": bool},
    ),
    "longrope": (
        {"short_factor": list, "long_factor": list, _ORIGINAL: int},
        {"factor": float, "attention_factor": float},
    ),
    "llama3": (
        {"factor": float, "low_freq_factor": float, "high_freq_factor": float, _ORIGINAL: int}, {},
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
    known = {*supported, *map(_ours, OWN_TASKS)}
    if not isinstance(architectures, list) or any(a not in known for a in architectures):
        raise fields.error("architectures", f"unsupported; supported are {', '.join(supported)}")
    return family


def task_of(fields: Fields) -> str:
    """Name of the task that the checkpoint is of; what its family is for if it does not say."""
    family = family_of(fields)
    tasks = {name: task for task, name in family.architectures.items()}
    tasks |= {_ours(task): task for task in OWN_TASKS}
    task = tasks[next(iter(fields.values.get("architectures") or family.architectures.values()))]
    if task == "SequenceClassifier" and _problem_type(fields) == REGRESSION:
        return "SequenceRegressor"
    return task


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
        found[field] = _value(fields, key)
    found["intermediate_size"] = found["intermediate_size"] or 4 * found["hidden_size"]
    found["activation"] = _activation(family, fields)
    found.update(_windows(family, fields, found["num_layers"]))
    found.update(_rotary(family, fields, found))
    if _has_labels(task_of(fields)):
        found["id2label"] = _labels(fields)
    found["task_params"] = _task_params(fields)
    if task_of(fields) == "SequenceClassifier" and _problem_type(fields) == MULTI:
        params = found["task_params"].get("classification", {})
        found["task_params"] = {
            **found["task_params"], "classification": {**params, "problem_type": MULTI},
        }  # fmt: skip
    bos, eos, pad = family.token_ids
    pad = fields.token_id("pad_token_id", pad)
    if family.positions_behind_padding:
        if pad is None:
            raise fields.error("pad_token_id", "expected one: positions are counted from it")
        found["position_offset"] = pad + 1
        found["max_position_embeddings"] -= pad + 1
    try:
        return GPTConfig(
            **found,
            bos_token_id=fields.token_id("bos_token_id", bos),
            eos_token_ids=fields.token_ids("eos_token_id", () if eos is None else (eos,)),
            pad_token_id=pad,
            model_type=family.model_type,
        )
    except ValueError as error:
        prefix = "" if str(error).startswith(fields.where) else f"{fields.where}: "
        raise ValueError(f"{prefix}{error}") from None


def _has_labels(task: str) -> bool:
    """Whether config.json names the labels of a task."""
    return task in OWN_TASKS and OWN_TASKS[task].has_labels


def _ours(task: str) -> str:
    """What we call a task that Hugging Face has no class for."""
    return f"GptKerasFor{task}"


def _task_params(fields: Fields) -> dict[str, dict]:
    params = fields.get("task_specific_params", dict, None) or {}
    if not all(isinstance(values, dict) for values in params.values()):
        raise fields.error("task_specific_params", "expected an object for each task")
    return params


def to_dict(config: GPTConfig, task: str, is_ours: bool = False) -> dict[str, Any]:
    """config.json of a model.

    Args:
      config: its architecture.
      task: name of the task's class, such as "CausalLM".
      is_ours: Hugging Face's class of the task would compute something else.

    Raises:
      ValueError: the family cannot express the configuration; names the field.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"model_type={config.model_type!r} cannot be written; supported are "
            f"{', '.join(FAMILIES)}"
        )
    named = SAME_CLASS.get(task, task)
    if named not in family.architectures and task not in OWN_TASKS:
        raise ValueError(f"Hugging Face has no {family.model_type} class for {task}: not written")
    architecture = family.architectures.get(named)
    architecture = _ours(task) if is_ours or architecture is None else architecture
    values = {"architectures": [architecture], "model_type": family.model_type}
    for field, key in family.keys.items():
        value = getattr(config, field)
        value = None if value == key.null else value
        values.update(dict.fromkeys(key.names, value))
    for name in family.keys["max_position_embeddings"].names:
        values[name] += config.position_offset
    values.update(family.written)
    values[family.activation_key] = family.activations.get(config.activation, [None])[0]
    values.update(_windows_dict(family, config))
    values.update(_rotary_dict(family, config))
    eos = config.eos_token_ids
    values["bos_token_id"] = config.bos_token_id
    values["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos) or None
    values["pad_token_id"] = config.pad_token_id
    if config.task_params:
        values["task_specific_params"] = config.task_params
    if _has_labels(task):
        labels = config.id2label
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
        values["label2id"] = {label: i for i, label in enumerate(labels)}
        params = config.task_params.get("classification", {})
        if named == "SequenceClassifier":
            values["problem_type"] = (
                REGRESSION if task == "SequenceRegressor" else params.get("problem_type", SINGLE)
            )
    back = from_fields(Fields(values, "config.json"))
    check_same(config, back, f"model_type={config.model_type!r}")
    return values


def check_same(config: GPTConfig, back: GPTConfig, kind: str, free: Sequence[str] = ()) -> None:
    """Refuses what would be read back as another model.

    Args:
      config: of the model to be written.
      back: what would be read.
      kind: what it would be written as.
      free: fields that may differ.
    """
    # Dropout acts in training alone; labels are written for a classifier alone.
    free = ("dropout", "id2label", *free)
    for field in dataclasses.fields(config):
        name = field.name
        if name in free or getattr(back, name) == getattr(config, name):
            continue
        if name in ("rotary_layers", "window_layers") and _same_layers(back, config):
            continue  # a pattern that differs beyond the last layer
        raise ValueError(
            f"{name}={getattr(config, name)!r} cannot be written as "
            f"{kind}: it would be read back as {name}={getattr(back, name)!r}"
        )


def _activation(family: Family, fields: Fields) -> str:
    known = {name: ours for ours, names in family.activations.items() for name in names}
    default = family.activations[family.activation][0]
    name = fields.get(family.activation_key, str, default)
    if name not in known:
        raise fields.error(
            family.activation_key, f"unsupported; supported are {', '.join(sorted(known))}"
        )
    return known[name]


def _value(fields: Fields, key: Key) -> Any:
    name = next((n for n in key.names if fields.values.get(n) is not None), key.names[0])
    if key.null is not None and name in fields.values and fields.values[name] is None:
        return key.null
    return fields.get(name, key.kind, key.default)


def _windows(family: Family, fields: Fields, num_layers: int) -> dict[str, Any]:
    """Fields of GPTConfig that say which layers have a sliding window."""
    keys = family.windows
    if keys is None:
        if fields.values.get("sliding_window"):
            raise fields.error("sliding_window", f"{family.model_type} has none; set it to null")
        return {}
    off = keys.switch and not fields.get(keys.switch, bool, False)
    size = _value(fields, Key(("sliding_window",), int, keys.size, null=0))
    if off or not size:
        return {}
    if keys.layers is None:
        return {"sliding_window": size}
    if fields.values.get("layer_types") is None:
        layers = _layers(fields, keys.layers, num_layers)
    else:
        types = _layers(fields, lambda f, i: f.of_layer("layer_types", i, str), num_layers)
        if set(types) - set(LAYER_TYPES):
            raise fields.error(
                "layer_types", f"unsupported; supported are {', '.join(LAYER_TYPES)}"
            )
        layers = tuple(kind == LAYER_TYPES[1] for kind in types)
    if not any(layers):
        return {}
    return {"sliding_window": size, "window_layers": layers}


def _layers(fields: Fields, of_layer: Callable, num_layers: int) -> tuple[bool, ...]:
    if num_layers > MAX_LAYERS:  # no list of a damaged number's length
        raise ValueError(f"{fields.where}: {num_layers} layers: expected {MAX_LAYERS} at most")
    return tuple(of_layer(fields, i) for i in range(num_layers))


def _windows_dict(family: Family, config: GPTConfig) -> dict[str, Any]:
    keys = family.windows
    if keys is None:
        return {}
    values = {"sliding_window": config.sliding_window or None}
    if keys.switch:
        values[keys.switch] = bool(config.sliding_window)
    if keys.layers:
        kinds = [bool(config.window_of(i)) for i in range(config.num_layers)]
        values["layer_types"] = [LAYER_TYPES[kind] for kind in kinds]
    return values


def _rotary(family: Family, fields: Fields, found: dict[str, Any]) -> dict[str, Any]:
    """Fields of GPTConfig about rotary positions.

    They stand in transformers 4's form (`rope_theta`, `rope_scaling`) or in 5's
    (`rope_parameters`, which has an object for each kind of layer if those differ).
    """
    keys = family.rotary
    if keys is None:
        return {"rotary": None}
    new = fields.get("rope_parameters", dict, {})
    old = {"rope_theta": _value(fields, Key((keys.theta_key,), float, keys.theta)),
           **fields.get("rope_scaling", dict, {})}  # fmt: skip
    nested = set(new) & set(LAYER_TYPES)
    if nested and not keys.local_theta:
        raise fields.error("rope_parameters", "unsupported; expected one for all layers")
    where = f"{fields.where}: {'rope_parameters' if new else 'rope_scaling'}"
    main = (new.get(LAYER_TYPES[0]) or {}) if nested else new
    rotary = {"rotary": _one_rotary(family, fields, found, Fields({**old, **main}, where))}
    if keys.local_theta:
        theta = _value(fields, Key(("rope_local_base_freq",), float, keys.local_theta))
        local = {"rope_theta": theta, **(new.get(LAYER_TYPES[1]) or {})}
        rotary["local_rotary"] = _one_rotary(family, fields, found, Fields(local, where))
    if keys.layers:
        rotary["rotary_layers"] = _layers(fields, keys.layers, found["num_layers"])
    return rotary


def _one_rotary(family, fields, found, scaling: Fields) -> RotaryConfig:
    """The rotary positions that the entries of one object describe."""
    keys = family.rotary
    theta = scaling.get("rope_theta", float, keys.theta)
    fraction = keys.fraction
    if keys.fraction_key:
        fraction = _value(fields, Key((keys.fraction_key,), float, keys.fraction))
        fraction = scaling.get("partial_rotary_factor", float, fraction)
    elif scaling.values.get("partial_rotary_factor") not in (None, 1.0):
        raise scaling.error("partial_rotary_factor", f"{family.model_type} turns whole heads only")
    kind = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    if kind == "default":
        return RotaryConfig(theta, fraction=fraction)
    kinds = {name: name for name in ROPE_SCALINGS} if keys.kinds is None else keys.kinds
    if kind not in kinds:
        key = scaling.where.rsplit(": ", 1)[1]
        raise fields.error(key, f"unsupported; supported are default, {', '.join(kinds)}")
    kind = kinds[kind]
    required, optional = ROPE_SCALINGS[kind]
    entries = {"rope_type": kind}
    for name, type_ in {**required, **optional}.items():
        default = None if name in optional else REQUIRED
        if name == _ORIGINAL:
            default = found["max_position_embeddings"]
        value = scaling.get(name, type_, default)
        if name == _ORIGINAL and keys.original:
            value = fields.get(_ORIGINAL, int, keys.original)
        if type_ is list:
            value = _factors(scaling, name, int(_head_dim(found) * fraction) // 2)
        if value is not None:
            entries[name] = value
    return RotaryConfig(theta, tuple(sorted(entries.items())), fraction)


def _factors(scaling: Fields, name: str, count: int) -> tuple[float, ...]:
    """A list of numbers, one for each pair that is turned."""
    values = scaling.get(name, list)
    if len(values) != count or not all(type(x) in (int, float) for x in values):
        raise scaling.error(name, f"expected {count} numbers")
    return tuple(float(x) for x in values)


def _head_dim(found: dict[str, Any]) -> int:
    return found["head_dim"] or found["hidden_size"] // max(found["num_heads"], 1)


def _rotary_dict(family: Family, config: GPTConfig) -> dict[str, Any]:
    """Entries about rotary positions in the form that transformers 4 and 5 both read."""
    keys, rotary = family.rotary, config.rotary
    if keys is None or rotary is None:
        return {}
    scaling = {k: list(v) if isinstance(v, tuple) else v for k, v in rotary.scaling}
    values = {keys.theta_key: rotary.theta}
    if keys.fraction_key:
        values[keys.fraction_key] = rotary.fraction
    if keys.original:
        values[_ORIGINAL] = scaling.pop(_ORIGINAL, keys.original)
    if keys.local_theta and config.local_rotary:
        values["rope_local_base_freq"] = config.local_rotary.theta
    if keys.layers:
        turned = [int(config.rotary_of(i) is not None) for i in range(config.num_layers)]
        values["no_rope_layers"] = turned
    return {**values, "rope_scaling": scaling or None}


def _same_layers(a: GPTConfig, b: GPTConfig) -> bool:
    layers = range(b.num_layers)
    return all((a.window_of(i), a.rotary_of(i)) == (b.window_of(i), b.rotary_of(i)) for i in layers)


def _problem_type(fields: Fields) -> str:
    """That of a class for sequence classification; without one, one label is a number."""
    found = fields.values.get("problem_type")
    if found is None:
        found = REGRESSION if len(_labels(fields)) == 1 else SINGLE
    if found not in (SINGLE, MULTI, REGRESSION):
        raise fields.error("problem_type", f"expected {SINGLE}, {MULTI} or {REGRESSION}")
    return found


def _labels(fields: Fields) -> tuple[str, ...]:
    named = fields.get("id2label", dict, None)
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(fields.get("num_labels", int, 2)))
    if set(named) != {str(i) for i in range(len(named))}:
        raise fields.error("id2label", 'expected the keys "0", "1", ... without a gap')
    return tuple(str(named[str(i)]) for i in range(len(named)))
