"""Families of checkpoints, as data: how each writes its configuration and names its weights.

A family is added by adding a `Family` here; no model code knows its name.
"""

from gpt_keras.checkpoint.families.bert import BERT, ROBERTA, XLM_ROBERTA
from gpt_keras.checkpoint.families.family import Family, Weight
from gpt_keras.checkpoint.families.gemma import GEMMA, GEMMA2, GEMMA3_TEXT
from gpt_keras.checkpoint.families.gpt2 import GPT2
from gpt_keras.checkpoint.families.gpt_neox import GPT_NEOX
from gpt_keras.checkpoint.families.llama import (
    LLAMA,
    MISTRAL,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    SMOLLM3,
    STARCODER2,
)
from gpt_keras.checkpoint.families.moe import MIXTRAL, QWEN3_MOE

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA, GPT2, MISTRAL, QWEN2, QWEN3, SMOLLM3, OLMO2, PHI3, STARCODER2, GPT_NEOX, GEMMA,
        GEMMA2, GEMMA3_TEXT, MIXTRAL, QWEN3_MOE, BERT, ROBERTA, XLM_ROBERTA,
    )
}  # fmt: skip

__all__ = ["FAMILIES", "Family", "Weight"]
