"""TokenClassifier: tags of words, from records to spans of raw texts."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras import TokenClassifier, tagging
from gpt_keras.tokenizers import train_byte_level_bpe

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (3, 9)).astype(np.int32)
NAMES = tagging.names(("LOC", "PER"), tagging.SCHEMES["BIO"])
TEXTS = [
    "Ada sat on the mat", "", "the naïve cat 🙂 sat, Ada", "我们 sat the", "the cat " * 40, " . ",
]  # fmt: skip


def with_options(config, **options):
    return config.replace(task_params={"token_classification": options})


@pytest.fixture
def config(tiny):
    return tiny.replace(id2label=NAMES, vocab_size=300, bos_token_id=1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["The cat sat on the mat, and Ada sat on the cat."] * 3, 300)


def where(*records):
    return [{**record, "where": f"x.jsonl:{i}"} for i, record in enumerate(records, 1)]


def test_as_a_layer(tiny, check_layer):
    config = tiny.replace(id2label=NAMES)
    check_layer(lambda policy: TokenClassifier(config, dtype=policy), IDS, output_dtype="float32")


def test_logits_of_a_row_do_not_depend_on_padding(config):
    model = TokenClassifier(config)
    ids, mask = np.ones((3, 9), np.int32), np.zeros((3, 9), bool)
    ids[:, :5], mask[:, :5] = IDS[:, :5], True
    found = model(ids, padding_mask=mask)[:, :5]
    assert found.shape == (3, 5, 5)
    np.testing.assert_allclose(found, model(IDS[:, :5]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [(), ("O",)])
def test_two_tags_at_least(tiny, labels):
    with pytest.raises(ValueError, match="two tags or more"):
        TokenClassifier(tiny.replace(id2label=labels))


def tags_of_words(examples, row, tokenizer):
    """(text of the token, its tag) of those that have one."""
    at = slice(*examples.row_splits[row : row + 2])
    pairs = zip(examples.values[at], examples.token_targets["tag"][at], strict=True)
    texts = [
        (tokenizer.detokenize([[i]]).numpy()[0].decode(errors="replace"), tag) for i, tag in pairs
    ]
    return [(text, examples.labels[tag - 1]) for text, tag in texts if tag]


def test_the_first_token_of_a_word_has_its_tag(config, tokenizer):
    config = config.replace(id2label=())
    records = where(
        {"tokens": ["Ada", "sat", "."], "tags": ["B-PER", "O", "O"]},
        {"text": "the cat, Ada Ada", "entities": [{"start": 9, "end": 16, "label": "PER"}]},
        {"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "LOC"}]},
    )
    found = TokenClassifier.examples(records, tokenizer, config, 64)
    assert found.labels == NAMES
    first = tags_of_words(found, 0, tokenizer)
    assert [tag for _, tag in first] == ["B-PER", "O", "O"]
    assert ["Ada sat .".startswith(first[0][0]), first[1][0]] == [True, " sat"]
    tags = [tag for _, tag in tags_of_words(found, 1, tokenizer)]
    assert tags == ["O", "O", "O", "B-PER", "I-PER"]
    assert [tag for _, tag in tags_of_words(found, 2, tokenizer)] == ["B-LOC"]
    assert found.record_ids.tolist() == [0, 1, 2]
    assert not found.skipped


def test_all_tokens_have_tags(config, tokenizer):
    config = with_options(config, label_all_tokens=True)
    records = where({"tokens": ["naïve", "Ada", "mat"], "tags": ["B-PER", "I-PER", "O"]})
    found = TokenClassifier.examples(records, tokenizer, config, 64)
    tags = [tag for _, tag in tags_of_words(found, 0, tokenizer)]
    assert len(tags) >= len(found.values) - 1 > 3  # two may share the ï
    assert tags[0] == "B-PER"
    assert set(tags[1:-1]) == {"I-PER"}
    assert tags[-1] == "O"


def test_chinese_words_stand_side_by_side(config):
    tokenizer = train_byte_level_bpe(["我们在北京。"], 257 + 12)
    config = with_options(config, word_separator="").replace(id2label=())
    tags = ["S-PER", "O", "O", "B-LOC", "E-LOC", "O"]
    records = where({"tokens": list("我们在北京。"), "tags": tags})
    entities = [{"start": 0, "end": 1, "label": "PER"}, {"start": 3, "end": 5, "label": "LOC"}]
    spans = where({"text": "我们在北京。", "entities": entities})
    alike = []
    for rows in (records, spans):
        scheme = {"tagging_scheme": "BMES", "word_separator": ""}
        found = TokenClassifier.examples(rows, tokenizer, with_options(config, **scheme), 64)
        alike.append([tag for _, tag in tags_of_words(found, 0, tokenizer)])
    assert alike == [tags, tags]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "another number of tags than of tokens"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "a word without a token of its own"),
        ({"tokens": [], "tags": []}, "no tokens"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 4, "label": "PER"}]},
         "an entity outside the text"),
        ({"text": "Ada", "entities": [{"start": 2, "end": 2, "label": "PER"}]},
         "an entity outside the text"),
        ({"text": "Ada sat", "entities": [{"start": 0, "end": 7, "label": "PER"},
                                          {"start": 4, "end": 7, "label": "LOC"}]},
         "overlapping entities"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 2, "label": "PER"}]},
         "an entity that begins or ends inside a word"),
        ({"text": " ", "entities": []}, "no words"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted(config, tokenizer, record, reason):
    good = {"tokens": ["Ada"], "tags": ["B-PER"]}
    found = TokenClassifier.examples(where(record, good, record), tokenizer, config, 64)
    assert dict(found.skipped) == {reason: 2}
    assert found.record_ids.tolist() == [1]
    # Of a model whose tags are known, or to be found in the records.
    for names in (config.id2label, ()):
        with pytest.raises(ValueError, match=rf"x\.jsonl:1: .*can be learned: 1 with {reason}"):
            TokenClassifier.examples(where(record), tokenizer, config.replace(id2label=names), 64)


def test_words_that_share_a_token_are_left_out(config):
    """Without anything between them they may."""
    tokenizer = train_byte_level_bpe(["abab" * 9], 258)
    config = with_options(config, word_separator="")
    records = where(
        {"tokens": ["a", "b"], "tags": ["O", "O"]}, {"tokens": ["ab", "ab"], "tags": ["O", "O"]}
    )
    found = TokenClassifier.examples(records, tokenizer, config, 64)
    assert dict(found.skipped) == {"a word without a token of its own": 1}
    assert found.record_ids.tolist() == [1]


def test_words_that_are_cut_off_have_no_tags(config, tokenizer):
    records = where({"tokens": ["Ada", *["sat"] * 9], "tags": ["B-PER", *["O"] * 9]})
    for options in ({}, {"label_all_tokens": True}):
        found = TokenClassifier.examples(records, tokenizer, with_options(config, **options), 6)
        assert (len(found.values), found.num_truncated, dict(found.skipped)) == (6, 1, {})
        assert tags_of_words(found, 0, tokenizer)[0][1] == "B-PER"


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"tokens": "a b", "tags": ["O"]}, {}, "tokens must be a list of strings, got 'a b'"),
        ({"tokens": ["a"], "tags": [1]}, {}, r"tags must be a list of strings, got \[1\]"),
        ({"tokens": ["a"], "tags": ["X-PER"]}, {"tagging_scheme": "BIO"},
         r"tag 'X-PER': expected O, or one of B, I with -LABEL \(--tagging_scheme\)"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, {}, "unknown label 'B-ORG'; known are O, B-LOC"),
        ({"text": "a", "entities": "x"}, {}, "entities must be a list of objects"),
        ({"text": "a", "entities": [{"start": 0, "end": 1}]}, {}, "entities must be a list of"),
        ({"text": 3, "entities": []}, {}, "text must be a string, got 3"),
        ({"text": "a", "entities": []}, {"tagging_scheme": "plain"}, "=plain is for tokens and"),
    ],
)  # fmt: skip
def test_bad_records_are_named(config, tokenizer, record, options, message):
    with pytest.raises(ValueError, match=rf"x\.jsonl:1: .*{message}"):
        TokenClassifier.examples(where(record), tokenizer, with_options(config, **options), 64)


def batch_of(weights=(1.0, 1.0, 0.0)):
    tag = np.zeros((3, 9), np.int32)
    tag[0, [1, 4, 5]], tag[1, 2], tag[2, 0] = [2, 3, 1], 5, 4
    mask = np.ones((3, 9), bool)
    return {"token_ids": IDS, "padding_mask": mask, "tag": tag,
            "weight": np.array(weights, np.float32)}  # fmt: skip


@pytest.mark.parametrize("crf", [False, True])
def test_loss(config, crf):
    model = TokenClassifier(with_options(config, crf=crf))
    batch = batch_of()
    loss = model.batch_loss(batch, model.features(batch))
    logits = model(IDS).numpy()
    scores = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    # A field without transitions is the product of its places.
    first = -(scores[0, 1, 1] + scores[0, 4, 2] + scores[0, 5, 0])
    np.testing.assert_allclose(loss.rows, [[first, 3], [-scores[1, 2, 4], 1], [0, 0]], rtol=1e-4)
    assert float(loss.weight) == 4
    assert float(loss.total) == pytest.approx(first - scores[1, 2, 4], rel=1e-4)
    assert loss.outputs.shape == (3, 9)
    found = [NAMES[int(i)] for i in loss.outputs[0, :3]]
    spans = tagging.spans_of(found, model.scheme)
    assert tagging.tags_of(spans, 3, model.scheme) == found  # legal
    metrics = model.new_metrics()
    numbers = {"sample_id": np.array([0, 1, -1]), **batch}
    metrics.update(numbers, loss._replace(outputs=loss.outputs.numpy(), rows=loss.rows.numpy()))
    assert metrics.num_samples == 2


def test_a_field_learns_what_follows_what(config):
    """Tags alternate whatever the tokens are, which logits of one place cannot say."""
    config = with_options(config.replace(id2label=("a", "b")), crf=True)
    model = TokenClassifier(config)
    batch = batch_of((1.0, 1.0, 1.0)) | {"tag": np.tile([1, 2, 1, 2, 1, 2, 1, 2, 1], (3, 1))}
    batch["tag"][1] = 3 - batch["tag"][1]
    optimizer = keras.optimizers.Adam(0.2)
    for _ in range(30):
        with tf.GradientTape() as tape:
            loss = model.batch_loss(batch, tf.zeros((3, 9, 12))).total
        variables = model.crf.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    moves = model.crf.moves.numpy()
    assert min(moves[0, 1], moves[1, 0]) > max(moves[0, 0], moves[1, 1]) + 2


@pytest.mark.parametrize(("model_type", "name", "is_hugging_faces"), [
    ("llama", "LlamaForTokenClassification", True), ("olmo2", "GptKerasForTokenClassifier", False),
])  # fmt: skip
@pytest.mark.parametrize("crf", [False, True])
def test_saved_and_read_again(config, tokenizer, tmp_path, model_type, name, is_hugging_faces, crf):
    if model_type == "olmo2":
        config = config.replace(model_type="olmo2", norm_place="post", qk_norm="width")
    options = {"crf": True, "word_separator": ""} if crf else {"word_separator": ""}
    model = TokenClassifier(with_options(config, **options), tokenizer)
    if crf:
        model.crf.moves.assign(RNG.normal(size=(5, 5)))
    model.save_pretrained(tmp_path / "x")
    fields = json.loads((tmp_path / "x" / "config.json").read_text())
    assert fields["architectures"] == ["GptKerasForTokenClassifier" if crf else name]
    assert fields["id2label"] == {str(i): label for i, label in enumerate(NAMES)}
    assert gpt_keras.tasks.of(tmp_path / "x") is TokenClassifier
    again = TokenClassifier.from_pretrained(tmp_path / "x")
    assert again.config == model.config
    assert len(again.weights) == len(model.weights)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def answers(model, texts):
    return {name: value.numpy() for name, value in model.tag(tf.constant(texts)).items()}


@pytest.mark.parametrize(
    "options", [{}, {"label_all_tokens": True}, {"word_separator": ""}, {"crf": True}], ids=str
)
def test_spans_of_raw_texts(config, tokenizer, options):
    model = TokenClassifier(with_options(config, **options), tokenizer)
    found = answers(model, TEXTS)
    count = found["num_spans"]
    assert count[1] == 0
    assert count.max() == found["labels"].shape[1] > 0
    for row, text in enumerate(TEXTS):
        before = 0
        for i in range(found["labels"].shape[1]):
            start, end = found["starts"][row, i], found["ends"][row, i]
            if i >= count[row]:
                assert (start, end, found["labels"][row, i], found["texts"][row, i]) == (
                    -1, -1, b"", b"",
                )  # fmt: skip
                assert found["scores"][row, i] == found["byte_starts"][row, i] == -1
                continue
            assert found["labels"][row, i] in (b"LOC", b"PER")
            assert before <= start < end <= len(text)
            assert text[start:end] == found["texts"][row, i].decode()
            byte_span = found["byte_starts"][row, i], found["byte_ends"][row, i]
            assert byte_span == (len(text[:start].encode()), len(text[:end].encode()))
            assert 0 < found["scores"][row, i] <= 1
            before = end
        alone = answers(model, [text])
        for name, value in alone.items():
            got = found[name][row : row + 1]
            got = got[:, : value.shape[1]] if value.ndim == 2 else got
            if name == "scores":
                np.testing.assert_allclose(got, value, atol=1e-5)
            else:
                assert got.tolist() == value.tolist()


def test_serving_tags_what_training_tags(config, tokenizer):
    """The same words of the same texts have the tags that the best path says."""
    model = TokenClassifier(config, tokenizer)
    records = where(*({"text": text, "entities": []} for text in TEXTS if text.strip()))
    examples = TokenClassifier.examples(records, tokenizer, config, 32)
    found = answers(model, [record["text"] for record in records])
    for row, record in enumerate(records):
        at = slice(*examples.row_splits[row : row + 2])
        tag = examples.token_targets["tag"][at][np.newaxis]
        ids = examples.values[at][np.newaxis]
        batch = {"token_ids": ids, "padding_mask": np.ones_like(ids, bool), "tag": tag,
                 "weight": np.ones(1, np.float32)}  # fmt: skip
        outputs = model.batch_loss(batch, model.features(batch)).outputs.numpy()[0]
        tags = [NAMES[int(i)] for i in outputs[: np.count_nonzero(tag)]]
        spans = tagging.spans_of(tags, model.scheme)
        expected = [span.label.encode() for span in spans]
        assert found["labels"][row, : found["num_spans"][row]].tolist() == expected, record["text"]


def test_no_rows(config, tokenizer):
    found = answers(TokenClassifier(config, tokenizer), np.zeros([0], str))
    assert {value.shape[0] for value in found.values()} == {0}
