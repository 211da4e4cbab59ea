"""config.json to GPTConfig and back."""

import pytest

from gpt_keras import GPTConfig, RotaryConfig
from gpt_keras.checkpoint import hf_config
from gpt_keras.checkpoint.fields import Fields

LLAMA = {"model_type": "llama", "vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 6, "intermediate_size": 40}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 32, "n_embd": 24, "n_layer": 2, "n_head": 6,
        "n_positions": 16}  # fmt: skip
TINY = GPTConfig(vocab_size=32, hidden_size=24, num_layers=2, num_heads=6, intermediate_size=40)
# The published config.json of HuggingFaceTB/SmolLM2-135M-Instruct, as transformers 4 wrote it.
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
    "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
    "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
    "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def parse(values, **changes):
    return hf_config.from_fields(Fields({**values, **changes}, "dir/config.json"))


def test_smollm2():
    assert parse(SMOLLM2) == GPTConfig(
        vocab_size=49152, hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3,
        intermediate_size=1536, max_position_embeddings=8192, rotary=RotaryConfig(100000.0),
        initializer_range=0.041666666666666664, bos_token_id=1, eos_token_ids=(2,), pad_token_id=2,
    )  # fmt: skip


def test_what_is_absent_is_what_transformers_assumes():
    config = parse(LLAMA)
    assert (config.norm_epsilon, config.tie_embeddings) == (1e-6, False)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), None)
    assert (config.num_kv_heads, config.head_dim) == (6, 4)
    config = parse(GPT2)
    assert (config.activation, config.intermediate_size) == ("gelu_tanh", 96)
    assert (config.tie_embeddings, config.dropout, config.rotary) == (True, 0.1, None)
    assert config.eos_token_ids == (50256,)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    ],
)
def test_rotary_scaling_in_every_form(changes):
    rotary = parse(LLAMA, **changes).rotary
    assert rotary.theta == 5e5
    assert dict(rotary.scaling) == {"rope_type": "llama3", **LLAMA3}


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({}, 1e4, {}),
        ({"rope_theta": 2e4, "rope_scaling": None}, 2e4, {}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}}, 3e4, {}),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 1e4,
         {"rope_type": "linear", "factor": 4.0}),
    ],
)  # fmt: skip
def test_rotary(changes, theta, scaling):
    rotary = parse(LLAMA, **changes).rotary
    assert (rotary.theta, dict(rotary.scaling)) == (theta, scaling)


def test_token_ids():
    config = parse(LLAMA, bos_token_id=None, eos_token_id=[2, 7], pad_token_id=-1)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (None, (2, 7), None)
    assert parse(LLAMA, eos_token_id=None).eos_token_ids == ()


def test_labels():
    classifier = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    assert parse(classifier, id2label={"1": "b", "0": "a"}).id2label == ("a", "b")
    assert parse(classifier, num_labels=3).id2label == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert parse(classifier).id2label == ("LABEL_0", "LABEL_1")
    # Old versions wrote two dummy labels into every configuration.
    assert parse(LLAMA, id2label={"0": "LABEL_0", "1": "LABEL_1"}).id2label == ()
    with pytest.raises(ValueError, match="without a gap"):
        parse(classifier, id2label={"0": "a", "2": "b"})
    with pytest.raises(ValueError, match="problem_type='ranking': expected single_label"):
        parse(classifier, problem_type="ranking")


@pytest.mark.parametrize(
    ("problem", "task", "labels"),
    [
        ("single_label_classification", "SequenceClassifier", 3),
        ("multi_label_classification", "SequenceClassifier", 3),
        ("regression", "SequenceRegressor", 1),
    ],
)
def test_what_a_class_for_sequence_classification_does(problem, task, labels):
    values = {
        **LLAMA, "architectures": ["LlamaForSequenceClassification"], "num_labels": labels,
        "problem_type": problem,
    }  # fmt: skip
    config = parse(values)
    assert hf_config.task_of(Fields(values, "config.json")) == task
    assert ("problem_type" in config.task_params.get("classification", {})) == (
        problem == "multi_label_classification"
    )
    written = hf_config.to_dict(config, task)
    assert written["problem_type"] == problem
    assert written["architectures"] == values["architectures"]
    assert parse(written) == config
    if labels == 1:  # as transformers takes it
        assert hf_config.task_of(Fields({**values, "problem_type": None}, "x")) == task


