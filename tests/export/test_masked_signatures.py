"""What a served masked language model says and what it refuses, in a plain session."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import saved_model, signatures

pytestmark = pytest.mark.xdist_group("exported_masked_lm")  # one export for all of them

TEXTS = [
    "The capital of <mask> is Paris.", "今天<mask>很好 🙂<mask>", "", "x\0y", "no mask",
    "The weather is nice " * 40 + "<mask>",
]  # fmt: skip


def test_signatures(masked_lm):
    defs = masked_lm.loaded.signature_defs
    assert {"serving_default", "fill_mask"} == set(defs) - {"__saved_model_init_op"}
    assert defs["fill_mask"].method_name == signatures.PREDICT
    assert set(defs["fill_mask"].inputs) == {"texts"}
    assert set(defs["fill_mask"].outputs) == {"tokens", "scores", "texts", "num_masks"}


def test_says_what_the_python_model_says_whatever_the_neighbours(masked_lm):
    expected = {k: v.numpy() for k, v in masked_lm.model.fill_mask(tf.constant(TEXTS)).items()}
    assert expected["num_masks"].tolist() == [1, 2, 0, 0, 0, 0]
    answer = masked_lm.loaded.run("serving_default", {"texts": TEXTS})
    alone = [masked_lm.loaded.run("fill_mask", {"texts": [text]}) for text in TEXTS]
    alone = {name: np.concatenate([one[name] for one in alone]) for name in answer}
    for found in (answer, alone):
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
        for name in ("tokens", "texts", "num_masks"):
            np.testing.assert_array_equal(found[name], expected[name])
    assert b"<mask>" not in expected["texts"][0, 0]
    assert expected["texts"][1, 0].endswith(b"<mask>")


def test_no_rows_and_bad_texts(masked_lm):
    assert masked_lm.loaded.run("fill_mask", {"texts": []})["tokens"].shape == (0, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="texts of row 0 is not valid UTF-8"):
        masked_lm.loaded.run("fill_mask", {"texts": [b"\xff"]})


def test_a_masked_language_model_without_a_mask_token_is_not_served(tokenizer):
    keras.utils.set_random_seed(1)
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, num_layers=1, num_heads=2,
        intermediate_size=8, causal=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the tokenizer has no mask token"):
        signatures.of(gpt_keras.MaskedLM(config, tokenizer))


def test_the_task_is_read_from_the_directory(masked_lm, tmp_path):
    masked_lm.model.save_pretrained(tmp_path / "model")
    assert isinstance(saved_model.load(tmp_path / "model"), gpt_keras.MaskedLM)
