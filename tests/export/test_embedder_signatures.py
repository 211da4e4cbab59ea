"""What a served embedder says and what it refuses, in a plain session."""

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


def test_rank_answers_each_pair(embedder):
    documents = TEXTS[1:] + TEXTS[:1]
    scores = embedder.loaded.run("rank", {"queries": TEXTS, "documents": documents})["score"]
    first, second = (embedder.model.embed(tf.constant(x)).numpy() for x in (TEXTS, documents))
    np.testing.assert_allclose(scores, (first * second).sum(axis=1), atol=1e-5)  # of length 1
    for row, pair in enumerate(zip(TEXTS, documents, strict=True)):
        alone = {"queries": [pair[0]], "documents": [pair[1]]}
        assert embedder.loaded.run("rank", alone)["score"] == pytest.approx([scores[row]], abs=1e-5)
    assert embedder.loaded.run("rank", {"queries": [], "documents": []})["score"].shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="documents has 1 values and the requ"):
        embedder.loaded.run("rank", {"queries": ["a", "b"], "documents": ["a"]})


def test_a_difference_is_found(embedder):
    entries = signatures.of(embedder.model)
    verification.verify(embedder.saved_model_dir, embedder.model, entries)
    other = gpt_keras.TextEmbedder(
        embedder.model.config, embedder.model.tokenizer, embedding=SentenceEmbedding("first")
    )
    other.set_weights(embedder.model.get_weights())
    with pytest.raises(ValueError, match=r"answers otherwise .* embed\(.*The weather"):
        verification.verify(embedder.saved_model_dir, other, entries)


def test_the_task_is_read_from_the_directory(embedder, tmp_path):
    embedder.model.save_pretrained(tmp_path / "model")
    assert isinstance(saved_model.load(tmp_path / "model"), gpt_keras.TextEmbedder)
