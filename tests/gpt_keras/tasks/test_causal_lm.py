"""CausalLM: logits from token ids."""

import numpy as np
import pytest

from gpt_keras import CausalLM

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (2, 9)).astype(np.int32)


@pytest.mark.parametrize("tied", [True, False])
def test_as_a_layer(tiny, check_layer, tied):
    config = tiny.replace(tie_embeddings=tied)
    check_layer(lambda policy: CausalLM(config, dtype=policy), IDS, output_dtype="float32")


def test_logits_are_hidden_states_times_the_head(tiny):
    model = CausalLM(tiny.replace(tie_embeddings=False))
    expected = model.backbone(IDS).numpy() @ model.backbone.embedding.head.numpy()
    logits = model(IDS)
    assert logits.shape == (2, 9, 37)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_packed_and_padded(tiny):
    model = CausalLM(tiny)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]] * 2)
    mask = segments == 1
    packed, alone = model(IDS, segment_ids=segments), model(IDS[:, :4])
    np.testing.assert_allclose(packed[:, :4], alone, rtol=1e-4, atol=1e-5)
    padded = model(IDS, padding_mask=mask)
    np.testing.assert_allclose(padded[:, :4], alone, rtol=1e-4, atol=1e-5)


def test_a_bidirectional_model_is_none(tiny):
    with pytest.raises(ValueError, match=r"causal=False: a bidirectional model .* use MaskedLM"):
        CausalLM(tiny.replace(causal=False))


def test_no_tokenizer(tiny, tmp_path):
    model = CausalLM(tiny)
    with pytest.raises(ValueError, match=r"no tokenizer: put tokenizer\.json"):
        model.require_tokenizer()
    model.save_pretrained(tmp_path / "model")
    assert CausalLM.from_pretrained(tmp_path / "model").tokenizer is None
    with pytest.raises(ValueError, match="nowhere: no such"):
        CausalLM.from_pretrained(tmp_path / "nowhere")


def test_fields_can_be_changed_on_reading(tiny, tmp_path):
    CausalLM(tiny).save_pretrained(tmp_path / "model")
    model = CausalLM.from_pretrained(tmp_path / "model", dropout=0.3, dtype="mixed_bfloat16")
    assert model.config == tiny.replace(dropout=0.3)
    assert model.dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(ValueError, match=r"dropout=2\.0"):
        CausalLM.from_pretrained(tmp_path / "model", dropout=2.0)
