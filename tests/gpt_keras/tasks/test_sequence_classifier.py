"""SequenceClassifier: one row of label logits a text."""

import numpy as np
import pytest
from keras import ops

from gpt_keras import SequenceClassifier, tokenizers
from gpt_keras.tokenizers import train_byte_level_bpe

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


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["The cat sat on the mat, and the dog."] * 3, vocab_size=270)


def records(*rows):
    return [
        {"text": text, "label": label, "where": f"x.jsonl:{i}"}
        for i, (text, label) in enumerate(rows, 1)
    ]


def test_examples(tiny, tokenizer):
    config = tiny.replace(id2label=(), bos_token_id=26)
    rows = records(("The dog sat", "pos"), ("", "neg"), ("naïve cats " * 9, " pos "))
    found = SequenceClassifier.examples(rows, tokenizer, config, max_length=12)
    first, second, third = np.split(found.values, found.row_splits[1:-1])
    assert first.tolist() == tokenizer.tokenize(["The dog sat"]).to_list()[0]
    assert second.tolist() == [26]
    assert third.tolist() == tokenizer.tokenize([rows[2]["text"]]).to_list()[0][:12]
    assert found.targets["label"].tolist() == [1, 0, 1]
    assert found.targets["weight"].tolist() == [1, 1, 1]
    assert found.labels == ("neg", "pos")
    assert found.num_truncated == 1
    assert (found.values.dtype, found.targets["label"].dtype) == (np.int32, np.int32)


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        (("x", "c"), ("a", "b"), r"x\.jsonl:2: unknown label 'c'; known are a, b"),
        (("x", None), (), r"x\.jsonl:2: label must be a name or an integer, got None"),
        ((None, "b"), (), r"x\.jsonl:2: text must be a string, got None"),
        (("x", "a"), (), r"labels a: two or more are needed"),
    ],
)
def test_bad_records(tiny, tokenizer, row, names, message):
    config = tiny.replace(id2label=names)
    with pytest.raises(ValueError, match=message):
        SequenceClassifier.examples(records(("The cat", "a"), row), tokenizer, config, 8)


def test_the_same_text_is_the_same_in_training_and_serving(tiny, tokenizer):
    """What the signature says of texts is what the head says of their examples."""
    config = tiny.replace(
        id2label=("a", "b", "c"), vocab_size=270, bos_token_id=256, max_position_embeddings=16
    )
    model = SequenceClassifier(config, tokenizer)
    texts = ["The dog sat", "", "naïve 🙂 cats " * 9, "今天天气很好。", "\n"]
    found = model.examples(records(*((text, "a") for text in texts)), tokenizer, config, 16)
    answer = model.signatures()["classify"].function(texts=np.array(texts))
    for i, ids in enumerate(np.split(found.values, found.row_splits[1:-1])):
        logits = model(ids[None]).numpy()[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-expected)
        assert answer["labels"].numpy()[i].tolist() == [b"abc"[k : k + 1] for k in order]
        np.testing.assert_allclose(answer["scores"][i], expected[order], rtol=1e-4, atol=1e-6)
