"""MaskedLM: logits of the token at each place."""

import numpy as np
import pytest

from gpt_keras import MaskedLM

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (2, 9)).astype(np.int32)


@pytest.fixture
def config(tiny):
    return tiny.replace(causal=False, norm="layer", activation="relu")


def test_as_a_layer(config, check_layer):
    check_layer(lambda policy: MaskedLM(config, dtype=policy), IDS, output_dtype="float32")


def test_logits(config):
    model = MaskedLM(config)
    model.transform.bias.assign(RNG.normal(size=37))
    x, dense = model.backbone(IDS).numpy(), model.transform.dense
    x = np.maximum(x @ dense.kernel.numpy() + dense.bias.numpy(), 0)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_epsilon)
    expected = x @ model.backbone.embedding.table.numpy() + model.transform.bias.numpy()
    np.testing.assert_allclose(model(IDS), expected, rtol=1e-3, atol=1e-4)


def test_each_place_sees_both_sides_but_no_padding(config):
    model = MaskedLM(config)
    other = IDS.copy()
    other[:, -1] = 5
    assert (np.abs(model(IDS) - model(other)) > 1e-4).any(axis=-1).all()
    mask = np.arange(9)[None] < [[8]] * 2
    ours, theirs = (model(ids, padding_mask=mask)[:, :8] for ids in (IDS, other))
    np.testing.assert_array_equal(ours, theirs)


def test_a_causal_model_is_none(tiny):
    with pytest.raises(ValueError, match=r"causal=True: a model .* use CausalLM"):
        MaskedLM(tiny)
