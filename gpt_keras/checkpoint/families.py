"""Families of checkpoints, as data: how each writes its configuration and names its weights.

A family is added by adding a `Family` here; no model code knows its name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpt_keras.checkpoint.fields import REQUIRED
from gpt_keras.config import GPTConfig


@dataclasses.dataclass(frozen=True)
class Key:
    """Where config.json holds one field of GPTConfig.

    Attributes:
      names: keys of config.json; the first that is there is read, all are written.
      kind: type of the value.
      default: what the family's own configuration class assumes when the key is absent.
    """

    names: tuple[str, ...]
    kind: type
    default: Any = REQUIRED


@dataclasses.dataclass(frozen=True)
class Weight:
    """One variable of the backbone and the tensors that it is stored as.

    Attributes:
      variable: path within the backbone; `{i}` is the number of the block.
      names: tensors of the checkpoint, without the family's prefix.
      transposed: matrices are stored as (outputs, inputs), as torch's Linear has them.
      widths: outputs of each tensor, if they are several: the variable joins them.
    """

    variable: str
    names: tuple[str, ...]
    transposed: bool = True
    widths: Callable[[GPTConfig], tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
      model_type: its name in config.json.
      architectures: class of Hugging Face that holds each task of ours.
      fixed: fields of GPTConfig that are the same for the whole family.
      keys: the other fields and where config.json holds them.
      activation_key: key of the activation's name.
      activations: its names for ours; the first name of each is the one written.
      rotary: whether the rotary keys are read and written.
      token_ids: bos, eos and pad id assumed when config.json lacks the key.
      supported: keys that change the computation, and the only values we compute.
      written: entries of config.json that say what is always so of our models.
      prefix: of the backbone's tensors in a checkpoint with a head.
      weights: the variables and their tensors.
      ignored: ends of tensors' names that hold nothing learned.
      gguf: how GGUF files of the family differ, or None if they are not read.
    """

    model_type: str
    architectures: Mapping[str, str]
    fixed: Mapping[str, Any]
    keys: Mapping[str, Key]
    activation_key: str
    activations: Mapping[str, tuple[str, ...]]
    rotary: bool
    token_ids: tuple[int | None, int | None, int | None]
    supported: Mapping[str, tuple[Any, ...]]
    written: Mapping[str, Any]
    prefix: str
    weights: tuple[Weight, ...]
    ignored: tuple[str, ...]
    gguf: "GGUFKeys | None" = None


@dataclasses.dataclass(frozen=True)
class GGUFKeys:
    """What the metadata of a family's GGUF files is called, and how they keep its matrices.

    Attributes:
      keys: key of config.json -> key of the metadata behind the architecture's name and a dot.
      permuted: ends of names of matrices whose rows llama.cpp's converter reorders per head,
        from half-split rotary pairs to neighbouring ones; query heads first, key heads second.
      transposed: ends of names of matrices stored as (outputs, inputs) in GGUF, unlike in the
        family's own checkpoints.
    """

    keys: Mapping[str, str]
    permuted: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()


def _qkv_widths(config: GPTConfig) -> tuple[int, ...]:
    keys = config.num_kv_heads * config.head_dim
    return config.num_heads * config.head_dim, keys, keys


