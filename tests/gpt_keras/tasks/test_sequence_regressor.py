"""SequenceRegressor: a number a text."""

import numpy as np
import pytest

from gpt_keras import SequenceRegressor
from gpt_keras.losses import PLAIN, Regularizers
from gpt_keras.tokenizers import train_byte_level_bpe

IDS = np.random.default_rng(0).integers(3, 37, (3, 9)).astype(np.int32)


@pytest.fixture
def config(tiny):
    return tiny.replace(id2label=("LABEL_0",))


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["The cat sat on the mat, and the dog."] * 3, vocab_size=270)


def test_as_a_layer(config, check_layer):
    check_layer(lambda policy: SequenceRegressor(config, dtype=policy), IDS, output_dtype="float32")


def test_one_label(tiny):
    with pytest.raises(ValueError, match="a number has one label"):
        SequenceRegressor(tiny.replace(id2label=("a", "b")))


def test_examples(tiny, tokenizer):
    rows = [
        {"text": "The dog", "score": "4.5", "where": "x.csv:2"},
        {"text": "sat", "score": -1, "where": "x.csv:3"},
    ]
    found = SequenceRegressor.examples(rows, tokenizer, tiny, max_length=12)
    assert found.targets["score"].tolist() == [4.5, -1]
    assert found.labels == ("LABEL_0",)
    with pytest.raises(ValueError, match=r"x\.csv:3: score must be a number, got 'good'"):
        SequenceRegressor.examples(
            [rows[0], {**rows[1], "score": "good"}], tokenizer, tiny, max_length=12
        )


def test_loss_is_the_weighted_squared_error(config):
    model = SequenceRegressor(config)
    batch = {
        "token_ids": IDS, "padding_mask": np.ones(IDS.shape, bool),
        "score": np.array([1, -2, 9], np.float32), "weight": np.array([1, 0.5, 0], np.float32),
    }  # fmt: skip
    loss = model.batch_loss(batch, model.features(batch), PLAIN._replace(training=True))
    said = model(IDS).numpy()[:, 0]
    expected = [(said[0] - 1) ** 2, 0.5 * (said[1] + 2) ** 2, 0]
    np.testing.assert_allclose(loss.rows[:, 0], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(loss.total, sum(expected), rtol=1e-3)
    assert float(loss.weight) == 1.5
    with pytest.raises(ValueError, match="--label_smoothing"):
        model.batch_loss(batch, model.features(batch), Regularizers(0.1))


def test_the_same_text_is_the_same_in_training_and_serving(config, tokenizer):
    config = config.replace(vocab_size=270, bos_token_id=256, max_position_embeddings=16)
    model = SequenceRegressor(config, tokenizer)
    texts = ["The dog sat", "", "naïve 🙂 cats " * 9, "今天天气很好。", "\n"]
    rows = [{"text": text, "score": 0, "where": ""} for text in texts]
    found = model.examples(rows, tokenizer, config, 16)
    value = model.signatures()["regress"].function(texts=np.array(texts))["value"].numpy()
    for i, ids in enumerate(np.split(found.values, found.row_splits[1:-1])):
        np.testing.assert_allclose(value[i], model(ids[None])[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_logits_and_loss_are_those_of_transformers(tiny, tmp_path, problem):
    import torch
    import transformers

    from gpt_keras import SequenceClassifier

    if problem == "regression":
        model = SequenceRegressor(tiny.replace(id2label=("LABEL_0",)))
        name, target = "score", np.array([1, -2, 0.5], np.float32)
    else:
        config = tiny.replace(id2label=("a", "b", "c", "d"))
        model = SequenceClassifier(SequenceClassifier.with_options(config, problem_type=problem))
        name, target = "label", np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    model.save_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert theirs.config.problem_type == problem
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS).long(), labels=torch.tensor(target))
    np.testing.assert_allclose(model(IDS), expected.logits.numpy(), rtol=1e-3, atol=1e-4)
    batch = {
        "token_ids": IDS, "padding_mask": np.ones(IDS.shape, bool), name: target,
        "weight": np.ones(3, np.float32),
    }  # fmt: skip
    loss = model.batch_loss(batch, model.features(batch))
    np.testing.assert_allclose(loss.total / loss.weight, expected.loss.item(), rtol=1e-3)
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.config.task_params == model.config.task_params
    np.testing.assert_allclose(again(IDS), model(IDS), rtol=1e-5)
