"""Conditional random field and best path, against all paths there are."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import crf

B, T, C = 4, 5, 3
LENGTHS = np.array([5, 3, 1, 0], np.int32)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B, T, C)).astype(np.float32)
TAGS = RNG.integers(0, C, (B, T)).astype(np.int32)


@pytest.fixture
def chain(tiny):
    layer = crf.Transitions(tiny, C)
    layer.build()
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return layer


def score_of(logits, path, moves, first, last):
    path = list(path)
    score = sum(logits[i, tag] for i, tag in enumerate(path)) + first[path[0]] + last[path[-1]]
    return score + sum(moves[a, b] for a, b in itertools.pairwise(path))


def parameters(chain):
    return [x.numpy().astype(np.float64) for x in (chain.moves, chain.first, chain.last)]


@pytest.mark.parametrize("jit", [False, True])
def test_losses_are_those_over_all_paths(chain, jit):
    run = tf.function(chain.losses_of, jit_compile=jit, autograph=False)
    found = run(LOGITS, TAGS, LENGTHS).numpy()
    for row, n in enumerate(LENGTHS[:3]):
        scores = [
            score_of(LOGITS[row], path, *parameters(chain))
            for path in itertools.product(range(C), repeat=int(n))
        ]
        expected = np.logaddexp.reduce(scores)
        expected -= score_of(LOGITS[row], TAGS[row, :n], *parameters(chain))
        assert found[row] == pytest.approx(expected, abs=1e-4)
    assert found[3] == 0


def test_gradients_are_those_of_differences(chain):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(chain.losses_of(LOGITS, TAGS, LENGTHS))
    gradients = tape.gradient(loss, [weight.value for weight in chain.weights])
    for weight, gradient in zip(chain.weights, gradients, strict=True):
        before = weight.numpy()
        for at in np.ndindex(*before.shape):
            sides = []
            for step in (0.05, -0.05):
                moved = before.copy()
                moved[at] += step
                weight.assign(moved)
                sides.append(float(tf.reduce_sum(chain.losses_of(LOGITS, TAGS, LENGTHS))))
            weight.assign(before)
            assert gradient.numpy()[at] == pytest.approx((sides[0] - sides[1]) / 0.1, abs=2e-2)


def test_the_best_path_is_the_best_of_all(chain):
    found = crf.best_path(LOGITS, LENGTHS, chain.moves, chain.first, chain.last).numpy()
    assert found.shape == (B, T)
    for row, n in enumerate(LENGTHS[:3]):
        best = max(
            itertools.product(range(C), repeat=int(n)),
            key=lambda path: score_of(LOGITS[row], path, *parameters(chain)),
        )
        assert found[row, :n].tolist() == list(best)


def test_a_path_keeps_to_the_rules():
    """Whatever the logits say, and however large they are."""
    allowed = np.array([[True, True, False], [False, False, True], [True, True, False]])
    first, last = np.array([True, True, False]), np.array([True, False, True])
    logits = 100 * np.random.default_rng(1).normal(size=(200, 7, 3)).astype(np.float32)
    lengths = np.arange(200, dtype=np.int32) % 7 + 1
    scores = [crf.log_scores(x) for x in (allowed, first, last)]
    found = crf.best_path(logits, lengths, *scores).numpy()
    for path, n in zip(found, lengths, strict=True):
        assert first[path[0]]
        assert last[path[n - 1]]
        assert all(allowed[a, b] for a, b in itertools.pairwise(path[:n]))
