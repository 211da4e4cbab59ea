"""SequenceClassifier: one row of label logits a text."""

import numpy as np
import pytest
from keras import ops

from gpt_keras import SequenceClassifier, tokenizers

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (3, 9)).astype(np.int32)


@pytest.fixture
def config(tiny):
    return tiny.replace(id2label=("bad", "so-so", "good"))


def test_as_a_layer(config, check_layer):
    check_layer(
        lambda policy: SequenceClassifier(config, dtype=policy), IDS, output_dtype="float32"
    )


def test_last_real_token_is_pooled_wherever_the_padding_is(config):
    model = SequenceClassifier(config)
    hidden = model.backbone(IDS[:, :5]).numpy()[:, -1]
    expected = hidden @ model.score.kernel.numpy()
    assert model(IDS[:, :5]).shape == (3, 3)
    np.testing.assert_allclose(model(IDS[:, :5]), expected, rtol=1e-4, atol=1e-5)
    for start in (0, 2, 4):
        ids, mask = np.ones((3, 9), np.int32), np.zeros((3, 9), bool)
        ids[:, start : start + 5], mask[:, start : start + 5] = IDS[:, :5], True
        np.testing.assert_allclose(model(ids, padding_mask=mask), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_different_lengths(config):
    model = SequenceClassifier(config)
    lengths = [9, 4, 1]
    together = model(IDS, padding_mask=np.arange(9) < np.array(lengths)[:, None])
    for row, length in enumerate(lengths):
        alone = model(IDS[row : row + 1, :length])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_texts_have_the_special_tokens_of_the_tokenizer(config):
    """Around what is left of them."""
    trained = tokenizers.train_byte_level_bpe(["the cat sat on the mat"] * 3, 300)
    model = trained.spec.model
    framed = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        model.vocab, model.merges, bos_token_id=7, eos_token_id=9, add_bos_token=True,
        add_eos_token=True,
    )  # fmt: skip
    task = SequenceClassifier(config.replace(vocab_size=300, max_position_embeddings=8), framed)
    texts = ["the cat", "", "☃" * 9]
    ids = [[7, *row[:6], 9] for row in trained.tokenize(texts).to_list()]
    labels, scores = task.classify_texts(texts)
    for row, tokens in enumerate(ids):
        expected = ops.softmax(task(np.array([tokens], np.int32))).numpy()[0]
        names = [name.decode() for name in labels[row].numpy()]
        found = dict(zip(names, scores[row].numpy(), strict=True))
        np.testing.assert_allclose([found[name] for name in config.id2label], expected, atol=1e-5)


def test_with_a_pooler_the_first_real_token_wherever_the_padding_is(config):
    model = SequenceClassifier(config.replace(pooler=True, causal=False))
    hidden = model.backbone(IDS[:, :5]).numpy()[:, 0]
    pooled = np.tanh(hidden @ model.pooler.kernel.numpy() + model.pooler.bias.numpy())
    expected = pooled @ model.score.kernel.numpy() + model.score.bias.numpy()
    np.testing.assert_allclose(model(IDS[:, :5]), expected, rtol=1e-4, atol=1e-5)
    for start in (0, 2, 4):
        ids, mask = np.ones((3, 9), np.int32), np.zeros((3, 9), bool)
        ids[:, start : start + 5], mask[:, start : start + 5] = IDS[:, :5], True
        np.testing.assert_allclose(model(ids, padding_mask=mask), expected, rtol=1e-4, atol=1e-5)


def test_with_a_pooler_as_a_layer(config, check_layer):
    config = config.replace(pooler=True)
    check_layer(
        lambda policy: SequenceClassifier(config, dtype=policy), IDS, output_dtype="float32"
    )


@pytest.mark.parametrize("labels", [(), ("only",)])
def test_two_labels_at_least(tiny, labels):
    with pytest.raises(ValueError, match="two labels or more"):
        SequenceClassifier(tiny.replace(id2label=labels))
