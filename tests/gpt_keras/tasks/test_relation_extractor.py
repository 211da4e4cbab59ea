"""RelationExtractor: relations of marked entities, from records to raw texts."""

import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as sklearn

import gpt_keras
from gpt_keras import RelationExtractor, entity_pairs, pieces
from gpt_keras.losses import Loss
from gpt_keras.metrics import RelationMetrics
from gpt_keras.tokenizers import train_byte_level_bpe

LABELS = ("none", "lives_in", "works_for")
TEXT = "Ada 🙂 lives in London"
ENTITIES = [{"start": 0, "end": 3, "label": "PER"}, {"start": 15, "end": 21, "label": "LOC"}]
RECORD = {
    "text": TEXT, "entities": ENTITIES, "relations": [{"head": 0, "tail": 1, "label": "lives_in"}],
}  # fmt: skip


@pytest.fixture
def config(tiny):
    return tiny.replace(id2label=LABELS, vocab_size=300, bos_token_id=1, max_position_embeddings=64)


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["Ada lives in London and works for the cat."] * 3, 300)


def where(*records):
    return [{**record, "where": f"x.jsonl:{i}"} for i, record in enumerate(records, 1)]


@pytest.mark.parametrize("closing", [False, True])
def test_marks_are_where_they_are_said_to_be(closing):
    texts = ["Ada met Bob.", "Ada met Bob.", "北京在中国", "ab"]
    heads = [[0, 3], [8, 11], [0, 6], [1, 2]]
    tails = [[8, 11], [0, 3], [9, 15], [0, 1]]
    arguments = (tf.constant(x, tf.int32) for x in (heads, tails))
    marked, starts, ends, turned = entity_pairs.mark(tf.constant(texts), *arguments, closing)
    assert [text.decode() for text in marked.numpy()] == [
        " @ Ada @  met  # Bob # .", " # Ada #  met  @ Bob @ .", " @ 北京 @ 在 # 中国 # ",
        " # a #  @ b @ ",
    ]  # fmt: skip
    assert turned.numpy().tolist() == [False, True, False, True]
    for text, begins, limits, is_turned in zip(
        marked.numpy(), starts.to_list(), ends.to_list(), turned.numpy(), strict=True
    ):
        found = [text[a:b].decode() for a, b in zip(begins, limits, strict=True)]
        assert found == (["#", "@"] if is_turned else ["@", "#"])
        for begin, mark in zip(begins, found, strict=True):
            before = text[:begin].count(mark.encode())
            assert before == (1 if closing else 0)


def test_pairs_of_rows():
    starts = tf.ragged.constant([[0, 5, 2], [], [3], [0, 4]], tf.int32, 1, row_splits_dtype="int64")
    ends = tf.ragged.constant([[3, 7, 4], [], [4], [1, 6]], tf.int32, 1, row_splits_dtype="int64")
    found = np.stack(entity_pairs.of_rows(starts, ends, 99), axis=1).tolist()
    expected = [[0, 0, 1], [0, 1, 0], [0, 1, 2], [0, 2, 1], [3, 0, 1], [3, 1, 0]]
    assert found == expected
    some = np.stack(entity_pairs.of_rows(starts, ends, 1), axis=1).tolist()
    assert some == [expected[0], expected[4]]


