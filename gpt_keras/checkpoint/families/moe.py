"""Mixtures of experts."""

import dataclasses

from gpt_keras.checkpoint.families.family import (
    GGUFKeys,
    Key,
    RotaryKeys,
    Weight,
    WindowKeys,
    classes,
)
from gpt_keras.checkpoint.families.family import gate_up_widths as widths
from gpt_keras.checkpoint.families.llama import BLOCK, LLAMA, MISTRAL, QK_NORMS, QWEN3

_ROUTER = {"router_loss": Key(("router_aux_loss_coef",), float, 0.001)}
_DENSE = "block_{i}/feed_forward/"
_SHARED = tuple(w for w in LLAMA.weights if not w.variable.startswith(_DENSE))

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/mixtral/
_MOE = BLOCK + "block_sparse_moe."
MIXTRAL = dataclasses.replace(
    MISTRAL,
    model_type="mixtral",
    architectures=classes("Mixtral"),
    fixed={**MISTRAL.fixed, "normalize_experts": True},
    keys={
        **MISTRAL.keys,
        "norm_epsilon": Key(("rms_norm_eps",), float, 1e-5),
        "num_experts": Key(("num_local_experts",), int, 8),
        "experts_per_token": Key(("num_experts_per_tok",), int, 2),
        **_ROUTER,
    },
    supported={"router_jitter_noise": (0.0,), **MISTRAL.supported},
    weights=(
        *_SHARED,
        Weight(_DENSE + "router/kernel", (_MOE + "gate.weight",)),
        Weight(_DENSE + "up", (_MOE + "experts.{e}.w1.weight", _MOE + "experts.{e}.w3.weight"),
               widths=widths),
        Weight(_DENSE + "down", (_MOE + "experts.{e}.w2.weight",)),
    ),
    rotary=RotaryKeys(theta=1e6),
    windows=WindowKeys(),
    gguf=dataclasses.replace(
        MISTRAL.gguf,
        keys={
            **MISTRAL.gguf.keys,
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
        },
    ),
)  # fmt: skip

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3_moe/
_MLP = BLOCK + "mlp."
QWEN3_MOE = dataclasses.replace(
    QWEN3,
    model_type="qwen3_moe",
    architectures=classes("Qwen3Moe"),
    keys={
        **QWEN3.keys,
        "num_kv_heads": Key(("num_key_value_heads",), int, 4),
        "head_dim": Key(("head_dim",), int, 0),
        "intermediate_size": Key(("moe_intermediate_size",), int, 768),
        "num_experts": Key(("num_experts", "num_local_experts"), int, 128),
        "experts_per_token": Key(("num_experts_per_tok",), int, 8),
        "normalize_experts": Key(("norm_topk_prob",), bool, False),
        **_ROUTER,
    },
    # Layers without experts among others would need weights of their own.
    supported={"decoder_sparse_step": (1,), "mlp_only_layers": ([],), **QWEN3.supported},
    weights=(
        *_SHARED,
        *QK_NORMS,
        Weight(_DENSE + "router/kernel", (_MLP + "gate.weight",)),
        Weight(_DENSE + "up", (_MLP + "experts.{e}.gate_proj.weight",
                               _MLP + "experts.{e}.up_proj.weight"), widths=widths),
        Weight(_DENSE + "down", (_MLP + "experts.{e}.down_proj.weight",)),
    ),
    windows=WindowKeys(size=4096, switch="use_sliding_window"),
    gguf=GGUFKeys(
        "qwen3moe",
        {
            **{k: v for k, v in QWEN3.gguf.keys.items() if k != "intermediate_size"},
            "moe_intermediate_size": "expert_feed_forward_length",
            "num_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
        },
        implied={"norm_topk_prob": True},
    ),
)  # fmt: skip
