"""SequenceClassifier: one row of label logits a text."""

import numpy as np
import pytest

from gpt_keras import SequenceClassifier

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


@pytest.mark.parametrize("labels", [(), ("only",)])
def test_two_labels_at_least(tiny, labels):
    with pytest.raises(ValueError, match="two labels or more"):
        SequenceClassifier(tiny.replace(id2label=labels))
