"""BERT, RoBERTa, XLM-R: bidirectional encoders."""

import dataclasses

from gpt_keras.checkpoint.families.family import (
    ACTIVATIONS,
    Family,
    Key,
    Weight,
    qkv_widths,
    token_classifier,
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/
_EMBEDDINGS = "embeddings."
_BLOCK = "encoder.layer.{i}."
_QKV = tuple(f"{_BLOCK}attention.self.{x}." for x in ("query", "key", "value"))


def _pair(variable: str, name: str, *kinds: str) -> tuple[Weight, ...]:
    """Two variables, such as kernel and bias, and their tensors, weight and bias."""
    ends = ("weight", "bias")
    return tuple(
        Weight(f"{variable}/{kind}", (f"{name}.{end}",))
        for kind, end in zip(kinds, ends, strict=True)
    )


def _affine(variable: str, name: str) -> tuple[Weight, ...]:
    return _pair(variable, name, "kernel", "bias")


def _norm(variable: str, name: str) -> tuple[Weight, ...]:
    return _pair(variable, name, "scale", "bias")


def _architectures(name: str) -> dict[str, str]:
    return {
        "MaskedLM": f"{name}ForMaskedLM",
        "SequenceClassifier": f"{name}ForSequenceClassification",
        "TokenClassifier": f"{name}ForTokenClassification",
        "TextEmbedder": f"{name}Model",
    }


BERT = Family(
    model_type="bert",
    architectures=_architectures("Bert"),
    fixed={
        "norm": "layer", "norm_place": "sum", "gated": False, "causal": False, "rotary": None,
        "num_kv_heads": 0, "head_dim": 0, "embedding_norm": True, "pooler": True,
        "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True, "tie_embeddings": True,
    },
    keys={
        "vocab_size": Key(("vocab_size",), int),
        "hidden_size": Key(("hidden_size",), int),
        "num_layers": Key(("num_hidden_layers",), int),
        "num_heads": Key(("num_attention_heads",), int),
        "intermediate_size": Key(("intermediate_size",), int),
        "max_position_embeddings": Key(("max_position_embeddings",), int, 512),
        "token_types": Key(("type_vocab_size",), int, 2),
        "norm_epsilon": Key(("layer_norm_eps",), float, 1e-12),
        "initializer_range": Key(("initializer_range",), float, 0.02),
        "dropout": Key(("hidden_dropout_prob",), float, 0.1),
    },
    activation_key="hidden_act",
    activations={**ACTIVATIONS, "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh")},
    activation="gelu",
    token_ids=(None, None, 0),
    supported={
        "position_embedding_type": ("absolute",), "is_decoder": (False,),
        "add_cross_attention": (False,), "tie_word_embeddings": (True,),
    },
    # Dropout of attention weights is not ours to compute.
    written={"attention_probs_dropout_prob": 0.0},
    prefix="bert.",
    weights=(
        Weight("embedding/table", (_EMBEDDINGS + "word_embeddings.weight",)),
        Weight("embedding/positions", (_EMBEDDINGS + "position_embeddings.weight",),
               transposed=False),
        Weight("embedding/types", (_EMBEDDINGS + "token_type_embeddings.weight",),
               transposed=False),
        *_norm("embedding/norm", _EMBEDDINGS + "LayerNorm"),
        Weight("block_{i}/attention/qkv/kernel", tuple(n + "weight" for n in _QKV),
               widths=qkv_widths),
        Weight("block_{i}/attention/qkv/bias", tuple(n + "bias" for n in _QKV),
               widths=qkv_widths),
        *_affine("block_{i}/attention/out", _BLOCK + "attention.output.dense"),
        *_norm("block_{i}/attention_post_norm", _BLOCK + "attention.output.LayerNorm"),
        *_affine("block_{i}/feed_forward/up", _BLOCK + "intermediate.dense"),
        *_affine("block_{i}/feed_forward/down", _BLOCK + "output.dense"),
        *_norm("block_{i}/feed_forward_post_norm", _BLOCK + "output.LayerNorm"),
    ),
    heads={
        "SequenceClassifier": (
            *_affine("pooler", "bert.pooler.dense"), *_affine("score", "classifier"),
        ),
        "MaskedLM": (
            *_affine("transform/dense", "cls.predictions.transform.dense"),
            *_norm("transform/norm", "cls.predictions.transform.LayerNorm"),
            Weight("transform/bias", ("cls.predictions.bias",)),
        ),
        "TextEmbedder": _affine("pooler", "bert.pooler.dense"),
        "TokenClassifier": token_classifier("classifier"),
    },
    # Whether one sentence follows another is no task of ours, and a tied head is there twice.
    ignored=(
        ".position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias",
        "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
    ),
    former={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)  # fmt: skip

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/roberta/
ROBERTA = dataclasses.replace(
    BERT,
    model_type="roberta",
    architectures=_architectures("Roberta"),
    # The head of its language model has this activation, whatever the blocks have.
    activations={"gelu": ("gelu",)},
    token_ids=(0, 2, 1),
    prefix="roberta.",
    positions_behind_padding=True,
    heads={
        "SequenceClassifier": (
            *_affine("pooler", "classifier.dense"), *_affine("score", "classifier.out_proj"),
        ),
        "MaskedLM": (
            *_affine("transform/dense", "lm_head.dense"),
            *_norm("transform/norm", "lm_head.layer_norm"),
            Weight("transform/bias", ("lm_head.bias",)),
        ),
        "TextEmbedder": _affine("pooler", "roberta.pooler.dense"),
        "TokenClassifier": token_classifier("classifier"),
    },
    ignored=(".position_ids", "lm_head.decoder.weight", "lm_head.decoder.bias"),
)  # fmt: skip

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/xlm_roberta/
XLM_ROBERTA = dataclasses.replace(
    ROBERTA, model_type="xlm-roberta", architectures=_architectures("XLMRoberta")
)
