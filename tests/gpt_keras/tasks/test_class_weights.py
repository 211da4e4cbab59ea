"""Class weights."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from gpt_keras.tasks import class_weights

NAMES = ("neg", "so, so", "pos=1")


def test_by_name_and_in_order():
    assert class_weights.parse("", NAMES) is None
    assert class_weights.parse("neg=2, pos=1=0.5", NAMES).tolist() == [2, 1, 0.5]
    assert class_weights.parse("3,2,1", NAMES).tolist() == [3, 2, 1]


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 5)
    found = class_weights.parse(class_weights.balanced(np.bincount(labels), 14, False), NAMES)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_balanced_weights_of_several_labels_even_out_their_two_sides():
    counts = np.array([2, 5, 8])
    found = class_weights.parse(class_weights.balanced(counts, 10, True), NAMES)
    np.testing.assert_allclose(found * counts, 10 - counts, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bad=1", "unknown label 'bad'; known are neg"),
        ("1,2", "2 weights for 3 labels"),
        ("neg=0", "'0' is no number above 0"),
        ("neg=x", "'x' is no number above 0"),
        ("neg=inf", "'inf' is no number above 0"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(ValueError, match=f"--class_weights={text}: .*{message}"):
        class_weights.parse(text, NAMES)
