import pytest

from gpt_keras import CausalLM, GPTConfig
from trainers.model_size import WIDTH_PER_LAYER, config_of_size, count_parameters

SMALL = {"vocab_size": 50, "hidden_size": 24, "num_layers": 3, "num_heads": 4,
         "intermediate_size": 40, "max_position_embeddings": 16}  # fmt: skip
BIASES = {"qkv_bias": True, "attention_output_bias": True, "mlp_bias": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 2, "head_dim": 8, "tie_embeddings": False},
        {"norm": "layer", "gated": False, "rotary": None, "activation": "gelu", **BIASES},
        {"num_kv_heads": 1, **BIASES},
        {"num_kv_heads": 2, "qk_norm": "head", "norm_place": "both"},
        {"num_experts": 5, "experts_per_token": 2},
        {"parallel_residual": True, "norm": "layer", "gated": False},
        {"num_kv_heads": 2, "qk_norm": "width", "norm_place": "post"},
    ],
)
def test_as_many_as_the_model_has(changes):
    config = GPTConfig(**SMALL, **changes)
    assert count_parameters(config) == CausalLM(config).count_params()


def test_as_many_as_published():
    smollm2 = GPTConfig(49152, 576, 30, 9, 1536, num_kv_heads=3)
    assert count_parameters(smollm2) == 134_515_008
    llama2 = GPTConfig(32000, 4096, 32, 32, 11008, tie_embeddings=False)
    assert count_parameters(llama2) == 6_738_415_616


@pytest.mark.parametrize("vocab_size", [512, 4096, 49152])
def test_an_architecture_of_a_size(vocab_size):
    for parameters in (1e7, 5e7, 3e8, 1e9, 7e9, 7e10):
        config = config_of_size(parameters, vocab_size, 256)
        assert count_parameters(config) == pytest.approx(parameters, rel=0.15)
        assert config.vocab_size == vocab_size
        assert config.max_position_embeddings == 256
        if parameters >= 20 * vocab_size * 512:  # below, the embedding is most of it
            ratio = config.hidden_size / config.num_layers
            assert WIDTH_PER_LAYER / 2 < ratio < WIDTH_PER_LAYER * 2
    smallest = config_of_size(1.0, vocab_size)
    assert (smallest.hidden_size, smallest.num_layers) == (16, 1)