def _gate_up_widths(config: GPTConfig) -> tuple[int, ...]:
    return config.intermediate_size, config.intermediate_size


ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new"),
    "relu": ("relu",),
}

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/
_BLOCK = "layers.{i}."
_QKV = tuple(f"{_BLOCK}self_attn.{x}_proj." for x in "qkv")
_GATE_UP = (f"{_BLOCK}mlp.gate_proj.", f"{_BLOCK}mlp.up_proj.")
LLAMA = Family(
    model_type="llama",
    architectures={
        "CausalLM": "LlamaForCausalLM",
        "SequenceClassifier": "LlamaForSequenceClassification",
    },
    fixed={"norm": "rms", "gated": True, "causal": True, "sliding_window": 0},
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
    rotary=True,
    token_ids=(1, 2, None),
    supported={"partial_rotary_factor": (1.0,)},
    written={"attention_dropout": 0.0, "pretraining_tp": 1},
    prefix="model.",
    weights=(
        Weight("embedding/table", ("embed_tokens.weight",)),
        Weight("embedding/head", ("lm_head.weight",)),
        Weight("block_{i}/attention_norm/scale", (_BLOCK + "input_layernorm.weight",)),
        Weight("block_{i}/attention/qkv/kernel", tuple(n + "weight" for n in _QKV),
               widths=_qkv_widths),
        Weight("block_{i}/attention/qkv/bias", tuple(n + "bias" for n in _QKV),
               widths=_qkv_widths),
        Weight("block_{i}/attention/out/kernel", (_BLOCK + "self_attn.o_proj.weight",)),
        Weight("block_{i}/attention/out/bias", (_BLOCK + "self_attn.o_proj.bias",)),
        Weight("block_{i}/feed_forward_norm/scale", (_BLOCK + "post_attention_layernorm.weight",)),
        Weight("block_{i}/feed_forward/up/kernel", tuple(n + "weight" for n in _GATE_UP),
               widths=_gate_up_widths),
        Weight("block_{i}/feed_forward/up/bias", tuple(n + "bias" for n in _GATE_UP),
               widths=_gate_up_widths),
        Weight("block_{i}/feed_forward/down/kernel", (_BLOCK + "mlp.down_proj.weight",)),
        Weight("block_{i}/feed_forward/down/bias", (_BLOCK + "mlp.down_proj.bias",)),
        Weight("final_norm/scale", ("norm.weight",)),
    ),
    ignored=(".rotary_emb.inv_freq",),
    # https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py, class LlamaModel
    gguf=GGUFKeys(
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

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/
# Its Conv1D keeps a matrix as (inputs, outputs), and c_attn joins query, key and value already.
GPT2 = Family(
    model_type="gpt2",
    architectures={
        "CausalLM": "GPT2LMHeadModel",
        "SequenceClassifier": "GPT2ForSequenceClassification",
    },
    fixed={
        "norm": "layer", "gated": False, "causal": True, "sliding_window": 0, "rotary": None,
        "num_kv_heads": 0, "head_dim": 0,
        "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True,
    },
    keys={
        "vocab_size": Key(("vocab_size",), int),
        "hidden_size": Key(("n_embd",), int),
        "num_layers": Key(("n_layer",), int),
        "num_heads": Key(("n_head",), int),
        "intermediate_size": Key(("n_inner",), int, 0),  # 0 stands for 4 D
        "max_position_embeddings": Key(("n_positions",), int, 1024),
        "norm_epsilon": Key(("layer_norm_epsilon",), float, 1e-5),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, True),
        "initializer_range": Key(("initializer_range",), float, 0.02),
        "dropout": Key(("resid_pdrop", "embd_pdrop"), float, 0.1),
    },
    activation_key="activation_function",
    activations={**ACTIVATIONS, "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh")},
    rotary=False,
    token_ids=(50256, 50256, None),
    supported={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    # Dropout of attention weights is not ours to compute.
    written={"attn_pdrop": 0.0},
    prefix="transformer.",
    weights=(
        Weight("embedding/table", ("wte.weight",)),
        Weight("embedding/head", ("lm_head.weight",)),
        Weight("embedding/positions", ("wpe.weight",), transposed=False),
        Weight("block_{i}/attention_norm/scale", ("h.{i}.ln_1.weight",)),
        Weight("block_{i}/attention_norm/bias", ("h.{i}.ln_1.bias",)),
        Weight("block_{i}/attention/qkv/kernel", ("h.{i}.attn.c_attn.weight",), transposed=False),
        Weight("block_{i}/attention/qkv/bias", ("h.{i}.attn.c_attn.bias",)),
        Weight("block_{i}/attention/out/kernel", ("h.{i}.attn.c_proj.weight",), transposed=False),
        Weight("block_{i}/attention/out/bias", ("h.{i}.attn.c_proj.bias",)),
        Weight("block_{i}/feed_forward_norm/scale", ("h.{i}.ln_2.weight",)),
        Weight("block_{i}/feed_forward_norm/bias", ("h.{i}.ln_2.bias",)),
        Weight("block_{i}/feed_forward/up/kernel", ("h.{i}.mlp.c_fc.weight",), transposed=False),
        Weight("block_{i}/feed_forward/up/bias", ("h.{i}.mlp.c_fc.bias",)),
        Weight("block_{i}/feed_forward/down/kernel", ("h.{i}.mlp.c_proj.weight",),
               transposed=False),
        Weight("block_{i}/feed_forward/down/bias", ("h.{i}.mlp.c_proj.bias",)),
        Weight("final_norm/scale", ("ln_f.weight",)),
        Weight("final_norm/bias", ("ln_f.bias",)),
    ),
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks that old versions stored
    # https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py, class GPT2Model
    gguf=GGUFKeys(
        keys={
            "vocab_size": "vocab_size",
            "n_embd": "embedding_length",
            "n_layer": "block_count",
            "n_head": "attention.head_count",
            "n_inner": "feed_forward_length",
            "n_positions": "context_length",
            "layer_norm_epsilon": "attention.layer_norm_epsilon",
        },
        transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),
    ),
)  # fmt: skip

FAMILIES = {family.model_type: family for family in (LLAMA, GPT2)}
