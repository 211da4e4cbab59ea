"""Gemma 1 to 3."""

import dataclasses

from gpt_keras.checkpoint.families.family import (
    ACTIVATIONS,
    Key,
    RotaryKeys,
    Weight,
    WindowKeys,
    classes,
    renamed,
)
from gpt_keras.checkpoint.families.llama import BLOCK, LLAMA, QK_NORMS, gguf_like_llama

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma/
GEMMA = dataclasses.replace(
    LLAMA,
    model_type="gemma",
    architectures=classes("Gemma", "QuestionAnswerer"),
    fixed={**LLAMA.fixed, "norm_offset": 1.0, "scale_embeddings": True},
    keys={
        **{k: v for k, v in LLAMA.keys.items() if k != "mlp_bias"},
        "num_kv_heads": Key(("num_key_value_heads",), int, 16),
        "head_dim": Key(("head_dim",), int, 256),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 8192),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, True),
    },
    # "gelu" in the first configurations meant the approximation.
    activations={
        "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new", "gelu"),
        "silu": ACTIVATIONS["silu"],
        "relu": ACTIVATIONS["relu"],
    },
    activation="gelu_tanh",
    token_ids=(2, 1, 0),
    supported={
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "use_bidirectional_attention": (False,),
    },
    written={"attention_dropout": 0.0},
    gguf=gguf_like_llama("gemma"),
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma2/
GEMMA2 = dataclasses.replace(
    GEMMA,
    model_type="gemma2",
    architectures=classes("Gemma2", "QuestionAnswerer"),
    fixed={**GEMMA.fixed, "norm_place": "both"},
    keys={
        **GEMMA.keys,
        "num_kv_heads": Key(("num_key_value_heads",), int, 4),
        "attention_scalar": Key(("query_pre_attn_scalar",), int, 256),
        "logits_softcap": Key(("final_logit_softcapping",), float, 30.0, null=0.0),
        "attention_softcap": Key(("attn_logit_softcapping",), float, 50.0, null=0.0),
    },
    activation_key="hidden_activation",
    activations=ACTIVATIONS,
    supported={"use_bidirectional_attention": (False,)},
    weights=renamed(
        LLAMA.weights,
        Weight("block_{i}/attention_post_norm/scale",
               (BLOCK + "post_attention_layernorm.weight",)),
        Weight("block_{i}/feed_forward_norm/scale",
               (BLOCK + "pre_feedforward_layernorm.weight",)),
        Weight("block_{i}/feed_forward_post_norm/scale",
               (BLOCK + "post_feedforward_layernorm.weight",)),
    ),
    windows=WindowKeys(size=4096, layers=lambda fields, i: i % 2 == 0),
    gguf=dataclasses.replace(
        gguf_like_llama(
            "gemma2", sliding_window="attention.sliding_window",
            attn_logit_softcapping="attn_logit_softcapping",
            final_logit_softcapping="final_logit_softcapping",
        ),
        scalar_layers=46,
    ),
)  # fmt: skip

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma3/
GEMMA3_TEXT = dataclasses.replace(
    GEMMA2,
    model_type="gemma3_text",
    architectures={
        "CausalLM": "Gemma3ForCausalLM",
        "SequenceClassifier": "Gemma3TextForSequenceClassification",
    },
    fixed={**GEMMA2.fixed, "qk_norm": "head"},
    keys={
        **{k: v for k, v in GEMMA2.keys.items() if k != "attention_softcap"},
        "max_position_embeddings": Key(("max_position_embeddings",), int, 131072),
        "logits_softcap": Key(("final_logit_softcapping",), float, 0.0, null=0.0),
    },
    supported={"attn_logit_softcapping": (None,), **GEMMA2.supported},
    weights=(*GEMMA2.weights, *QK_NORMS),
    rotary=RotaryKeys(theta=1e6, local_theta=1e4),
    windows=WindowKeys(
        size=4096,
        layers=lambda fields, i: bool((i + 1) % fields.get("sliding_window_pattern", int, 6)),
    ),
    gguf=dataclasses.replace(
        gguf_like_llama(
            "gemma3",
            sliding_window="attention.sliding_window",
            rope_local_base_freq="rope.freq_base_swa",
            final_logit_softcapping="final_logit_softcapping",
        ),
        scalar_layers=62,
    ),
)