def test_examples(config, tokenizer):
    found = RelationExtractor.examples(where(RECORD), tokenizer, config.replace(id2label=()), 64)
    assert found.labels == ("none", "lives_in")
    assert found.targets["label"].tolist() == [1, 0]
    assert found.record_ids.tolist() == [0, 0]
    for row, marks in enumerate(("@#", "#@")):
        ids = found.values[slice(*found.row_splits[row : row + 2])]
        text = tokenizer.detokenize([ids]).numpy()[0].decode()
        assert text == f" {marks[0]} Ada {marks[0]}  🙂 lives in  {marks[1]} London {marks[1]} "
        for name, mark in (("head", "@"), ("tail", "#")):
            at = found.targets[name][row]
            until = tokenizer.detokenize([ids[: at + 1]]).numpy()[0].decode()
            assert until.endswith(mark)
            assert until.count(mark) == 2  # a decoder knows an entity at its end
    encoder = RelationExtractor.examples(where(RECORD), tokenizer, config.replace(causal=False), 64)
    assert (encoder.targets["head"] < found.targets["head"]).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entities": [ENTITIES[0], {"start": 15, "end": 99, "label": "LOC"}]},
         "an entity outside the text"),
        ({"relations": [{"head": 0, "tail": 2, "label": "x"}]},
         "a relation that is not between two of the entities"),
        ({"relations": [{"head": 1, "tail": 1, "label": "x"}]},
         "a relation that is not between two of the entities"),
        ({"relations": [{"head": 0, "tail": 1, "label": x} for x in ("lives_in", "works_for")]},
         "two relations of one pair"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted(config, tokenizer, changes, reason):
    rows = where(RECORD, {**RECORD, **changes})
    found = RelationExtractor.examples(rows, tokenizer, config, 64)
    assert dict(found.skipped) == {reason: 1}
    assert found.record_ids.tolist() == [0, 0]
    with pytest.raises(ValueError, match=rf"x\.jsonl:2: .* 1 with {reason}"):
        RelationExtractor.examples(rows[1:], tokenizer, config, 64)


def test_too_many_pairs_and_too_long_texts(config, tokenizer):
    few = config.replace(task_params={"relation_extraction": {"max_pairs": 1}})
    turned = {**RECORD, "relations": [{"head": 1, "tail": 0, "label": "lives_in"}]}
    found = RelationExtractor.examples(where(turned), tokenizer, few, 64)
    assert found.targets["label"].tolist() == [0]
    assert list(found.skipped.values()) == [1]
    with pytest.raises(ValueError, match=r"x\.jsonl:1: .*2 with a pair beyond --max_length"):
        RelationExtractor.examples(where(RECORD), tokenizer, config, 6)
    none = config.replace(task_params={"relation_extraction": {"max_pairs": 0}})
    with pytest.raises(ValueError, match=r"^--max_pairs=0: expected 1 or more$"):
        RelationExtractor.examples(where(RECORD), tokenizer, none, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relations": "x"}, "relations must be a list of objects with head and tail"),
        ({"relations": [{"head": "0", "tail": 1, "label": "x"}]}, "relations must be a list"),
        ({"relations": [{"head": 0, "tail": 1, "label": "x"}]}, "unknown label 'x'; known are"),
        ({"entities": [3]}, "entities must be a list of objects"),
    ],
)
def test_bad_records_are_named(config, tokenizer, changes, message):
    with pytest.raises(ValueError, match=rf"x\.jsonl:1: .*{message}"):
        RelationExtractor.examples(where({**RECORD, **changes}), tokenizer, config, 64)


def test_entities_need_no_label(config, tokenizer):
    bare = {**RECORD, "entities": [{**one, "label": None} for one in ENTITIES]}
    del bare["entities"][0]["label"]
    found, alone = (
        RelationExtractor.examples(where(record), tokenizer, config, 64)
        for record in (bare, RECORD)
    )
    np.testing.assert_array_equal(found.values, alone.values)
    np.testing.assert_array_equal(found.targets["label"], alone.targets["label"])


@pytest.mark.parametrize("relations", [[], [{"head": 0, "tail": 1, "label": "none"}]])
def test_records_without_a_relation_say_so(config, tokenizer, relations):
    rows = where(*2 * [{**RECORD, "relations": relations}])
    with pytest.raises(ValueError, match=r"x\.jsonl:1: relations names none, as in all 2 records"):
        RelationExtractor.examples(rows, tokenizer, config.replace(id2label=()), 64)
    # A model that knows its relations is evaluated on such records all the same.
    found = RelationExtractor.examples(rows, tokenizer, config, 64)
    assert found.targets["label"].tolist() == [0, 0, 0, 0]


def test_bad_relations_are_named_before_labels_are_looked_for(config, tokenizer):
    with pytest.raises(ValueError, match=r"x\.jsonl:1: relations must be a list"):
        RelationExtractor.examples(
            where({**RECORD, "relations": "x"}), tokenizer, config.replace(id2label=()), 64
        )


def test_the_first_label_says_that_there_is_none(tiny):
    with pytest.raises(ValueError, match="expected none, and the relations there are"):
        RelationExtractor(tiny.replace(id2label=("a", "none")))


