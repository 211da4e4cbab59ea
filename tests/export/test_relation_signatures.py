"""What a served relation extractor says and what it refuses, in a plain session."""

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.xdist_group("exported_relation_extractor")  # one export for all of them

TEXTS = ["Ada 🙂 met Bo in London", "今天天气很好", "", "The weather is nice " * 40]
ENTITIES = ["[[0, 3], [10, 12], [16, 22]]", "[[0, 2], [2, 4]]", "[]", "[[4, 11], [700, 703]]"]


def test_says_what_the_python_model_says(relation_extractor):
    for name in ("serving_default", "relations"):
        definition = relation_extractor.loaded.signature_defs[name]
        assert set(definition.inputs) == {"texts", "entities"}
        answer = relation_extractor.loaded.run(name, {"texts": TEXTS, "entities": ENTITIES})
        expected = relation_extractor.model.relations(tf.constant(TEXTS), tf.constant(ENTITIES))
        assert set(answer) == set(expected)
        for key, value in expected.items():
            if key == "scores":
                np.testing.assert_allclose(answer[key], value, atol=1e-5)
            else:
                assert answer[key].tolist() == value.numpy().tolist(), key
        assert answer["num_relations"].max() > 1
        assert answer["num_relations"][2:].tolist() == [
            0,
            0,
        ]  # none, and beyond the context


def test_a_row_does_not_depend_on_its_neighbours(relation_extractor):
    together = relation_extractor.loaded.run("relations", {"texts": TEXTS, "entities": ENTITIES})
    for row, (text, entities) in enumerate(zip(TEXTS, ENTITIES, strict=True)):
        inputs = {"texts": [text], "entities": [entities]}
        alone = relation_extractor.loaded.run("relations", inputs)
        count = together["num_relations"][row]
        assert alone["num_relations"][0] == count
        for name in ("labels", "heads", "tails", "head_texts"):
            assert alone[name][0].tolist() == together[name][row, :count].tolist()


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        (["[]", "[[0, 99]]"], r"entities of row 1: \[0, 99\]: expected a beginning and an end"),
        (["[]", "[[0]]"], "entities of row 1, byte 3: expected"),
        (["[]"], "entities"),
    ],
)
def test_bad_entities_are_named(relation_extractor, entities, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        relation_extractor.loaded.run("relations", {"texts": ["a", "b"], "entities": entities})
