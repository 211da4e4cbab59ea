"""What a served tagger says, in a plain session."""

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.xdist_group("exported_tagger")  # one export for all of them

TEXTS = ["I met Ada 🙂 in London!", "今天天气很好", "", "x\0y", "The weather is nice " * 40]
NAMES = {
    "labels", "texts", "starts", "ends", "byte_starts", "byte_ends", "scores", "num_spans",
}  # fmt: skip


def test_says_what_the_python_model_says(tagger):
    for name in ("serving_default", "tag"):
        definition = tagger.loaded.signature_defs[name]
        assert set(definition.inputs) == {"texts"}
        for key, info in definition.outputs.items():
            ranks = 1 if key == "num_spans" else 2
            assert [dim.size for dim in info.tensor_shape.dim] == [-1] * ranks, key
        answer = tagger.loaded.run(name, {"texts": TEXTS})
        expected = tagger.model.tag(tf.constant(TEXTS))
        assert set(answer) == set(expected) == NAMES
        for key, value in expected.items():
            if key == "scores":
                np.testing.assert_allclose(answer[key], value, atol=1e-5)
            else:
                assert answer[key].tolist() == value.numpy().tolist(), key
        assert answer["num_spans"].max() > 1


def test_a_row_does_not_depend_on_its_neighbours(tagger):
    together = tagger.loaded.run("tag", {"texts": TEXTS})
    for row, text in enumerate(TEXTS):
        alone = tagger.loaded.run("tag", {"texts": [text]})
        count = together["num_spans"][row]
        assert alone["num_spans"][0] == count == alone["labels"].shape[1]
        for name in ("labels", "starts", "ends", "texts"):
            assert alone[name][0].tolist() == together[name][row, :count].tolist()


def test_no_rows_and_bad_texts(tagger):
    answer = tagger.loaded.run("tag", {"texts": []})
    assert {value.shape[0] for value in answer.values()} == {0}
    with pytest.raises(tf.errors.InvalidArgumentError, match="texts of row 1 is not valid UTF-8"):
        tagger.loaded.run("tag", {"texts": ["ok", b"\xff"]})
