"""The metadata of a GGUF file that says what its model computes: config.json's entries and back.

Keys and tensors are those of llama.cpp's converter, see `families`; what they mean is what
llama.cpp's src/llama-context.cpp and src/llama-model.cpp make of them.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from gpt_keras import rotary
from gpt_keras.checkpoint import hf_config
from gpt_keras.checkpoint.families import Family
from gpt_keras.checkpoint.fields import REQUIRED, Fields
from gpt_keras.config import GPTConfig, RotaryConfig

FACTORS = FREQS, LONG, SHORT = tuple(
    f"rope_{name}.weight" for name in ("freqs", "factors_long", "factors_short")
)
"""Tensors of what the wavelengths of rotary positions are multiplied by, for each pair."""
_ENDS = ("eos", "eot", "eom")  # token ids that end a generation
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}  # fmt: skip
_BETAS = ("beta_fast", "beta_slow")
# Fields of GPTConfig that llama.cpp need not know, and those that `_computed` compares.
_UNSAID = {"model_type", "dropout", "initializer_range", "router_loss", "id2label"}
_COMPARED = {"max_position_embeddings", "attention_scalar", "rotary", "rotary_layers",
             "local_rotary", "sliding_window", "window_layers"}  # fmt: skip


def fields(
    family: Family,
    get: Callable[[str], Any],
    names: Collection[str],
    factors: Callable[[str], np.ndarray | None],
    where: str,
) -> Fields:
    """What the config.json of a file's model would hold.

    Args:
      family: of the model.
      get: metadata by its key, None where there is none.
      names: of the tensors, as the family's checkpoints have them.
      factors: the tensors FREQS, LONG and SHORT by name, None where there is none.
      where: the file, as errors are to name it.

    Raises:
      ValueError: something is missing or unsupported; names the key.
    """

    def of(key):
        return get(f"{family.gguf.architecture}.{key}")

    values = {"model_type": family.model_type, **family.gguf.implied}
    required = {
        name for key in family.keys.values() if key.default is REQUIRED for name in key.names
    }
    for name, key in family.gguf.keys.items():
        value = of(key)
        if name == "vocab_size" and value is None:
            tokens = get("tokenizer.ggml.tokens")
            value = len(tokens) if isinstance(tokens, list) else None
        if value is None and name in required:
            raise ValueError(f"{where}: metadata {family.gguf.architecture}.{key} missing")
        values[name] = _decimal(value) if isinstance(value, float) else value
    values.update(_heads(family, of, where))
    values.update(_scaling(family, of, factors, values, where))
    biased = {name.removesuffix(".bias") for name in names if name.endswith(".bias")}
    attention_bias = any(name.endswith(("self_attn.o_proj", "dense")) for name in biased)
    heads = [w.names[0] for w in family.weights if w.variable == "embedding/head"]
    ends = (get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    values |= {
        "tie_word_embeddings": heads[0] not in names,
        "attention_bias": attention_bias,
        "use_bias": attention_bias,
        "mlp_bias": any(name.endswith("mlp.down_proj") for name in biased),
        "bos_token_id": get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [i for i in dict.fromkeys(ends) if i is not None],
        "pad_token_id": get("tokenizer.ggml.padding_token_id"),
    }
    # An absent token id means "none" here, not what the family's configuration assumes.
    kept = {k: v for k, v in values.items() if v is not None or k.endswith("token_id")}
    return Fields(kept, where)


def _heads(family: Family, of, where: str) -> dict[str, Any]:
    """How wide a head is, how much of it is turned, and what scores are divided by."""
    width = of("attention.key_length")
    turned = of("rope.dimension_count")
    turned = width if turned is None else turned
    even = _quotient(of("embedding_length"), of("attention.head_count"))
    found = {}
    if family.rotary and family.rotary.fraction_key:
        width = width or even
        if _quotient(width, turned) is not None:
            found[family.rotary.fraction_key] = turned / width
    elif width is not None and width != turned:
        raise ValueError(
            f"{where}: rope.dimension_count={turned} rotates a part of the head's {width} numbers "
            "only: unsupported"
        )
    if "attention_scalar" in family.keys:
        is_even = of("block_count") == family.gguf.scalar_layers
        found["query_pre_attn_scalar"] = (None if is_even else width) or even
    return {**found, "head_dim": width or turned}


def _scaling(family: Family, of, factors, values, where: str) -> dict[str, Any]:
    """`rope_scaling`, and what stands beside it."""
    kind = of("rope.scaling.type") or "none"
    long, freqs = factors(LONG), factors(FREQS)
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise ValueError(
            f"{where}: rope.scaling.type={kind!r}: supported are none, linear, yarn, longrope"
        )
    if (of("rope.scaling.yarn_ext_factor") or 1) != 1 or of("rope.scaling.yarn_log_multiplier"):
        raise ValueError(
            f"{where}: rope.scaling.yarn_ext_factor or yarn_log_multiplier: unsupported"
        )
    longest = of("context_length")
    original = of("rope.scaling.original_context_length") or longest
    scale, factor = of("rope.scaling.attn_factor"), of("rope.scaling.factor")
    scaling = {"original_max_position_embeddings": original}
    if long is not None or kind == "longrope":
        short = factors(SHORT)
        if long is None or short is None:
            missing = LONG if long is None else SHORT
            raise ValueError(f"{where}: tensor {missing} missing, which longrope needs")
        scaling |= {"rope_type": "longrope", "long_factor": _decimals(long),
                    "short_factor": _decimals(short)}  # fmt: skip
    elif freqs is not None:
        scaling = _of_freqs(freqs, values, longest)
    elif kind == "yarn":
        named = {name: of(f"rope.scaling.yarn_{name}") for name in _BETAS}
        scaling |= {"rope_type": "yarn", "factor": factor, **named}
        if scale is None:  # the converter has one that llama.cpp leaves aside
            scale = of("rope.scaling.yarn_attn_factor")
        elif isinstance(factor, float):
            scale *= _yarn_default(factor)
    elif kind == "linear":
        scaling = {"rope_type": "linear", "factor": factor}
    else:
        scaling = {}
    if scaling.get("rope_type") in ("yarn", "longrope") and isinstance(scale, float):
        # Left out where it is what follows from the lengths, as checkpoints have it.
        usual = _attention_factor(scaling, longest)
        if usual is None or not math.isclose(usual, scale, rel_tol=1e-6):
            scaling["attention_factor"] = _decimal(scale)
    scaling = {k: _decimal(v) if isinstance(v, float) else v for k, v in scaling.items()}
    scaling = {k: v for k, v in scaling.items() if v is not None}
    beside = family.rotary and family.rotary.original and scaling
    outside = {"original_max_position_embeddings": original} if beside else {}
    return {"rope_scaling": scaling or None, **outside}


def _of_freqs(freqs: np.ndarray, values, longest) -> dict[str, Any]:
    """Llama 3's scaling that has these factors, or else one of the same angles."""
    scaling = {"rope_type": "llama3", "factor": float(np.max(freqs, initial=1)), **_LLAMA3}
    theta, width = values.get("rope_theta"), values["head_dim"]
    if isinstance(theta, float) and theta > 1 and 2 * len(freqs) == width:
        llama3 = RotaryConfig(theta, tuple(sorted(scaling.items())))
        if np.allclose(_factors(llama3, width), freqs, rtol=1e-5):
            return scaling
    return {
        "rope_type": "longrope", "long_factor": _decimals(freqs), "short_factor": _decimals(freqs),
        "attention_factor": 1.0, "original_max_position_embeddings": longest,
    }  # fmt: skip