def test_logits_look_at_the_marks(config):
    model = RelationExtractor(config)
    ids = np.random.default_rng(0).integers(3, 300, (2, 7)).astype(np.int32)
    hidden = model.backbone(ids).numpy()
    vectors = np.concatenate([hidden[[0, 1], [2, 4]], hidden[[0, 1], [6, 1]]], axis=1)
    pair = np.tanh(vectors @ model.pair.kernel.numpy() + model.pair.bias.numpy())
    expected = pair @ model.score.kernel.numpy() + model.score.bias.numpy()
    found = model(ids, np.array([2, 4]), np.array([6, 1]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_saved_and_read_again(config, tokenizer, tmp_path):
    model = RelationExtractor(config, tokenizer)
    model.save_pretrained(tmp_path / "x")
    fields = json.loads((tmp_path / "x" / "config.json").read_text())
    assert fields["architectures"] == ["GptKerasForRelationExtractor"]
    assert gpt_keras.tasks.of(tmp_path / "x") is RelationExtractor
    again = RelationExtractor.from_pretrained(tmp_path / "x")
    assert again.config == model.config
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_micro_f1_is_scikit_learns_without_none():
    rng = np.random.default_rng(1)
    true, found = rng.integers(0, 3, (2, 80))
    metrics = RelationMetrics(LABELS)
    batch = {"label": true, "sample_id": np.arange(80)}
    metrics.update(batch, Loss(0, 0, np.eye(3)[found], np.ones((80, 2))))
    some = rng.integers(0, 80, 50)
    for result, chosen in ((metrics.result(), slice(None)), (metrics.score(some), some)):
        expected = sklearn.precision_recall_fscore_support(
            true[chosen], found[chosen], labels=[1, 2], average="micro"
        )
        names = ("micro_precision", "micro_recall", "micro_f1")
        np.testing.assert_allclose([result[name] for name in names], expected[:3])
    assert "lives_in" in metrics.report()


TEXTS = [TEXT, "", "我们 在 北京", "Ada " * 60, "Ada in London for Bob"]
SPANS = ["[[0, 3], [15,21]]", "[]", "[[0,2],[5,7]]", "[[0, 3], [4, 7], [220, 223]]",
         "[[0, 3], [7, 13], [18, 21]]"]  # fmt: skip


@pytest.fixture
def model(config, tokenizer):
    model = RelationExtractor(config, tokenizer)
    model.score.bias.assign([-0.5, 0.2, 0.2])
    return model


def answers(model, texts, spans):
    found = model.relations(tf.constant(texts), tf.constant(spans))
    return {name: value.numpy() for name, value in found.items()}


def test_relations_of_raw_texts(model, config, tokenizer, monkeypatch):
    monkeypatch.setattr(pieces, "TOKENS", 60)
    found = answers(model, TEXTS, SPANS)
    assert found["num_relations"].max() == found["labels"].shape[1] > 0
    # What training sees of the same texts.
    for row, (text, spans) in enumerate(zip(TEXTS, SPANS, strict=True)):
        entities = [{"start": a, "end": b, "label": "X"} for a, b in json.loads(spans)]
        count = found["num_relations"][row]
        pairs = zip(found["heads"][row, :count], found["tails"][row, :count], strict=True)
        if not entities:
            assert count == 0
            continue
        record = {"text": text, "entities": entities, "relations": []}
        examples = RelationExtractor.examples(where(record), tokenizer, config, 64)
        n = len(examples.row_splits) - 1
        expected = []
        for i in range(n):
            ids = examples.values[slice(*examples.row_splits[i : i + 2])][np.newaxis]
            at = (examples.targets[name][i : i + 1] for name in ("head", "tail"))
            expected.append(int(np.argmax(model(ids, *at))))
        labels = [LABELS[i].encode() for i in expected if i]
        assert found["labels"][row, :count].tolist() == labels
        for i, (head, tail) in enumerate(pairs):
            for name, which in (("head", head), ("tail", tail)):
                entity = entities[which]
                covered = text[entity["start"] : entity["end"]]
                assert found[f"{name}_texts"][row, i].decode() == covered
        assert (found["heads"][row, count:] == -1).all()
        assert (found["labels"][row, count:] == b"").all()
        alone = answers(model, [text], [spans])
        assert alone["labels"][0].tolist() == labels
        np.testing.assert_allclose(alone["scores"][0], found["scores"][row, :count], atol=1e-5)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("[[0, 3], [15, 22]]", r"entities of row 1: \[15, 22\]: expected a beginning and an end"),
        ("[[3, 3]]", r"entities of row 1: \[3, 3\]: expected"),
        ("[[0 3]]", "entities of row 1, byte 4: expected `,`, found `3]]`"),
        ("[[0, -3]]", "entities of row 1, byte 5: expected an integer, found `-3]]`"),
        ('[["0", 3]]', "entities of row 1, byte 2: expected an integer"),
        ("", r"entities of row 1, byte 0: expected `\[`, found the end"),
    ],
)
def test_bad_entities_are_named(model, spans, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.relations(tf.constant([TEXT, TEXT]), tf.constant(["[]", spans]))


def test_no_rows(model):
    found = answers(model, np.zeros([0], str), np.zeros([0], str))
    assert {value.shape[0] for value in found.values()} == {0}
