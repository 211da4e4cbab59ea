"""A writer of GGUF files, which does what llama.cpp's converter does."""

import re

import gguf
import numpy as np
import pytest

from gpt_keras.checkpoint import weights
from gpt_keras.checkpoint.families import FAMILIES

NAMES = [  # Hugging Face -> GGUF
    ("model.layers.", "blk."), ("transformer.h.", "blk."),
    ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"), ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"), ("lm_head", "output"), ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"),
    ("ln_1", "attn_norm"), ("ln_2", "ffn_norm"), ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"), ("transformer.ln_f", "output_norm"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
]  # fmt: skip
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down",
           "up_proj": "up"}  # fmt: skip


def _permute(values, heads):
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        .swapaxes(1, 2)
        .reshape(values.shape)
    )


def _others(config):
    """Metadata of architectures beside llama and gpt2, those that differ by model."""
    values = {
        "vocab_size": config.vocab_size,
        "attention.head_count_kv": config.num_kv_heads,
        "rope.freq_base": config.rotary.theta,
    }
    if config.norm == "layer":
        values["attention.layer_norm_epsilon"] = config.norm_epsilon
    else:
        values["attention.layer_norm_rms_epsilon"] = config.norm_epsilon
    if config.sliding_window:
        values["attention.sliding_window"] = config.sliding_window
    if config.rotary.fraction < 1:
        values["rope.dimension_count"] = int(config.head_dim * config.rotary.fraction)
    elif config.head_dim * config.num_heads != config.hidden_size:
        values["attention.key_length"] = config.head_dim
    if config.model_type == "qwen3_moe":
        values["expert_feed_forward_length"] = config.intermediate_size
    if config.model_type == "gpt_neox":
        values["use_parallel_residual"] = config.parallel_residual
    if config.attention_softcap:
        values["attn_logit_softcapping"] = config.attention_softcap
        values["final_logit_softcapping"] = config.logits_softcap
    return values


def _write(path, model, kind=gguf.GGMLQuantizationType.F32, metadata=None, change=None):
    """Writes the model as a GGUF file with matrices of a type; metadata None leaves a key out."""
    config, family = model.config, FAMILIES[model.config.model_type]
    arch = family.gguf.architecture
    values = {
        f"{arch}.block_count": config.num_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.expert_count": config.num_experts or None,
        f"{arch}.expert_used_count": config.experts_per_token or None,
        f"{arch}.attention.head_count": config.num_heads,
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": config.pad_token_id,
    }
    if arch == "llama":
        values |= {
            "llama.vocab_size": config.vocab_size,
            "llama.attention.head_count_kv": config.num_kv_heads,
            "llama.rope.dimension_count": config.head_dim,
            "llama.rope.freq_base": config.rotary.theta,
            "llama.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        }
    elif arch == "gpt2":
        values["gpt2.attention.layer_norm_epsilon"] = config.norm_epsilon
        values["gpt2.vocab_size"] = config.vocab_size
    else:
        values |= {f"{arch}.{key}": value for key, value in _others(config).items()}
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**values, **(metadata or {})}.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    tensors = {}
    for name, tensor in weights.tensors(model):
        if arch in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
            tensor = _permute(tensor, config.num_heads if "q_proj" in name else config.num_kv_heads)
        if name.endswith(family.gguf.transposed):
            tensor = tensor.T
        if "query_key_value" in name:
            kinds = tensor.reshape(config.num_heads, 3, -1, *tensor.shape[1:]).swapaxes(0, 1)
            tensor = kinds.reshape(tensor.shape)
        if "gemma" in arch and name.endswith("norm.weight"):
            tensor = tensor + np.float32(1)
        found = re.fullmatch(r"model\.layers\.(\d+)\..*\.experts\.\d+\.(\w+)\.weight", name)
        if found:  # experts come one after the other
            name = f"blk.{found[1]}.ffn_{EXPERTS[found[2]]}_exps.weight"
            before = tensors.get(name, np.zeros((0, *tensor.shape), tensor.dtype))
            tensor = np.concatenate([before, tensor[None]])
        elif arch in ("llama", "gpt2"):
            for theirs, ours in NAMES:
                name = name.replace(theirs, ours)
        else:
            number = next(n for n, a in gguf.MODEL_ARCH_NAMES.items() if a == arch)
            names = gguf.get_tensor_name_map(number, config.num_layers)
            name = names.get_name(name, (".weight", ".bias"))
        tensors[name] = tensor
    if change:
        change(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.dtype == np.int8 or "ffn_gate_inp" in name:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def write():
    """Function that writes a model as a GGUF file; see `_write`."""
    return _write