MISTRAL = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 6}
QWEN2 = {**MISTRAL, "model_type": "qwen2", "num_hidden_layers": 4}
SMOLLM3 = {**LLAMA, "model_type": "smollm3", "num_hidden_layers": 5, "num_key_value_heads": 2}
PHI3 = {**LLAMA, "model_type": "phi3"}
LONGROPE = {"type": "su", "short_factor": [1, 1], "long_factor": [2, 3.5]}
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("base", "changes", "window", "layers"),
    [
        (MISTRAL, {}, 4096, ()),
        (MISTRAL, {"sliding_window": 3}, 3, ()),
        (MISTRAL, {"sliding_window": None}, 0, ()),
        (PHI3, {}, 0, ()),
        (PHI3, {"sliding_window": 5}, 5, ()),
        (QWEN2, {}, 0, ()),
        (QWEN2, {"use_sliding_window": True, "max_window_layers": 3},
         4096, (False, False, False, True)),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 9,
                 "layer_types": [SLIDING, FULL, SLIDING, FULL]}, 9, (True, False)),
        (QWEN2, {"use_sliding_window": False, "sliding_window": 9}, 0, ()),
        (SMOLLM3, {"sliding_window": 9}, 0, ()),
        (SMOLLM3, {"sliding_window": 9, "use_sliding_window": True},
         9, (False, False, False, True)),
    ],
)  # fmt: skip
def test_sliding_windows(base, changes, window, layers):
    config = parse(base, **changes)
    assert (config.sliding_window, config.window_layers) == (window, layers)


def test_layers_without_rotary_positions():
    assert parse(SMOLLM3).rotary_layers == (True, True, True, False)
    assert parse(SMOLLM3, no_rope_layer_interval=2).rotary_layers == (True, False)
    assert parse(SMOLLM3, no_rope_layers=[0, 1, 1, 0, 1]).rotary_layers == (False, True, True)
    assert parse(SMOLLM3).rotary == RotaryConfig(2e6)


def test_longrope_of_phi3_in_every_form():
    entries = {"rope_type": "longrope", "short_factor": (1.0, 1.0), "long_factor": (2.0, 3.5),
               "original_max_position_embeddings": 8}  # fmt: skip
    beside = {"original_max_position_embeddings": 8}
    for changes in (
        {**beside, "rope_scaling": LONGROPE},
        {**beside, "rope_scaling": {**LONGROPE, "type": "longrope"}},
        {**beside, "rope_parameters": {**LONGROPE, "rope_type": "longrope", **beside}},
    ):
        rotary = parse(PHI3, rope_theta=1e4, **changes).rotary
        assert dict(rotary.scaling) == entries
    absent = dict(parse(PHI3, rope_scaling=LONGROPE).rotary.scaling)
    assert absent["original_max_position_embeddings"] == 4096
    half = parse(PHI3, partial_rotary_factor=0.5, **beside).rotary
    assert half == RotaryConfig(fraction=0.5)


GEMMA2 = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 4}
MOE = {**LLAMA, "model_type": "qwen3_moe", "num_key_value_heads": 2, "moe_intermediate_size": 8}
GEMMA3 = {**GEMMA2, "model_type": "gemma3_text", "num_hidden_layers": 7}


