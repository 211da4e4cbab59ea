"""MaskedLM: logits of the token at each place."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import MaskedLM, tokenizers
from trainers.batches import ExampleBatches

MINILM = pathlib.Path(__file__).parents[3] / "data" / "minilm"
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


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the cat sat on the mat", "a dog ran fast", "今天🙂"] * 4
    return tokenizers.train_byte_level_bpe(texts, 300, ["<e>", "<mask>"], mask_token="<mask>")


@pytest.fixture
def encoder(tiny, tokenizer):
    return MaskedLM(tiny.replace(causal=False, vocab_size=tokenizer.vocab_size), tokenizer)


def test_long_texts_become_several_rows(encoder, tokenizer):
    records = [
        {"text": "the cat sat on the mat " * 3, "where": "x:1"},
        {"text": "", "where": "x:2"},
        {"text": "a dog", "where": "x:3"},
    ]
    found = MaskedLM.examples(records, tokenizer, encoder.config, 10)
    pieces = np.split(found.values, found.row_splits[1:-1])
    assert {len(piece) for piece in pieces[:-2]} == {10}
    texts = [
        tokenizer.detokenize([np.concatenate(some).tolist()])[0].numpy().decode()
        for some in (pieces[:-1], pieces[-1:])
    ]
    assert texts == [records[0]["text"], "a dog"]
    assert found.record_ids.tolist() == [0] * (len(pieces) - 1) + [2]
    assert found.skipped == {"empty": 1}
    with pytest.raises(ValueError, match="nothing to learn: all of 1 texts are empty"):
        MaskedLM.examples(records[1:2], tokenizer, encoder.config, 10)


def test_loss_is_of_the_places_asked_for(encoder):
    token_ids = np.random.default_rng(1).integers(2, 40, (3, 9)).astype(np.int32)
    batch = {
        "token_ids": token_ids, "padding_mask": np.arange(9) < np.array([9, 6, 1])[:, None],
        "masked_at": np.array([[1, 8], [5, 0], [0, 0]], np.int32),
        "targets": np.array([[3, 4], [5, 0], [0, 0]], np.int32),
        "loss_mask": np.array([[1, 1], [1, 0], [0, 0]], np.float32),
    }  # fmt: skip
    loss = encoder.batch_loss(batch, encoder.features(batch))
    logits = encoder(token_ids, padding_mask=batch["padding_mask"])
    likely = tf.nn.log_softmax(logits).numpy()
    expected = [-likely[0, 1, 3] - likely[0, 8, 4], -likely[1, 5, 5], 0]
    np.testing.assert_allclose(loss.rows[:, 0], expected, rtol=1e-4)
    assert loss.rows.numpy()[:, 1].tolist() == [2, 1, 0]
    np.testing.assert_allclose(loss.total, np.sum(expected), rtol=1e-5)
    assert loss.outputs.numpy().tolist() == [[0], [0], [0]]
    best = {**batch, "targets": batch["targets"].copy()}
    best["targets"][0, 1] = likely[0, 8].argmax()
    assert encoder.batch_loss(best, encoder.features(best)).outputs.numpy()[0, 0] == 1


def test_pseudo_perplexity(encoder, tokenizer):
    """Each token asked for by itself, the others seen, as a loop over texts and places does it."""
    config = MaskedLM.with_options(encoder.config, mask_each=True)
    model = MaskedLM(config, tokenizer)
    records = [
        {"text": text, "where": "x"} for text in ("the cat sat", "", "a dog ran 今天", "<e>a")
    ]
    found = MaskedLM.examples(records, tokenizer, config, 32)
    source = ExampleBatches(found, global_batch_size=4, shuffle=False)
    metrics = model.new_metrics(source)
    for step in range(source.steps_per_epoch):
        batch = source.batch(step)
        loss = model.batch_loss(batch, model.features(batch))
        rows, outputs = np.array(loss.rows), np.array(loss.outputs)
        metrics.update(batch, loss._replace(rows=rows, outputs=outputs))
    by_text = []
    for record in records:
        ids = tokenizer.tokenize([record["text"]])[0].numpy()
        for place in np.flatnonzero(ids > 1):  # no special tokens
            seen = ids.copy()
            seen[place] = 1
            likely = tf.nn.log_softmax(model(seen[None])[0, place]).numpy()
            right = likely.argmax() == ids[place]
            by_text.append((record["text"], -likely[ids[place]], right))
    losses = np.array([loss for _, loss, _ in by_text])
    got = metrics.details()
    assert got["tokens"] == len(losses)
    assert got["pseudo_perplexity"] == pytest.approx(np.exp(losses.mean()), rel=1e-4)
    assert got["masked_accuracy"] == pytest.approx(np.mean([right for *_, right in by_text]))
    assert metrics.num_samples == 3  # texts with something to ask for, for a bootstrap
    last = losses[[text == "<e>a" for text, *_ in by_text]]
    assert metrics.score(np.array([2]))["loss"] == pytest.approx(last.mean(), rel=1e-4)
    with pytest.raises(ValueError, match="--mask_each: all tokens of all texts are special"):
        MaskedLM.examples([{"text": "<e>", "where": "x"}], tokenizer, config, 32)


TEXTS = [
    "the <mask> sat", "<mask> ran <mask>", "no mask", "", "今天🙂<mask>", "a dog " * 40 + "<mask>",
]  # fmt: skip


def test_fill_mask(encoder, tokenizer):
    """What the logits at the first mask say, whatever the neighbours are."""
    together = {name: value.numpy() for name, value in encoder.fill_mask(TEXTS).items()}
    assert together["num_masks"].tolist() == [1, 2, 0, 0, 1, 0]  # the last one is cut
    for row, text in enumerate(TEXTS):
        ids = tokenizer.tokenize([text])[0].numpy()[:32]
        tokens, texts = together["tokens"][row], together["texts"][row]
        if 1 not in ids:
            assert set(tokens) == set(texts) == {b""}
            assert not together["scores"][row].any()
            continue
        place = ids.tolist().index(1)
        likely = tf.nn.softmax(encoder(ids[None])[0, place]).numpy()
        best = np.argsort(-likely)[:5]
        np.testing.assert_allclose(together["scores"][row], likely[best], rtol=1e-4)
        for i, token in enumerate(best):
            said = tokenizer.token_bytes[int(token)].numpy()
            assert tokens[i].decode() == said.decode("utf-8", "replace")
            filled = text.encode().replace(b"<mask>", said, 1).decode("utf-8", "replace")
            assert texts[i].decode() == filled
        alone = encoder.fill_mask([text])
        np.testing.assert_array_equal(alone["tokens"][0], tokens)
        np.testing.assert_allclose(alone["scores"][0], together["scores"][row], rtol=1e-4)
    assert encoder.fill_mask(tf.constant([], tf.string))["tokens"].shape == (0, 5)


def test_refused(tiny, tokenizer):
    config = tiny.replace(causal=False, vocab_size=tokenizer.vocab_size)
    plain = tokenizers.train_byte_level_bpe(["a"], 260)
    with pytest.raises(ValueError, match="the tokenizer has no mask token: name one of its tokens"):
        MaskedLM(config, plain).signatures()
    for name, value in (("mask_rate", 0.0), ("fill_top_k", 10**6)):
        with pytest.raises(ValueError, match=f"--{name}={value}: give a number from"):
            MaskedLM(config.replace(task_params={"masked_lm": {name: value}}))


needs_minilm = pytest.mark.skipif(
    not MINILM.exists(), reason="no data/minilm: run `python -m examples.fetch_data minilm`"
)


@needs_minilm
def test_fill_mask_with_word_pieces():
    """The head is new, so the words are random; what goes around the text is not in the texts."""
    model = MaskedLM.from_pretrained(MINILM)
    found = model.fill_mask(["Paris is the [MASK] of France [MASK]."])
    assert found["num_masks"].numpy().tolist() == [2]
    for text in found["texts"][0].numpy():
        assert text.startswith(b"paris is the")
        assert b"of france [MASK]" in text
        assert b"[CLS]" not in text
        assert b"[SEP]" not in text


@pytest.mark.oracle
@needs_minilm
def test_fill_mask_as_transformers_has_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    MaskedLM.from_pretrained(MINILM).save_pretrained(tmp_path / "model")
    pipeline = transformers.pipeline("fill-mask", str(tmp_path / "model"), device="cpu")
    texts = ["Paris is the [MASK] of France.", "[MASK]", "She [MASK]s: naïve café 天"]
    ours = MaskedLM.from_pretrained(tmp_path / "model").fill_mask(texts)
    for row, text in enumerate(texts):
        theirs = pipeline(text)
        said = [x.decode() for x in ours["tokens"][row].numpy()]
        assert said == [found["token_str"] for found in theirs]
        np.testing.assert_allclose(
            ours["scores"][row], [found["score"] for found in theirs], rtol=1e-3
        )
        filled = [x.decode() for x in ours["texts"][row].numpy()]
        assert filled == [found["sequence"] for found in theirs]
