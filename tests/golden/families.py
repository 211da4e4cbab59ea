"""Tiny models of every family, whose weights come from a seed; needs numpy alone.

`write_families.py` writes what transformers computes with them, `tests/gpt_keras/test_parity.py`
compares. A file of a case has neither weights nor whole gradients: of a gradient it keeps the
product with a direction, also from a seed, and its length.
"""

import zlib

import numpy as np

BASE = {"vocab_size": 83, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
        "num_attention_heads": 6, "pad_token_id": 0, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
# The texts have 11, 7 and 2 tokens, which is beyond this.
SHORT = {"max_position_embeddings": 6}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "beta_fast": 4.0,
        "original_max_position_embeddings": 6}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e3, "short_factor": [1.0, 1.1, 1.2],
            "long_factor": [1.0, 2.5, 4.0], "original_max_position_embeddings": 6}  # fmt: skip
LABELS = {"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}}

# name -> (class of transformers, its configuration beside BASE)
CASES = {
    "llama_dynamic": ("LlamaForCausalLM", {"rope_parameters": DYNAMIC, **SHORT}),
    "llama_yarn": ("LlamaForCausalLM", {"rope_parameters": YARN}),
    "llama_yarn_scaled": ("LlamaForCausalLM", {
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}),
    "llama_yarn_factor": (
        "LlamaForCausalLM", {"rope_parameters": {**YARN, "attention_factor": 1.5}},
    ),
    "llama_longrope": ("LlamaForCausalLM", {"rope_parameters": LONGROPE}),
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 2, "sliding_window": 4}),
    "mistral_no_window": ("MistralForCausalLM", {
        "sliding_window": None, "num_key_value_heads": 6, "head_dim": 10}),
    "mistral_classifier": ("MistralForSequenceClassification", {
        "num_key_value_heads": 3, "sliding_window": 3, **LABELS}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2_some_windows": ("Qwen2ForCausalLM", {
        "num_key_value_heads": 6, "use_sliding_window": True, "sliding_window": 3,
        "max_window_layers": 2}),
    "qwen2_classifier": ("Qwen2ForSequenceClassification", {"num_key_value_heads": 1, **LABELS}),
    "qwen3": ("Qwen3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 10}),
    "qwen3_some_windows": ("Qwen3ForCausalLM", {
        "num_key_value_heads": 3, "head_dim": 6, "use_sliding_window": True, "sliding_window": 4,
        "attention_bias": True, "tie_word_embeddings": True,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    "qwen3_yarn": ("Qwen3ForCausalLM", {
        "num_key_value_heads": 3, "head_dim": 8, "rope_parameters": YARN}),
    "smollm3": ("SmolLM3ForCausalLM", {"num_key_value_heads": 2, "no_rope_layer_interval": 2}),
    "smollm3_windows": ("SmolLM3ForCausalLM", {
        "num_key_value_heads": 6, "no_rope_layers": [0, 1, 1], "sliding_window": 3,
        "use_sliding_window": True, "attention_bias": True, "mlp_bias": True,
        "tie_word_embeddings": False}),
    "smollm3_classifier": (
        "SmolLM3ForSequenceClassification", {"num_key_value_heads": 3, **LABELS},
    ),
    "olmo2": ("Olmo2ForCausalLM", {"num_key_value_heads": 2}),
    "olmo2_classifier": ("Olmo2ForSequenceClassification", LABELS),
    "phi3": ("Phi3ForCausalLM", {"num_key_value_heads": 2, "sliding_window": 4}),
    "phi3_longrope": ("Phi3ForCausalLM", {
        "original_max_position_embeddings": 6, "rope_parameters": LONGROPE}),
    "phi3_longrope_short": ("Phi3ForCausalLM", {
        "original_max_position_embeddings": 16, "rope_parameters": LONGROPE}),
    "phi3_longrope_partial": ("Phi3ForCausalLM", {
        "original_max_position_embeddings": 6, "tie_word_embeddings": True,
        "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.7, "short_factor": [1.0, 1.1],
                            "long_factor": [3.0, 2.0]}}),
    "phi3_classifier": ("Phi3ForSequenceClassification", LABELS),
    "starcoder2": ("Starcoder2ForCausalLM", {"num_key_value_heads": 2, "sliding_window": 5}),
    "starcoder2_unbiased": ("Starcoder2ForCausalLM", {
        "num_key_value_heads": 6, "use_bias": False, "tie_word_embeddings": False}),
    "starcoder2_classifier": (
        "Starcoder2ForSequenceClassification", {"num_key_value_heads": 1, **LABELS},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {"tie_word_embeddings": False, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.4}}),
    "gpt_neox_serial": ("GPTNeoXForCausalLM", {
        "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
        "rope_parameters": {**YARN, "partial_rotary_factor": 0.7}}),
    "gpt_neox_classifier": ("GPTNeoXForSequenceClassification", {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                            "partial_rotary_factor": 1.0}, **LABELS}),
    "gemma": ("GemmaForCausalLM", {"num_key_value_heads": 1, "head_dim": 10}),
    "gemma_classifier": ("GemmaForSequenceClassification", {
        "num_key_value_heads": 6, "head_dim": 6, "attention_bias": True, **LABELS}),
    "gemma2": ("Gemma2ForCausalLM", {
        "num_key_value_heads": 2, "head_dim": 10, "sliding_window": 4,
        "query_pre_attn_scalar": 7, "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.5}),
    "gemma2_uncapped": ("Gemma2ForCausalLM", {
        "num_key_value_heads": 3, "head_dim": 6, "sliding_window": 3, "tie_word_embeddings": False,
        "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "hidden_activation": "gelu"}),
    "gemma2_classifier": ("Gemma2ForSequenceClassification", {
        "num_key_value_heads": 6, "head_dim": 6, "sliding_window": 4,
        "attn_logit_softcapping": 1.0, **LABELS}),
    "gemma3_text": ("Gemma3ForCausalLM", {
        "num_key_value_heads": 2, "head_dim": 10, "sliding_window": 4,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}),
    "gemma3_text_capped": ("Gemma3ForCausalLM", {
        "num_key_value_heads": 3, "head_dim": 8, "sliding_window": 3, "num_hidden_layers": 7,
        "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 9}),
    "gemma3_text_classifier": ("Gemma3TextForSequenceClassification", {
        "num_key_value_heads": 6, "head_dim": 6, "sliding_window": 4, **LABELS}),
    "mixtral": ("MixtralForCausalLM", {
        "num_key_value_heads": 2, "num_local_experts": 5, "sliding_window": 4}),
    "mixtral_classifier": ("MixtralForSequenceClassification", {
        "num_key_value_heads": 6, "num_local_experts": 3, "num_experts_per_tok": 1, **LABELS}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {
        "num_key_value_heads": 3, "head_dim": 10, "moe_intermediate_size": 14, "num_experts": 7,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "attention_bias": True}),
    "qwen3_moe_normalized": ("Qwen3MoeForCausalLM", {
        "num_key_value_heads": 6, "head_dim": 6, "moe_intermediate_size": 14, "num_experts": 4,
        "num_experts_per_tok": 4, "norm_topk_prob": True, "tie_word_embeddings": True,
        "use_sliding_window": True, "sliding_window": 3}),
    "bert": ("BertForMaskedLM", {}),
    "bert_relu": ("BertForMaskedLM", {
        "hidden_act": "relu", "type_vocab_size": 3, "layer_norm_eps": 1e-3}),
    "bert_classifier": ("BertForSequenceClassification", LABELS),
    "bert_embedder": ("BertModel", {"num_attention_heads": 4, "hidden_act": "gelu_new"}),
    "roberta": ("RobertaForMaskedLM", {"pad_token_id": 1, "bos_token_id": 0}),
    "roberta_classifier": ("RobertaForSequenceClassification", {
        "pad_token_id": 1, "type_vocab_size": 1, **LABELS}),
    "roberta_embedder": ("RobertaModel", {"pad_token_id": 1, "intermediate_size": 33}),
    "xlm_roberta": ("XLMRobertaForMaskedLM", {"pad_token_id": 1, "type_vocab_size": 1}),
    "llama_tagger": ("LlamaForTokenClassification", {"num_key_value_heads": 2, **LABELS}),
    "qwen3_tagger": ("Qwen3ForTokenClassification", {
        "num_key_value_heads": 3, "head_dim": 10, **LABELS}),
    "gpt2_tagger": ("GPT2ForTokenClassification", LABELS),
    "gpt_neox_tagger": ("GPTNeoXForTokenClassification", {"rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}, **LABELS}),
    "bert_tagger": ("BertForTokenClassification", LABELS),
    "roberta_tagger": ("RobertaForTokenClassification", {"pad_token_id": 1, **LABELS}),
    "llama_embedder": ("LlamaModel", {"num_key_value_heads": 2}),
}  # fmt: skip


def task_of(architecture: str) -> str:
    """Name of our class for one of transformers."""
    if architecture.endswith("ForSequenceClassification"):
        return "SequenceClassifier"
    if architecture.endswith("ForTokenClassification"):
        return "TokenClassifier"
    if architecture.endswith("ForMaskedLM"):
        return "MaskedLM"
    is_bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    return "TextEmbedder" if is_bare else "CausalLM"


def token_types(mask, kinds: int):
    """Types (B, T) of the tokens of rows with that mask, all kinds in turn; None without kinds."""
    return np.cumsum(mask, axis=1) // 2 % kinds if kinds else None


def padded(vocab_size: int, side: str):
    """Token ids (3, 11) with 0 at the padding only, and the mask of real tokens."""
    token_ids = np.random.default_rng(2).integers(3, vocab_size, (3, 11))
    mask = np.arange(11) < np.array([[11], [7], [2]])
    mask = mask[:, ::-1].copy() if side == "left" else mask
    return np.where(mask, token_ids, 0), mask


def targets_of(token_ids, mask, is_classifier: bool, classes: int = 83):
    """A class for each row, or the token after each (3, 10); -100 where one of both is padding.

    With fewer classes than tokens, as of a tagger, what the token leaves when divided by them.
    """
    if is_classifier:
        return np.array([4, 0, 1])
    return np.where(mask[:, 1:] & mask[:, :-1], token_ids[:, 1:] % classes, -100)


def weight(name: str, shape) -> np.ndarray:
    """Large enough that every number of it matters to the logits."""
    values = 0.15 * _normal(name, shape)
    return values + np.float32(1) if len(shape) == 1 and name.endswith("weight") else values


def product(name: str, gradient) -> np.ndarray:
    """(2,): product of a tensor's gradient with a direction, and its length."""
    gradient = np.asarray(gradient, np.float64)
    along = np.sum(gradient * _normal(f"direction of {name}", gradient.shape))
    return np.array([along, np.linalg.norm(gradient)])


def _normal(name, shape):
    seed = zlib.crc32(name.encode())
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
