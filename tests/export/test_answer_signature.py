"""What a served question answerer says, in a plain session."""

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.xdist_group("exported_answerer")

QUESTIONS = ["Where is it?", "今天怎么样？", "", "Who is happy?", "Why?"]
CONTEXTS = [
    4 * "The weather is nice today in Paris, and the capital of France is 🙂 here. ",
    "今天天气很好。",
    "x",
    "",
    "Naïve café, 3 × 7 = 21 🙂\n",
]


def run(exported, questions, contexts, signature="answer"):
    return exported.loaded.run(signature, {"questions": questions, "contexts": contexts})


def test_says_what_the_python_model_says(answerer):
    expected = {k: v.numpy() for k, v in answerer.model.answer(QUESTIONS, CONTEXTS).items()}
    for signature in ("answer", "serving_default"):
        found = run(answerer, QUESTIONS, CONTEXTS, signature)
        assert set(found) == {"text", "start", "end", "byte_start", "byte_end", "score"}
        for name, value in found.items():
            if name == "score":
                np.testing.assert_allclose(value, expected[name], rtol=1e-4)
            else:
                assert value.tolist() == expected[name].tolist(), name
    assert any(expected["text"])
    assert not expected["text"][3]
    inputs = answerer.loaded.signature_defs["answer"].inputs
    assert [[dim.size for dim in info.tensor_shape.dim] for info in inputs.values()] == [[-1]] * 2


def test_a_row_does_not_depend_on_its_neighbours(answerer):
    together = run(answerer, QUESTIONS, CONTEXTS)
    for row in range(len(QUESTIONS)):
        alone = run(answerer, QUESTIONS[row : row + 1], CONTEXTS[row : row + 1])
        for name, value in alone.items():
            if name == "score":
                np.testing.assert_allclose(value[0], together[name][row], rtol=1e-4)
            else:
                assert value[0] == together[name][row]
    assert run(answerer, [], [])["text"].shape == (0,)


@pytest.mark.parametrize(
    ("questions", "contexts", "message"),
    [
        (["a", b"\xff"], ["b", "c"], "questions of row 1 is not valid UTF-8"),
        (["a"], [b"\xff"], "contexts of row 0 is not valid UTF-8"),
        (["a", "b"], ["c"], "contexts has 1 values and the request 2 rows"),
    ],
)
def test_bad_texts_are_named(answerer, questions, contexts, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(answerer, questions, contexts)
    assert message in error.value.message
