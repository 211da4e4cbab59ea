"""One vector for a text: which tokens count, wherever the padding is."""

import numpy as np
import pytest

from gpt_keras.pooling import POOLINGS, SentenceEmbedding

X = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
EXPECTED = {
    "mean": lambda rows: rows.mean(0), "first": lambda rows: rows[0], "last": lambda rows: rows[-1]
}  # fmt: skip


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_against_numpy(pooling, normalize):
    embedding = SentenceEmbedding(pooling, normalize)
    mask = np.zeros((3, 7), bool)
    mask[0, :4], mask[1, 2:], mask[2, 3:4] = True, True, True
    for real in (mask, None):
        rows = [x if real is None else x[real[i]] for i, x in enumerate(X)]
        expected = np.stack([EXPECTED[pooling](row) for row in rows])
        if normalize:
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(embedding(X, real), expected, rtol=1e-5, atol=1e-6)


def test_a_vector_of_zeros_stays():
    assert not np.any(SentenceEmbedding(normalize=True)(X * 0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pooling": "max"}, "pooling='max': expected one of mean"),
        ({"max_length": 0}, "max_length=0"),
    ],
)
def test_bad_values(fields, words):
    with pytest.raises(ValueError, match=words):
        SentenceEmbedding(**fields)
