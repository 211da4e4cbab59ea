"""Llama and what is built like it."""

import dataclasses

from gpt_keras.checkpoint.families.family import (
    ACTIVATIONS,
    Family,
    GGUFKeys,
    Key,
    RotaryKeys,
    Weight,
    WindowKeys,
    classes,
    gate_up_widths,
    qkv_widths,
    renamed,
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/
BLOCK = "layers.{i}."
_QKV = tuple(f"{BLOCK}self_attn.{x}_proj." for x in "qkv")
_GATE_UP = (f"{BLOCK}mlp.gate_proj.", f"{BLOCK}mlp.up_proj.")
LLAMA = Family(
    model_type="llama",
    architectures=classes("Llama"),
    fixed={"norm": "rms", "gated": True},
    keys={
        "vocab_size": Key(("vocab_size",), int),
        "hidden_size": Key(("hidden_size",), int),
        "num_layers": Key(("num_hidden_layers",), int),
        "num_heads": Key(("num_attention_heads",), int),
        "num_kv_heads": Key(("num_key_value_heads",), int, 0),
        "head_dim": Key(("head_dim",), int, 0),
        "intermediate_size": Key(("intermediate_size",), int),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 2048),
        "norm_epsilon": Key(("rms_norm_eps",), float, 1e-6),
        "qkv_bias": Key(("attention_bias",), bool, False),
        "attention_output_bias": Key(("attention_bias",), bool, False),
        "mlp_bias": Key(("mlp_bias",), bool, False),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, False),
        "initializer_range": Key(("initializer_range",), float, 0.02),
    },
    activation_key="hidden_act",
    activations=ACTIVATIONS,
    activation="silu",
    token_ids=(1, 2, None),
    supported={"partial_rotary_factor": (1.0,)},
    written={"attention_dropout": 0.0, "pretraining_tp": 1},
    prefix="model.",
    weights=(
        Weight("embedding/table", ("embed_tokens.weight",)),
        Weight("embedding/head", ("lm_head.weight",)),
        Weight("block_{i}/attention_norm/scale", (BLOCK + "input_layernorm.weight",)),
        Weight("block_{i}/attention/qkv/kernel", tuple(n + "weight" for n in _QKV),
               widths=qkv_widths),
        Weight("block_{i}/attention/qkv/bias", tuple(n + "bias" for n in _QKV),
               widths=qkv_widths),
        Weight("block_{i}/attention/out/kernel", (BLOCK + "self_attn.o_proj.weight",)),
        Weight("block_{i}/attention/out/bias", (BLOCK + "self_attn.o_proj.bias",)),
        Weight("block_{i}/feed_forward_norm/scale", (BLOCK + "post_attention_layernorm.weight",)),
        Weight("block_{i}/feed_forward/up/kernel", tuple(n + "weight" for n in _GATE_UP),
               widths=gate_up_widths),
        Weight("block_{i}/feed_forward/up/bias", tuple(n + "bias" for n in _GATE_UP),
               widths=gate_up_widths),
        Weight("block_{i}/feed_forward/down/kernel", (BLOCK + "mlp.down_proj.weight",)),
        Weight("block_{i}/feed_forward/down/bias", (BLOCK + "mlp.down_proj.bias",)),
        Weight("final_norm/scale", ("norm.weight",)),
    ),
    ignored=(".rotary_emb.inv_freq",),
    rotary=RotaryKeys(),
    # https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py, class LlamaModel
    gguf=GGUFKeys(
        architecture="llama",
        keys={
            "vocab_size": "vocab_size",
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "num_attention_heads": "attention.head_count",
            "num_key_value_heads": "attention.head_count_kv",
            "intermediate_size": "feed_forward_length",
            "max_position_embeddings": "context_length",
            "rms_norm_eps": "attention.layer_norm_rms_epsilon",
            "rope_theta": "rope.freq_base",
        },
        permuted=(".q_proj.weight", ".q_proj.bias", ".k_proj.weight", ".k_proj.bias"),
    ),
)  # fmt: skip


def gguf_like_llama(architecture: str, **keys: str) -> GGUFKeys:
    """GGUF files whose heads stay as they are, with these keys beside llama's."""
    return GGUFKeys(architecture, {**LLAMA.gguf.keys, **keys})


_UNBIASED = {k: v for k, v in LLAMA.keys.items() if not k.endswith("_bias")}
_ATTENTION_BIAS = {k: v for k, v in LLAMA.keys.items() if k != "mlp_bias"}
QK_NORMS = (
    Weight("block_{i}/attention/q_norm/scale", (BLOCK + "self_attn.q_norm.weight",)),
    Weight("block_{i}/attention/k_norm/scale", (BLOCK + "self_attn.k_norm.weight",)),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/mistral/
MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    architectures=classes("Mistral"),
    keys={
        **_UNBIASED,
        "num_kv_heads": Key(("num_key_value_heads",), int, 8, null=0),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 131072),
    },
    supported={"layer_types": (None,), **LLAMA.supported},
    written={"attention_dropout": 0.0},
    windows=WindowKeys(size=4096),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen2/
QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architectures=classes("Qwen2"),
    fixed={**LLAMA.fixed, "qkv_bias": True},
    keys={
        **_UNBIASED,
        "num_kv_heads": Key(("num_key_value_heads",), int, 32, null=0),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 32768),
    },
    token_ids=(None, None, None),
    written={"attention_dropout": 0.0},
    windows=WindowKeys(
        size=4096,
        switch="use_sliding_window",
        layers=lambda fields, i: i >= fields.get("max_window_layers", int, 28),
    ),
    gguf=gguf_like_llama("qwen2"),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3/
QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    architectures=classes("Qwen3"),
    fixed={**LLAMA.fixed, "qk_norm": "head"},
    keys={
        **_ATTENTION_BIAS,
        "num_kv_heads": Key(("num_key_value_heads",), int, 32, null=0),
        "head_dim": Key(("head_dim",), int, 128),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 32768),
    },
    weights=(*LLAMA.weights, *QK_NORMS),
    gguf=gguf_like_llama("qwen3"),
)


def _smollm3_rotary(fields, i):
    if fields.values.get("no_rope_layers") is not None:
        return bool(fields.of_layer("no_rope_layers", i, int))  # 1 where there are some
    return bool((i + 1) % fields.get("no_rope_layer_interval", int, 4))


# https://github.com/huggingface/transformers/blob/main/src/transformers/models/smollm3/
SMOLLM3 = dataclasses.replace(
    LLAMA,
    model_type="smollm3",
    architectures=classes("SmolLM3"),
    keys={
        **LLAMA.keys,
        "num_kv_heads": Key(("num_key_value_heads",), int, 4, null=0),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 32768),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, True),
    },
    token_ids=(128000, 128001, 128004),
    written={"attention_dropout": 0.0},
    rotary=RotaryKeys(theta=2e6, layers=_smollm3_rotary),
    windows=WindowKeys(
        switch="use_sliding_window", layers=lambda fields, i: not _smollm3_rotary(fields, i)
    ),
    gguf=dataclasses.replace(LLAMA.gguf, architecture="smollm3"),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/olmo2/
OLMO2 = dataclasses.replace(
    LLAMA,
    model_type="olmo2",
    architectures={k: v for k, v in classes("Olmo2").items() if k != "TokenClassifier"},
    fixed={**LLAMA.fixed, "norm_place": "post", "qk_norm": "width"},
    keys={**_ATTENTION_BIAS, "norm_epsilon": Key(("rms_norm_eps",), float, 1e-5)},
    token_ids=(None, 50279, 1),
    written={"attention_dropout": 0.0},
    weights=renamed(
        (*LLAMA.weights, *QK_NORMS),
        Weight("block_{i}/attention_post_norm/scale",
               (BLOCK + "post_attention_layernorm.weight",)),
        Weight("block_{i}/feed_forward_post_norm/scale",
               (BLOCK + "post_feedforward_layernorm.weight",)),
    ),
    gguf=gguf_like_llama("olmo2"),
)  # fmt: skip

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/phi3/
PHI3 = dataclasses.replace(
    LLAMA,
    model_type="phi3",
    architectures=classes("Phi3"),
    fixed={**LLAMA.fixed, "head_dim": 0},
    keys={
        **{k: v for k, v in _UNBIASED.items() if k != "head_dim"},
        "max_position_embeddings": Key(("max_position_embeddings",), int, 4096),
        "norm_epsilon": Key(("rms_norm_eps",), float, 1e-5),
        "dropout": Key(("resid_pdrop", "embd_pdrop"), float, 0.0),
    },
    token_ids=(1, 32000, 32000),
    supported={},
    written={"attention_dropout": 0.0},
    weights=renamed(
        LLAMA.weights,
        Weight("block_{i}/attention/qkv/kernel", (BLOCK + "self_attn.qkv_proj.weight",)),
        Weight("block_{i}/feed_forward/up/kernel", (BLOCK + "mlp.gate_up_proj.weight",)),
    ),
    rotary=RotaryKeys(
        fraction_key="partial_rotary_factor",
        kinds={"longrope": "longrope", "su": "longrope", "yarn": "longrope"},
        original=4096,
    ),
    windows=WindowKeys(),
    gguf=gguf_like_llama("phi3", sliding_window="attention.sliding_window"),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/starcoder2/
STARCODER2 = dataclasses.replace(
    LLAMA,
    model_type="starcoder2",
    architectures=classes("Starcoder2"),
    fixed={"norm": "layer", "gated": False},
    keys={
        **LLAMA.keys,
        "num_kv_heads": Key(("num_key_value_heads",), int, 2, null=0),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 4096),
        "norm_epsilon": Key(("norm_epsilon",), float, 1e-5),
        "qkv_bias": Key(("use_bias",), bool, True),
        "attention_output_bias": Key(("use_bias",), bool, True),
        "mlp_bias": Key(("use_bias",), bool, True),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, True),
        "initializer_range": Key(("initializer_range",), float, 0.018042),
        "dropout": Key(("residual_dropout", "embedding_dropout"), float, 0.0),
    },
    activation="gelu_tanh",
    token_ids=(50256, 50256, None),
    written={"attention_dropout": 0.0},
    weights=renamed(
        LLAMA.weights,
        Weight("block_{i}/attention_norm/bias", (BLOCK + "input_layernorm.bias",)),
        Weight("block_{i}/feed_forward_norm/bias", (BLOCK + "post_attention_layernorm.bias",)),
        Weight("block_{i}/feed_forward/up/kernel", (BLOCK + "mlp.c_fc.weight",)),
        Weight("block_{i}/feed_forward/up/bias", (BLOCK + "mlp.c_fc.bias",)),
        Weight("block_{i}/feed_forward/down/kernel", (BLOCK + "mlp.c_proj.weight",)),
        Weight("block_{i}/feed_forward/down/bias", (BLOCK + "mlp.c_proj.bias",)),
        Weight("final_norm/bias", ("norm.bias",)),
    ),
    windows=WindowKeys(),
    gguf=gguf_like_llama("starcoder2", norm_epsilon="attention.layer_norm_epsilon"),
)
