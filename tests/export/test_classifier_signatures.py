"""What a served classifier says and what it refuses, in a plain session."""

import numpy as np
import pytest
import tensorflow as tf

from export import signatures

pytestmark = pytest.mark.xdist_group("exported_classifier")  # one export for all of them

TEXTS = ["I am so happy about this!", "今天天气很好", "", "x\0y", "The weather is nice " * 40]


def example(**features):
    """A serialized tf.Example of string features."""
    record = tf.train.Example()
    for name, value in features.items():
        record.features.feature[name].bytes_list.value.append(value.encode())
    return record.SerializeToString()


def test_signatures(classifier):
    defs = classifier.loaded.signature_defs
    for name in ("serving_default", "classify"):
        assert defs[name].method_name == signatures.PREDICT
        assert set(defs[name].inputs) == {"texts"}
        assert set(defs[name].outputs) == {"labels", "scores"}
    # The form that TensorFlow Serving's Classify call and its REST verb ask for.
    assert defs["classify_examples"].method_name == "tensorflow/serving/classify"
    assert set(defs["classify_examples"].inputs) == {"inputs"}
    assert set(defs["classify_examples"].outputs) == {"classes", "scores"}
    for name in ("serving_default", "classify", "classify_examples"):
        for info in defs[name].outputs.values():
            assert [dim.size for dim in info.tensor_shape.dim] == [-1, 3]


def test_says_what_the_python_model_says(classifier):
    answer = classifier.loaded.run("classify", {"texts": TEXTS})
    labels, scores = classifier.model.classify_texts(tf.constant(TEXTS))
    assert answer["labels"].tolist() == labels.numpy().tolist()
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-6)
    default = classifier.loaded.run("serving_default", {"texts": TEXTS})
    assert default["labels"].tolist() == labels.numpy().tolist()


def test_scores_are_probabilities_of_all_labels_best_first(classifier):
    answer = classifier.loaded.run("classify", {"texts": TEXTS})
    np.testing.assert_allclose(answer["scores"].sum(axis=1), 1.0, atol=1e-6)
    assert (np.diff(answer["scores"]) <= 0).all()
    for labels in answer["labels"]:
        assert {label.decode() for label in labels} == {"négatif", "neutral", "positive"}
    assert len({tuple(labels) for labels in answer["labels"]}) > 1


def test_a_score_is_the_softmax_of_its_logit(classifier):
    model = classifier.model
    token_ids = model.tokenizer.tokenize(TEXTS[:1]).to_tensor()
    expected = tf.nn.softmax(model(token_ids))[0].numpy()
    answer = classifier.loaded.run("classify", {"texts": TEXTS[:1]})
    by_label = dict(zip(answer["labels"][0], answer["scores"][0], strict=True))
    for label, score in zip(model.config.id2label, expected, strict=True):
        assert by_label[label.encode()] == pytest.approx(score, abs=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(classifier):
    together = classifier.loaded.run("classify", {"texts": TEXTS})
    for row, text in enumerate(TEXTS):
        alone = classifier.loaded.run("classify", {"texts": [text]})
        assert alone["labels"][0].tolist() == together["labels"][row].tolist()
        np.testing.assert_allclose(alone["scores"][0], together["scores"][row], atol=1e-5)


def test_a_text_longer_than_the_context_loses_its_end(classifier):
    tokens = classifier.model.tokenizer.tokenize(TEXTS[-1:])
    assert tokens.row_lengths()[0] > 64
    beginning = classifier.model.tokenizer.detokenize(tokens[:, :64]).numpy().tolist()
    whole = classifier.loaded.run("classify", {"texts": TEXTS[-1:]})
    cut = classifier.loaded.run("classify", {"texts": beginning})
    np.testing.assert_allclose(whole["scores"], cut["scores"], atol=1e-6)


def test_examples(classifier):
    records = [example(text=text, other="ignored") for text in TEXTS]
    answer = classifier.loaded.run("classify_examples", {"inputs": records})
    expected = classifier.loaded.run("classify", {"texts": TEXTS})
    assert answer["classes"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-6)


@pytest.mark.parametrize(
    ("signature", "name"), [("classify", "texts"), ("classify_examples", "inputs")]
)
def test_no_rows(classifier, signature, name):
    answer = classifier.loaded.run(signature, {name: []})
    assert {value.shape for value in answer.values()} == {(0, 3)}


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("classify", {"texts": ["ok", b"\xff"]}, "texts of row 1 is not valid UTF-8"),
        ("classify_examples", {"inputs": [example(txt="a")]}, "Feature: text (data type: string)"),
        ("classify_examples", {"inputs": [b"fasdf"]}, "Could not parse example input"),
    ],
)
def test_bad_texts_are_named(classifier, signature, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        classifier.loaded.run(signature, inputs)
    assert message in error.value.message
