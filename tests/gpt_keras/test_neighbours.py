"""The encoder that has learned nothing but where to look."""

import numpy as np
import pytest

from gpt_keras import GPTConfig, MaskedLM
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.neighbours import OFFSETS, look_around


@pytest.mark.parametrize(("D", "H", "looking"), [(192, 6, 4), (128, 4, 3)])
def test_heads_look_at_their_offsets(D, H, looking):
    T = 64
    config = GPTConfig(
        vocab_size=300, hidden_size=D, num_layers=2, num_heads=H, intermediate_size=32,
        max_position_embeddings=T, token_types=2, model_type="bert", initializer_range=D**-0.5,
        **FAMILIES["bert"].fixed,
    )  # fmt: skip
    model = MaskedLM(config)
    look_around(model)
    weights = {weight.path: weight.numpy() for weight in model.weights}
    ids = np.random.default_rng(1).integers(0, 300, T)
    x = weights["embedding/table"].T[ids] + weights["embedding/positions"]  # (T, D)
    assert not weights["embedding/table"][:32].any()
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    for block in range(2):
        q, k, _ = np.split(x @ weights[f"block_{block}/attention/qkv/kernel"], 3, axis=1)
        for i in range(H):
            part = slice(i * 32, (i + 1) * 32)
            scores = np.exp(q[:, part] @ k[:, part].T / 32**0.5)  # (T, T)
            scores /= scores.sum(axis=1, keepdims=True)
            seen = {o: np.diagonal(scores, o).mean() for o in range(-4, 5)}
            if i < looking:
                assert seen.pop(OFFSETS[i]) > 0.4
            assert max(seen.values()) < 0.1
