"""SequenceClassifier: one row of label logits a text."""

import json

import numpy as np
import pytest
from keras import ops

from gpt_keras import SequenceClassifier, SequenceRegressor, tasks, tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.losses import PLAIN, Loss
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


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_that_is_asked_for(config, pooling, pooler):
    """In place of the pooler, wherever the padding is; with the bias of an encoder's head."""
    params = {"classification": {"pooling": pooling}}
    model = SequenceClassifier(config.replace(pooler=pooler, causal=False, task_params=params))
    assert model.pooler is None
    hidden = model.backbone(IDS[:, :5]).numpy()  # (3, 5, D)
    pooled = {"mean": hidden.mean(axis=1), "first": hidden[:, 0], "last": hidden[:, -1]}[pooling]
    expected = pooled @ model.score.kernel.numpy()
    if pooler:
        model.score.bias.assign([1.0, 2.0, 3.0])
        expected += [1, 2, 3]
    for start in (0, 2, 4):
        ids, mask = np.ones((3, 9), np.int32), np.zeros((3, 9), bool)
        ids[:, start : start + 5], mask[:, start : start + 5] = IDS[:, :5], True
        np.testing.assert_allclose(model(ids, padding_mask=mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_pooling_is_saved_and_read_again(tiny, tmp_path, model_type, kind):
    """As a model of ours, which Hugging Face does not take for one of its own."""
    config = tiny
    if model_type == "bert":
        bert = {"model_type": "bert", "activation": "gelu", "token_types": 2}
        config = tiny.replace(**bert, **FAMILIES["bert"].fixed)
    labels = ("a", "b") if kind is SequenceClassifier else kind.LABELS
    config = config.replace(id2label=labels, task_params={kind.NAME: {"pooling": "mean"}})
    model = kind(config)
    model.save_pretrained(tmp_path / "model")
    fields = json.loads((tmp_path / "model/config.json").read_text())
    assert fields["architectures"] == [f"GptKerasFor{kind.__name__}"]
    assert tasks.of(tmp_path / "model") is kind
    back = kind.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(back(IDS), model(IDS))
    assert back.pooler is None


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


MULTI = {"classification": {"problem_type": "multi_label_classification", "label_separator": "|"}}


def test_any_number_of_labels_a_text(tiny, tokenizer):
    config = tiny.replace(id2label=(), task_params=MULTI)
    rows = records(("The dog", ["b", "a"]), ("sat", []), ("cat", "a|c"))
    found = SequenceClassifier.examples(rows, tokenizer, config, max_length=12)
    assert found.labels == ("a", "b", "c")
    assert found.targets["label"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert found.targets["label"].dtype == np.float32


def test_several_labels_where_one_is_meant(tiny, tokenizer):
    rows = records(("The cat", "a"), ("x", ["a", "b"]))
    with pytest.raises(ValueError, match=r"x\.jsonl:2: .* --problem_type=multi_label"):
        SequenceClassifier.examples(rows, tokenizer, tiny.replace(id2label=()), 8)


def test_scores_of_several_labels_stand_on_their_own(tiny, tokenizer):
    params = {"classification": {**MULTI["classification"], "temperature": 2.0, "threshold": 0.45}}
    config = tiny.replace(id2label=("a", "b", "c"), vocab_size=270, task_params=params)
    model = SequenceClassifier(config, tokenizer)
    texts = np.array(["The dog sat", "今天", "cats"])
    answer = model.signatures()["classify"].function(texts=texts)
    for i, text in enumerate(texts):
        logits = model(tokenizer.tokenize([text]).to_tensor()).numpy()[0]
        expected = 1 / (1 + np.exp(-logits / 2))
        order = np.argsort(-expected)
        np.testing.assert_allclose(answer["scores"][i], expected[order], rtol=1e-4)
        assert answer["labels"].numpy()[i].tolist() == [b"abc"[k : k + 1] for k in order]
        assert answer["num_labels"].numpy()[i] == (expected >= 0.45).sum()


@pytest.fixture
def framed(tokenizer):
    """A tokenizer that puts tokens around and between two texts."""
    spec = tokenizer.spec.model
    return tokenizers.ByteLevelBPE.from_vocab_and_merges(
        spec.vocab, spec.merges, bos_token_id=7, eos_token_id=9, add_bos_token=True,
        add_eos_token=True,
    )  # fmt: skip


def pair(text, second, label, line=1):
    return {"text": text, "text_pair": second, "label": label, "where": f"x.jsonl:{line}"}


def test_pairs_are_the_same_in_training_and_serving(tiny, framed):
    config = tiny.replace(id2label=("a", "b"), vocab_size=270, max_position_embeddings=16)
    texts = [("The dog sat", "the cat"), ("", "x"), ("naïve 🙂 " * 9, "今天天气" * 9), ("cat", "")]
    rows = [pair(*two, "a", i) for i, two in enumerate(texts)]
    found = SequenceClassifier.examples(rows, framed, config, 16)
    assert found.options == {"pairs": True}
    model = SequenceClassifier(SequenceClassifier.with_options(config, pairs=True), framed)
    served = model.signatures()["classify"]
    assert served.inputs == {"texts": "text", "pairs": "text_pair"}
    assert set(served.example) == {"texts", "pairs"}
    first, second = map(np.array, zip(*texts, strict=True))
    scores = served.function(texts=first, pairs=second)["scores"].numpy()
    for i, ids in enumerate(np.split(found.values, found.row_splits[1:-1])):
        logits = model(ids[None]).numpy()[0]
        expected = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1]
        np.testing.assert_allclose(scores[i], expected, rtol=1e-4, atol=1e-6)
    alone = served.function(texts=first[:1], pairs=np.array(["the mat"]))["scores"].numpy()
    assert not np.allclose(alone, scores[:1], atol=1e-6)  # the second text is looked at


def test_pairs_and_single_texts_are_not_mixed(tiny, tokenizer):
    both = [*records(("a", "x")), pair("b", "c", "y", 2)]
    config = tiny.replace(id2label=("x", "y"))
    with pytest.raises(ValueError, match=r"x\.jsonl:2: has a text_pair, and the other records"):
        SequenceClassifier.examples(both, tokenizer, config, 8)
    trained = SequenceClassifier.with_options(config, pairs=True)
    with pytest.raises(ValueError, match=r"x\.jsonl:1: has no text_pair, and the model's records"):
        SequenceClassifier.examples(both[:1], tokenizer, trained, 8)


def loss_of(model, label, regularizers):
    rng = np.random.default_rng(3)
    batch = {
        "token_ids": IDS, "padding_mask": np.ones(IDS.shape, bool), "label": np.array(label),
        "weight": np.array([1, 1, 0], np.float32),
    }  # fmt: skip
    features = rng.normal(size=(3, 9, 12)).astype(np.float32)
    loss = model.batch_loss(batch, features, regularizers)
    return loss, model.classify(model.backbone.final_norm(features)).numpy()


def test_class_weights_and_focal_loss_count_in_training_alone(config):
    params = {"class_weights": "bad=3,good=0.5", "focal_gamma": 2.0}
    model = SequenceClassifier(SequenceClassifier.with_options(config, **params))
    plain, logits = loss_of(model, [0, 2, 1], PLAIN)
    trained, _ = loss_of(model, [0, 2, 1], PLAIN._replace(training=True))
    p = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], [0, 2]]
    np.testing.assert_allclose(plain.total, -np.log(p).sum(), rtol=1e-4)
    assert float(plain.weight) == 2
    expected = -np.array([3, 0.5]) * (1 - p) ** 2 * np.log(p)
    np.testing.assert_allclose(trained.total, expected.sum(), rtol=1e-4)
    rows = [[expected[0], 3], [expected[1], 0.5], [0, 0]]
    np.testing.assert_allclose(trained.rows, rows, rtol=1e-4)
    assert float(trained.weight) == 3.5


