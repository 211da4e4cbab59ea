"""QuestionAnswerer beside the classes of transformers, from their directories and into them."""

import numpy as np
import pytest

from gpt_keras import QuestionAnswerer, tasks

pytestmark = pytest.mark.oracle

BASE = {
    "vocab_size": 83, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2,
    "num_attention_heads": 6, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
CASES = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "Qwen2": {"num_key_value_heads": 3},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "SmolLM3": {"num_key_value_heads": 2},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 3, "sliding_window": None},
    "Qwen3Moe": {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 3,
                 "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    "GPT2": {},
    "GPTNeoX": {"rotary_pct": 1.0},
    "Bert": {"type_vocab_size": 2},
    "Roberta": {"type_vocab_size": 1},
    "XLMRoberta": {"type_vocab_size": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_logits(name, tmp_path):
    import torch
    import transformers

    torch.manual_seed(1)
    kind = getattr(transformers, f"{name}ForQuestionAnswering")
    config = kind.config_class(**{**BASE, **CASES[name]}, architectures=[kind.__name__])
    reference = kind(config).eval()
    reference.save_pretrained(tmp_path / "theirs")
    ids = np.random.default_rng(0).integers(3, 83, (2, 9))
    mask = np.arange(9) < np.array([[9], [5]])
    ids[~mask] = 0

    def logits_of(model):
        with torch.no_grad():
            found = model(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
        return np.stack([found.start_logits, found.end_logits], axis=-1)[mask]

    assert tasks.of(tmp_path / "theirs") is QuestionAnswerer
    model = QuestionAnswerer.from_pretrained(tmp_path / "theirs")
    expected = logits_of(reference)
    ours = model(ids.astype(np.int32), padding_mask=mask).numpy()[mask]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "ours")
    back, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    np.testing.assert_allclose(logits_of(back.eval()), expected, rtol=1e-5, atol=1e-5)
