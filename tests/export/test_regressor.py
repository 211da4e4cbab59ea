"""What a served regressor says, and a classifier of pairs with several labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import saved_model, verification

TEXTS = ["I am so happy about this! 🙂", "今天天气很好", "", "The weather is nice " * 40]


@pytest.mark.xdist_group("exported_regressor")
def test_says_what_the_python_model_says(regressor):
    loaded = regressor.loaded
    expected = regressor.model.regress_texts(tf.constant(TEXTS)).numpy()
    assert np.ptp(expected) > 0.1
    for name in ("serving_default", "regress"):
        value = loaded.run(name, {"texts": TEXTS})["value"]
        np.testing.assert_allclose(value, expected, atol=1e-5)
    for row, text in enumerate(TEXTS):
        alone = loaded.run("regress", {"texts": [text]})["value"]
        np.testing.assert_allclose(alone, expected[row : row + 1], atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="row 1 is not valid UTF-8"):
        loaded.run("regress", {"texts": ["ok", b"\xff"]})


def test_pairs_with_several_labels(tokenizer, tiny, tmp_path):
    keras.utils.set_random_seed(5)
    params = {"problem_type": "multi_label_classification", "pairs": True, "temperature": 2.0}
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, id2label=("a", "b", "c"), **tiny,
        task_params={"classification": params},
    )  # fmt: skip
    model = gpt_keras.SequenceClassifier(config, tokenizer)
    path = saved_model.export(model, tmp_path / "pairs")
    pairs = TEXTS[::-1]
    labels, scores = model.classify_texts(tf.constant(TEXTS), tf.constant(pairs))
    with verification.load(path) as loaded:
        answer = loaded.run("serving_default", {"texts": TEXTS, "pairs": pairs})
        assert answer["labels"].tolist() == labels.numpy().tolist()
        np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
        expected = (scores.numpy() >= 0.5).sum(axis=1)
        assert answer["num_labels"].tolist() == expected.tolist()
        with pytest.raises(tf.errors.InvalidArgumentError, match="pairs"):
            loaded.run("classify", {"texts": TEXTS, "pairs": pairs[:2]})
        record = tf.train.Example()
        for name, text in (("text", TEXTS[0]), ("text_pair", pairs[0])):
            record.features.feature[name].bytes_list.value.append(text.encode())
        found = loaded.run("classify_examples", {"inputs": [record.SerializeToString()]})
        np.testing.assert_allclose(found["scores"], scores[:1], atol=1e-5)