def test_gemma():
    gemma = {**GEMMA2, "model_type": "gemma"}
    for changes in ({}, {"hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"}):
        config = parse(gemma, **changes)
        assert (config.activation, config.norm_offset) == ("gelu_tanh", 1.0)
        assert config.scale_embeddings
    config = parse(GEMMA2)
    assert (config.attention_softcap, config.logits_softcap) == (50.0, 30.0)
    assert (config.attention_scalar, config.sliding_window) == (256, 4096)
    assert config.window_layers == (True, False)
    config = parse(GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (config.attention_softcap, config.logits_softcap) == (0.0, 0.0)
    assert hf_config.to_dict(config, "CausalLM")["attn_logit_softcapping"] is None


@pytest.mark.parametrize(
    ("changes", "main", "local"),
    [
        ({}, RotaryConfig(1e6), RotaryConfig(1e4)),
        # The published config.json of google/gemma-3-4b, as transformers 4 wrote it.
        ({"rope_theta": 2e6, "rope_local_base_freq": 3e4,
          "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
         RotaryConfig(2e6, (("factor", 8.0), ("rope_type", "linear"))), RotaryConfig(3e4)),
        ({"rope_parameters": {FULL: {"rope_theta": 2e6, "rope_type": "default"},
                              SLIDING: {"rope_theta": 3e4, "rope_type": "default"}}},
         RotaryConfig(2e6), RotaryConfig(3e4)),
    ],
)  # fmt: skip
def test_two_kinds_of_rotary_positions(changes, main, local):
    config = parse(GEMMA3, **changes)
    assert [config.rotary_of(i) for i in range(7)] == [local] * 5 + [main, local]
    assert parse(hf_config.to_dict(config, "CausalLM")) == config
    other = parse(GEMMA3, sliding_window_pattern=2, **changes)
    assert [bool(other.window_of(i)) for i in range(7)] == [i % 2 == 0 for i in range(7)]


def test_gpt_neox():
    neox = {**LLAMA, "model_type": "gpt_neox", "num_attention_heads": 3}
    assert parse(neox).rotary == RotaryConfig(fraction=0.25)
    assert parse(neox).parallel_residual
    old = parse(neox, rotary_emb_base=500, rotary_pct=1.0, use_parallel_residual=False)
    assert old.rotary == RotaryConfig(500.0)
    assert not old.parallel_residual
    new = parse(neox, rope_parameters={"rope_theta": 500, "partial_rotary_factor": 0.5})
    assert new.rotary == RotaryConfig(500.0, fraction=0.5)
    for config in (old, new, parse(neox, attention_bias=False)):
        assert parse(hf_config.to_dict(config, "CausalLM")) == config


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (LLAMA, {"model_type": "t5"}, "model_type='t5': unsupported; supported are llama, gpt2"),
        (LLAMA, {"model_type": 3}, "model_type=3: expected a string"),
        (LLAMA, {"architectures": ["LlamaForMaskedLM"]}, "supported are LlamaForCausal"),
        (LLAMA, {"architectures": "LlamaForCausalLM"}, "architectures='LlamaForCausalLM'"),
        (LLAMA, {"hidden_size": "24"}, "hidden_size='24': expected an integer"),
        (LLAMA, {"hidden_size": True}, "hidden_size=True: expected an integer"),
        (LLAMA, {"hidden_size": None}, "hidden_size is missing"),
        (LLAMA, {"hidden_size": -24}, "hidden_size=-24"),
        (LLAMA, {"num_attention_heads": 7}, "num_heads=7"),
        (LLAMA, {"num_key_value_heads": 4}, "num_kv_heads=4"),
        (LLAMA, {"attention_bias": 1}, "attention_bias=1: expected true or false"),
        (LLAMA, {"hidden_act": "swiglu"}, "hidden_act='swiglu': unsupported"),
        (LLAMA, {"rope_scaling": {"type": "su", "factor": 2}}, "rope_scaling={'type': 'su'"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        (LLAMA, {"rope_scaling": 2}, "rope_scaling=2: expected an object"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        (LLAMA, {"sliding_window": 8}, "sliding_window=8: llama has none; set it to null"),
        (LLAMA, {"rope_scaling": {"type": "yarn", "factor": "4"}}, "factor='4': expected a number"),
        (LLAMA, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "turns whole heads only"),
        (LLAMA, {"rope_parameters": {FULL: {"rope_theta": 1e4}}}, "expected one for all layers"),
        (QWEN2, {"use_sliding_window": 1}, "use_sliding_window=1: expected true or false"),
        (QWEN2, {"use_sliding_window": True, "layer_types": [FULL]}, "a string for each layer"),
        (
            QWEN2,
            {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 4},
            "unsupported; supported are full_attention, sliding_attention",
        ),
        (SMOLLM3, {"no_rope_layers": [1, 1]}, "expected an integer for each layer"),
        (MOE, {"mlp_only_layers": [1]}, "mlp_only_layers=[1]: unsupported"),
        (MOE, {"decoder_sparse_step": 2}, "decoder_sparse_step=2: unsupported"),
        (MOE, {"num_experts_per_tok": 200}, "experts_per_token=200: expected 1 to num_experts=128"),
        (GEMMA2, {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        (SMOLLM3, {"num_hidden_layers": 10**9}, "1000000000 layers: expected 10000 at most"),
        (PHI3, {"rope_scaling": {**LONGROPE, "type": "linear"}}, "supported are default, longrope"),
        (PHI3, {"rope_scaling": {**LONGROPE, "long_factor": [1]}}, "expected 2 numbers"),
        (MISTRAL, {"layer_types": [FULL] * 2}, "supported is None"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "quantized checkpoints are not read"),
        (LLAMA, {"eos_token_id": ["</s>"]}, "eos_token_id"),
        (LLAMA, {"bos_token_id": [1, 2]}, "expected one token id"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        (GPT2, {"add_cross_attention": True}, "supported is False"),
        (GPT2, {"activation_function": "tanh"}, "activation_function='tanh'"),
    ],
)
def test_refused_by_file_key_and_value(base, changes, words):
    with pytest.raises(ValueError) as caught:
        parse(base, **changes)
    assert str(caught.value).startswith("dir/config.json: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


GPT2_CONFIG = GPTConfig(
    vocab_size=32, hidden_size=24, num_layers=2, num_heads=6, intermediate_size=50, norm="layer",
    activation="gelu_tanh", gated=False, rotary=None, qkv_bias=True, attention_output_bias=True,
    mlp_bias=True, model_type="gpt2", eos_token_ids=(3,), dropout=0.2,
)  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TINY.replace(eos_token_ids=(2, 3), bos_token_id=1, pad_token_id=0, tie_embeddings=False),
        TINY.replace(head_dim=6, num_kv_heads=2, activation="gelu_tanh", norm_epsilon=1e-3),
        TINY.replace(qkv_bias=True, attention_output_bias=True, mlp_bias=True),
        TINY.replace(rotary=RotaryConfig(5e5, (*sorted(LLAMA3.items()), ("rope_type", "llama3")))),
        GPT2_CONFIG,
        GPT2_CONFIG.replace(activation="relu", tie_embeddings=False),
    ],
)  # fmt: skip
def test_round_trip(config):
    assert parse(hf_config.to_dict(config, "CausalLM")) == config
    labelled = config.replace(id2label=("x", "y"))
    assert parse(hf_config.to_dict(labelled, "SequenceClassifier")) == labelled


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TINY.replace(causal=False), "causal=False cannot be written as model_type='llama'"),
        (TINY.replace(sliding_window=8), "sliding_window=8"),
        (TINY.replace(norm="layer"), "norm='layer'"),
        (TINY.replace(gated=False), "gated=False"),
        (TINY.replace(rotary=None), "rotary=None"),
        (TINY.replace(qkv_bias=True), "qkv_bias=True"),
        (TINY.replace(model_type="gpt2"), "cannot be written as model_type='gpt2'"),
        (TINY.replace(model_type="own"), "model_type='own' cannot be written"),
        (GPT2_CONFIG.replace(num_kv_heads=2), "num_kv_heads=2"),
        (GPT2_CONFIG.replace(head_dim=8), "head_dim=8"),
    ],
)
def test_what_the_family_cannot_express_is_not_written(config, words):
    with pytest.raises(ValueError) as caught:
        hf_config.to_dict(config, "CausalLM")
    assert words in str(caught.value)


def test_task_without_a_class_in_hugging_face():
    with pytest.raises(ValueError, match="no llama class for Tagger"):
        hf_config.to_dict(TINY, "Tagger")