def test_balanced_weights_come_from_the_data(tiny, tokenizer):
    config = SequenceClassifier.with_options(tiny.replace(id2label=()), class_weights="balanced")
    rows = records(("x", "a"), ("y", "b"), ("z", "b"), ("w", "b"))
    found = SequenceClassifier.examples(rows, tokenizer, config, 8)
    weights = [float(x) for x in found.options["class_weights"].split(",")]
    np.testing.assert_allclose(weights, [4 / 2, 4 / 6], rtol=1e-5)


def test_calibration_is_kept_in_the_configuration(config):
    model = SequenceClassifier(config)
    collected = model.new_metrics()
    rng = np.random.default_rng(0)
    logits = 5 * rng.normal(size=(400, 3))
    labels = np.array([rng.choice(3, p=p / p.sum()) for p in np.exp(logits / 5)])
    batch = {"label": labels, "sample_id": np.arange(400)}
    collected.update(batch, Loss(0.0, 0.0, logits, np.ones((400, 2))))
    model.calibrate(collected)
    temperature = model.config.task_params["classification"]["temperature"]
    assert temperature == pytest.approx(5, rel=0.2)
    assert collected.temperature == temperature == model.new_metrics().temperature
    left = SequenceClassifier(SequenceClassifier.with_options(config, calibrate=False))
    left.calibrate(collected)
    assert left.new_metrics().temperature == 1


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 1.0), ("temperature", 0.0), ("focal_gamma", -1.0)]
)
def test_options_out_of_range(config, name, value):
    with pytest.raises(ValueError, match=f"--{name}={value}: give a number between"):
        SequenceClassifier(SequenceClassifier.with_options(config, **{name: value}))


def test_mixed_texts_have_shares_of_two_losses(config):
    """A row and the one before it; the row behind a filler stays as it is."""
    model = SequenceClassifier(config)
    rng = np.random.default_rng(3)
    features = rng.normal(size=(4, 9, 12)).astype(np.float32)
    label, kept = np.array([0, 2, 1, 0], np.int32), np.array([0.5, 0.7, 0.2, 0.5], np.float32)
    batch = {
        "token_ids": np.ones((4, 9), np.int32), "padding_mask": np.ones((4, 9), bool),
        "label": label, "weight": np.array([1, 1, 1, 0], np.float32), "mixup": kept,
    }  # fmt: skip
    loss = model.batch_loss(batch, features, PLAIN._replace(training=True))
    vectors = model.backbone.final_norm(features).numpy()[:, -1]
    expected = []
    for i, share in enumerate([1.0, 0.7, 0.2]):
        logits = (share * vectors[i] + (1 - share) * vectors[i - 1]) @ model.score.kernel.numpy()
        losses = np.log(np.exp(logits).sum()) - logits
        expected.append(share * losses[label[i]] + (1 - share) * losses[label[i - 1]])
    np.testing.assert_allclose(loss.rows[:3, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(loss.total, sum(expected), rtol=1e-3)
    assert float(loss.weight) == 3
