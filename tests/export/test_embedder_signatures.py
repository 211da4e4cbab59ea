"""What a served embedder says and what it refuses, in a plain session."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import saved_model, signatures, verification
from gpt_keras.pooling import SentenceEmbedding

pytestmark = pytest.mark.xdist_group("exported_embedder")  # one export for all of them

TEXTS = ["I am so happy about this!", "今天天气很好 🙂", "", "x\0y", "The weather is nice " * 40]


def test_signatures(embedder):
    defs = embedder.loaded.signature_defs
    for name in ("serving_default", "embed"):
        assert defs[name].method_name == signatures.PREDICT
        assert set(defs[name].inputs) == {"texts"}
        (info,) = defs[name].outputs.values()
        assert [dim.size for dim in info.tensor_shape.dim] == [-1, 24]


def test_says_what_the_python_model_says(embedder):
    expected = embedder.model.embed(tf.constant(TEXTS)).numpy()
    for name in ("serving_default", "embed"):
        answer = embedder.loaded.run(name, {"texts": TEXTS})["embedding"]
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(embedder):
    together = embedder.loaded.run("embed", {"texts": TEXTS})["embedding"]
    for row, text in enumerate(TEXTS):
        alone = embedder.loaded.run("embed", {"texts": [text]})["embedding"]
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_a_text_longer_than_its_limit_loses_its_end(embedder):
    tokens = embedder.model.tokenizer.tokenize(TEXTS[-1:])
    assert tokens.row_lengths()[0] > 20
    beginning = embedder.model.tokenizer.detokenize(tokens[:, :20]).numpy().tolist()
    both = embedder.loaded.run("embed", {"texts": [TEXTS[-1].encode(), *beginning]})["embedding"]
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_no_rows_and_bad_texts(embedder):
    assert embedder.loaded.run("embed", {"texts": []})["embedding"].shape == (0, 24)
    with pytest.raises(tf.errors.InvalidArgumentError, match="texts of row 1 is not valid UTF-8"):
        embedder.loaded.run("embed", {"texts": ["ok", b"\xff"]})


def test_a_difference_is_found(embedder):
    entries = signatures.of(embedder.model)
    verification.verify(embedder.saved_model_dir, embedder.model, entries)
    other = gpt_keras.TextEmbedder(
        embedder.model.config, embedder.model.tokenizer, embedding=SentenceEmbedding("first")
    )
    other.set_weights(embedder.model.get_weights())
    with pytest.raises(ValueError, match=r"answers otherwise .* embed\(.*The capital"):
        verification.verify(embedder.saved_model_dir, other, entries)


def test_a_masked_language_model_is_not_served(tokenizer):
    keras.utils.set_random_seed(1)
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, num_layers=1, num_heads=2,
        intermediate_size=8, causal=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="a MaskedLM has no signatures"):
        signatures.of(gpt_keras.MaskedLM(config, tokenizer))


def test_the_task_is_read_from_the_directory(embedder, tmp_path):
    embedder.model.save_pretrained(tmp_path / "model")
    assert isinstance(saved_model.load(tmp_path / "model"), gpt_keras.TextEmbedder)