def _factors(scaled: RotaryConfig, width: int) -> np.ndarray:
    """(width/2,) what the wavelengths of whole heads are multiplied by."""
    plain = RotaryConfig(scaled.theta, fraction=scaled.fraction)
    frequencies = rotary.inverse_frequencies(plain, width)
    return frequencies / rotary.inverse_frequencies(scaled, width)


def _attention_factor(scaling, longest) -> float | None:
    """That which follows from the entries, None if they are malformed."""
    try:
        return rotary.attention_factor(RotaryConfig(scaling=tuple(scaling.items())), longest)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _yarn_default(factor: float) -> float:
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def metadata(config: GPTConfig, family: Family) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata by key, and the tensors of factors by name, of a model.

    Raises:
      ValueError: llama.cpp would compute something else; names the field.
    """
    values = hf_config.to_dict(config, "CausalLM")
    found = {key: values.get(name) for name, key in family.gguf.keys.items()}
    if config.sliding_window and "sliding_window" not in family.gguf.keys:
        # llama.cpp has no window here: nobody sees the difference in as short a text.
        found["context_length"] = min(config.max_position_embeddings, config.sliding_window)
    factors = {}
    if config.rotary is not None:
        of_rotary, factors = _rotary(config)
        found |= of_rotary
    found = {f"{family.gguf.architecture}.{key}": value for key, value in found.items()}
    if len(config.eos_token_ids) > len(_ENDS):
        raise ValueError(
            f"eos_token_ids={config.eos_token_ids}: GGUF has places for {len(_ENDS)}; keep those "
            "that matter (config.json's eos_token_id)"
        )
    found |= {
        f"tokenizer.ggml.{name}_token_id": token_id
        for name, token_id in (
            *zip(_ENDS, config.eos_token_ids, strict=False),
            ("bos", config.bos_token_id), ("padding", config.pad_token_id),
        )
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}, factors


def _rotary(config: GPTConfig):
    turned, kind = config.rotary, config.rotary.kind
    scaling, factors = dict(turned.scaling), {}
    found = {
        "rope.dimension_count": int(config.head_dim * turned.fraction),
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }
    if kind not in ("default", "linear", "yarn", "longrope", "llama3"):
        raise ValueError(
            f"rope_type={kind!r} is not written as GGUF; scalings that are: linear, yarn, "
            "longrope, llama3"
        )
    if kind in ("linear", "yarn", "longrope"):
        found["rope.scaling.type"] = kind
    if kind in ("linear", "yarn"):
        found["rope.scaling.factor"] = float(scaling["factor"])
    if kind in ("yarn", "longrope"):
        original = scaling["original_max_position_embeddings"]
        scale = rotary.attention_factor(turned, config.max_position_embeddings)
        if kind == "yarn":
            scale /= _yarn_default(scaling["factor"])
        found["rope.scaling.original_context_length"] = original
        found["rope.scaling.attn_factor"] = scale
    if kind == "yarn":
        found |= {f"rope.scaling.yarn_{name}": scaling.get(name) for name in _BETAS}
    if kind == "longrope":
        for name, key in ((LONG, "long_factor"), (SHORT, "short_factor")):
            factors[name] = np.asarray(scaling[key], np.float32)
    if kind == "llama3":
        factors[FREQS] = _factors(turned, config.head_dim)
    return found, factors


def check(config: GPTConfig, family: Family, found, factors, names: Collection[str]) -> None:
    """Refuses a model that llama.cpp would read as another one.

    Args:
      config: of the model.
      family: its.
      found, factors: `metadata` of it.
      names: of its tensors.

    Raises:
      ValueError: names the field and what llama.cpp takes it for.
    """
    back = hf_config.from_fields(fields(family, found.get, names, factors.get, "GGUF"))
    longest = back.max_position_embeddings
    for name in set(config.to_dict()) - _UNSAID - _COMPARED:
        ours, theirs = getattr(config, name), getattr(back, name)
        if not (isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-6)):
            _same(name, ours, theirs)
    _same("attention_scalar", *(c.attention_scalar or c.head_dim for c in (config, back)))
    for i in range(config.num_layers):
        windows = (c.window_of(i) for c in (config, back))
        _same("sliding_window", *(w if w < longest else 0 for w in windows), i)
        ours, theirs = (c.rotary_of(i) for c in (config, back))
        alike = (ours is None) == (theirs is None)
        if ours and theirs:
            pairs = zip(_angles(ours, config), _angles(theirs, back), strict=True)
            alike = all(np.allclose(a, b, rtol=1e-5) for a, b in pairs)
        _same("rotary", ours, ours if alike else theirs, i)


def _same(name: str, ours, theirs, layer: int | None = None) -> None:
    if ours != theirs:
        where = "" if layer is None else f" of layer {layer}"
        raise ValueError(
            f"{name}={ours!r}{where} is not written as GGUF: llama.cpp would take it for {theirs!r}"
        )


def _angles(turned: RotaryConfig, config: GPTConfig):
    """All that decides by what angles tokens are turned."""
    by_length = turned.kind == "longrope"
    factors = ("long_factor", "short_factor") if by_length else ("short_factor",) * 2
    found = [rotary.inverse_frequencies(turned, config.head_dim, name) for name in factors]
    by_length &= not np.array_equal(*found)
    original = dict(turned.scaling)["original_max_position_embeddings"] if by_length else 0
    return *found, original, rotary.attention_factor(turned, config.max_position_embeddings)


def _decimals(values: np.ndarray) -> list[float]:
    return [_decimal(x) for x in values]


def _decimal(value: float) -> float:
    """Written as float32: the shortest decimal that says the same is what was meant."""
    return float(str(np.float32(value)))


def _quotient(a, b) -> int | None:
    """a // b where both are positive numbers: what is not is refused where it is read."""
    known = all(isinstance(x, int) and x > 0 for x in (a, b))
    return a // b if known else None
