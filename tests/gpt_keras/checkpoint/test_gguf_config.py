"""What GGUF's metadata says of a model: rotary scalings both ways, and what it cannot say."""

import math

import gguf
import numpy as np
import pytest

import gpt_keras
from gpt_keras.checkpoint import hf_config, read_config
from gpt_keras.checkpoint.fields import Fields

IDS = np.array([[5, 6, 7, 8, 9]], np.int32)
SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128,
         "rope_theta": 5000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 3}


def read(path):
    return gpt_keras.CausalLM.from_pretrained(path)


def one_model(write, tmp_path, model_type, changes, metadata, tensors):
    """A model of a file that the converter would write, and of the one written of the model."""
    fields = {"model_type": model_type, **SMALL, **changes}
    config = hf_config.from_fields(Fields(fields, "config.json"))
    model = gpt_keras.CausalLM(config.replace(initializer_range=0.2))
    arch = {"phi3": "phi3", "gemma3_text": "gemma3"}.get(model_type, "llama")
    metadata = {f"{arch}.{key}": value for key, value in metadata.items()}
    path = write(
        tmp_path / "theirs.gguf", model, metadata=metadata, change=lambda t: t.update(tensors)
    )
    again = read(path)
    np.testing.assert_array_equal(again(IDS), model(IDS))
    model.save_gguf(tmp_path / "ours.gguf", "F32")
    return config, again.config, path, tmp_path / "ours.gguf"


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
SHORT, LONG = [1.0, 1.5, 2.0, 3.25], [1.0, 4.0, 8.5, 32.0]
LONGROPE = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}


def llama3_factors(theta, width, factor=8, low=1, high=4, original=8192):
    """As `LlamaModel.generate_extra_tensors` of llama.cpp's conversion/llama.py."""
    factors = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * theta ** (i / width)
        smooth = (original / wavelength - low) / (high - low)
        smooth = min(max(smooth, 0), 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(
    ("model_type", "changes", "metadata", "tensors"),
    [
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0,
                              "original_max_position_embeddings": 32}},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 32, "rope.scaling.yarn_beta_fast": 16.0},
            {},
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5,
                              "original_max_position_embeddings": 32}},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 32, "rope.scaling.yarn_attn_factor": 1.5},
            {},
        ),
        (
            "gemma3_text",
            {**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 6,
             "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
             "rope.freq_base_swa": 10000.0},
            {},
        ),
        (
            "phi3",
            {"rope_scaling": LONGROPE, "original_max_position_embeddings": 4,
             "max_position_embeddings": 16},
            {"rope.scaling.original_context_length": 4,
             "rope.scaling.attn_factor": math.sqrt(1 + math.log(4) / math.log(4))},
            {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
        ),
        (
            "llama",
            {"rope_scaling": {**LONGROPE, "attention_factor": 1.25,
                              "original_max_position_embeddings": 4}},
            {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 4,
             "rope.scaling.attn_factor": 1.25},
            {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
        ),
        (
            "llama",
            {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 16},
            {"rope.freq_base": 500000.0},
            {"rope_freqs.weight": llama3_factors(500000.0, 16)},
        ),
        (
            "mixtral",
            {"rope_scaling": {**LLAMA3, "factor": 32.0}, "rope_theta": 500000.0, "head_dim": 16,
             "num_local_experts": 2, "num_experts_per_tok": 1},
            {"rope.freq_base": 500000.0},
            {"rope_freqs.weight": llama3_factors(500000.0, 16, 32)},
        ),
    ],
)  # fmt: skip
def test_rotary_scalings(write, tmp_path, model_type, changes, metadata, tensors):
    tensors = {name: np.array(values, np.float32) for name, values in tensors.items()}
    config, again, theirs, ours = one_model(write, tmp_path, model_type, changes, metadata, tensors)
    assert again.rotary == config.rotary
    assert read_config(ours).rotary == config.rotary
    found = gguf.GGUFReader(ours)
    for tensor in found.tensors:
        if tensor.name in tensors:
            np.testing.assert_allclose(tensor.data, tensors[tensor.name], rtol=1e-6)
            tensors.pop(tensor.name)
    assert not tensors
    for key, field in gguf.GGUFReader(theirs).fields.items():
        if "rope.scaling" in key and "yarn_attn_factor" not in key:
            assert found.fields[key].contents() == pytest.approx(field.contents()), key


def test_scaling_that_is_no_models_known(write, tmp_path):
    """Its angles are kept, in other words."""
    factors = np.array([1.0, 1.5, 2.5, 7.0], np.float32)
    rope = {"rope_type": "longrope", "short_factor": factors.tolist(),
            "long_factor": factors.tolist(), "attention_factor": 1.0,
            "original_max_position_embeddings": 128}  # fmt: skip
    tensors = {"rope_freqs.weight": factors}
    _, again, _, _ = one_model(write, tmp_path, "llama", {"rope_scaling": rope}, {}, tensors)
    assert dict(again.rotary.scaling)["long_factor"] == (1.0, 1.5, 2.5, 7.0)


def test_a_window_that_gguf_has_no_place_for_shortens_the_context(tmp_path):
    fields = {"model_type": "mistral", **SMALL, "sliding_window": 16}
    config = hf_config.from_fields(Fields(fields, "config.json"))
    model = gpt_keras.CausalLM(config.replace(initializer_range=0.2))
    model.save_gguf(tmp_path / "m.gguf", "F32")
    again = read(tmp_path / "m.gguf")
    assert (again.config.model_type, again.config.max_position_embeddings) == ("llama", 16)
    ids = np.arange(16)[None]
    np.testing.assert_array_equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "rotary=.* of layer 1 is not written"),
        ("gemma2", {**GEMMA, "query_pre_attn_scalar": 32}, "attention_scalar=32 is not written"),
        ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16,
                         "layer_types": ["full_attention", "sliding_attention"] * 2},
         "sliding_window=0 of layer 0"),
        ("qwen3_moe", {"moe_intermediate_size": 48, "num_experts": 3, "num_experts_per_tok": 2},
         "normalize_experts=False is not written as GGUF: llama.cpp would take it for True"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False,
                                    "original_max_position_embeddings": 2048}},
         "rotary=.*truncate.* is not written"),
        ("llama", {"eos_token_id": [2, 3, 4, 5]}, "GGUF has places for 3"),
        ("llama", {"hidden_act": "gelu"}, "activation='gelu' is not written"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say_is_refused(tmp_path, model_type, changes, message):
    fields = {"model_type": model_type, **SMALL, **changes}
    model = gpt_keras.CausalLM(hf_config.from_fields(Fields(fields, "config.json")))
    with pytest.raises(ValueError, match=message):
        model.save_gguf(tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
