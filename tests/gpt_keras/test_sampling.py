"""Sampling: each method by its definition, the draw by its distribution."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from gpt_keras.sampling import (
    History,
    MinP,
    Penalties,
    Sampler,
    Temperature,
    TopK,
    TopP,
    fresh_seeds,
    uniform,
)

rng = np.random.default_rng(0)
LOGITS = np.sort(rng.normal(0, 2, (3, 40)).astype("float32"))[:, ::-1].copy()


def probabilities(logits):
    return tf.nn.softmax(logits).numpy()


def test_temperature_divides_and_zero_leaves():
    out = Temperature(tf.constant([0.5, 2.0, 0.0]))(LOGITS)
    np.testing.assert_allclose(out, LOGITS * np.array([[2.0], [0.5], [1.0]]), rtol=1e-6)


def test_top_k_keeps_the_best_and_zero_keeps_all():
    kept = (probabilities(TopK(tf.constant([1, 7, 0]))(LOGITS)) > 0).sum(axis=1)
    assert list(kept) == [1, 7, 40]


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_smallest_sufficient_set(p):
    kept = probabilities(TopP(tf.constant([p, p, 1.0]))(LOGITS)) > 0
    for row in range(2):
        before = np.cumsum(probabilities(LOGITS)[row].astype("float64"))
        assert kept[row].sum() == np.searchsorted(before, p) + 1
    assert kept[2].all()


@pytest.mark.parametrize("p", [0.02, 0.3, 1.0])
def test_min_p_keeps_what_is_likely_enough(p):
    kept = probabilities(MinP(tf.constant([p, p, 0.0]))(LOGITS)) > 0
    share = probabilities(LOGITS) / probabilities(LOGITS)[:, :1]
    np.testing.assert_array_equal(kept[:2], share[:2] >= p)
    assert kept[2].all()


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(5))
def test_distributions_are_those_of_transformers(seed):
    import torch
    from transformers.generation import logits_process

    draw = np.random.default_rng(seed)
    temperature, k = draw.uniform(0.3, 2), int(draw.integers(5, 40))
    p, min_p = draw.uniform(0.5, 1), draw.uniform(0, 0.3)
    ours, theirs = LOGITS, torch.tensor(LOGITS)
    for method, value, reference in (
        (Temperature, temperature, logits_process.TemperatureLogitsWarper(temperature)),
        (TopK, k, logits_process.TopKLogitsWarper(k)),
        (TopP, p, logits_process.TopPLogitsWarper(p)),
        (MinP, min_p, logits_process.MinPLogitsWarper(min_p)),
    ):
        ours = method(tf.fill([3], tf.constant(value)))(ours)
        theirs = reference(None, theirs)
        expected = torch.softmax(theirs, -1).numpy()
        np.testing.assert_allclose(probabilities(ours), expected, atol=1e-6)


# Prompt and answer of each row, tokens below 40.
TEXTS = [([3, 3, 7], [7, 9, 9, 9]), ([0, 39], []), ([5], [0, 5, 0, 1])]


def history():
    """TEXTS as a `History`, whose padding is a token that no text has."""
    longest = max(len(prompt + answer) for prompt, answer in TEXTS)
    rows = [prompt + answer + [38] * longest for prompt, answer in TEXTS]
    columns = np.arange(longest)
    ends = np.array([[len(prompt), len(prompt + answer)] for prompt, answer in TEXTS])
    in_prompt = columns < ends[:, :1]
    in_answer = ~in_prompt & (columns < ends[:, 1:])
    token_ids = np.array([row[:longest] for row in rows], "int32")
    return History(*map(tf.constant, (token_ids, in_prompt, in_answer)))


def penalised(logits, repetition=1.0, presence=0.0, frequency=0.0):
    values = (tf.broadcast_to(tf.constant(v), [3]) for v in (repetition, presence, frequency))
    return Penalties(*values)(tf.constant(logits), history).numpy()


def test_penalties_by_their_definition():
    """Loops over texts and tokens, as the papers and OpenAI's reference say it."""
    logits = np.random.default_rng(1).normal(0, 2, (3, 40)).astype("float32")
    settings = np.array([[1.3, 0.4, -0.7], [0.8, 2.0, 1.0], [1.0, -1.5, 0.3]], "float32")
    expected = logits.copy()
    for row, ((prompt, answer), values) in enumerate(zip(TEXTS, settings, strict=True)):
        repetition, presence, frequency = values
        for token in {*prompt, *answer}:
            one = expected[row, token]
            expected[row, token] = one * repetition if one < 0 else one / repetition
        for token in set(answer):
            expected[row, token] -= presence + frequency * answer.count(token)
    np.testing.assert_allclose(penalised(logits, *settings.T), expected, rtol=1e-5, atol=1e-5)


def test_penalties_that_are_off_change_nothing_and_ask_for_nothing():
    off = Penalties(tf.ones(3), tf.zeros(3), tf.zeros(3))
    traced = tf.function(lambda logits: off(logits, history))
    np.testing.assert_array_equal(traced(LOGITS), LOGITS)
    beside = penalised(LOGITS, [1.0, 5.0, 1.0], [0.0, 0.0, 2.0])
    np.testing.assert_array_equal(beside[0], LOGITS[0])


@pytest.mark.oracle
@pytest.mark.parametrize("repetition", [0.5, 1.0, 1.7])
def test_repetition_penalty_is_that_of_transformers(repetition):
    import torch
    from transformers.generation import logits_process

    reference = logits_process.RepetitionPenaltyLogitsProcessor(repetition)
    ours = penalised(LOGITS, repetition)
    for row, (prompt, answer) in enumerate(TEXTS):
        text = torch.tensor([prompt + answer])
        theirs = reference(text, torch.tensor(LOGITS[row : row + 1]))
        np.testing.assert_allclose(ours[row], theirs[0], rtol=1e-6)


def sample(logits, rows, **options):
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    sampler = Sampler(
        tf.fill([rows], tf.constant(settings["temperature"], tf.float32)),
        tf.fill([rows], settings["top_k"]),
        tf.fill([rows], tf.constant(settings["top_p"], tf.float32)),
        tf.fill([rows], tf.constant(settings["min_p"], tf.float32)),
        tf.range(rows, dtype=tf.int64),
    )
    return sampler(tf.repeat(logits[None], rows, axis=0), tf.constant(3)).numpy()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 9}, {"top_p": 0.8}, {"min_p": 0.1}]
)
def test_draws_follow_the_distribution(options):
    logits = rng.permutation(LOGITS[0])
    rows = 20_000
    counts = np.bincount(sample(logits, rows, **options), minlength=40)
    wanted = logits / options.get("temperature", 1.0)
    order = np.argsort(-wanted)
    cut = options.get("top_k", 40)
    if "top_p" in options:
        cut = np.searchsorted(np.cumsum(probabilities(wanted)[order]), options["top_p"]) + 1
    wanted[order[cut:]] = -np.inf
    wanted[probabilities(wanted) < options.get("min_p", 0) * probabilities(wanted).max()] = -np.inf
    expected = probabilities(wanted.astype("float64")) * rows
    assert counts[expected == 0].sum() == 0
    # The rare ones together, so that the test's approximation holds.
    common = expected >= 5
    seen = np.append(counts[common], counts[~common].sum())
    hoped = np.append(expected[common], expected[~common].sum())
    seen, hoped = seen[hoped > 0], hoped[hoped > 0]
    assert stats.chisquare(seen, hoped * seen.sum() / hoped.sum()).pvalue > 1e-3


def test_greedy_rows_beside_sampled_ones():
    sampler = Sampler(
        tf.constant([0.0, 5.0, 0.0]), tf.zeros(3, tf.int32), tf.ones(3), tf.zeros(3),
        tf.range(3, dtype=tf.int64),
    )  # fmt: skip
    tokens = sampler(tf.constant(LOGITS[:, ::-1].copy()), tf.constant(0)).numpy()
    assert tokens[0] == tokens[2] == 39


def test_uniform_is_uniform_and_uncorrelated_over_seeds_and_steps():
    seeds = np.arange(2000, dtype="int64")
    by_step = np.stack([uniform(seeds, step).numpy() for step in range(20)])  # (20, 2000)
    assert by_step.min() >= 0
    assert by_step.max() < 1
    assert stats.kstest(by_step.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(by_step[0], by_step[1])[0, 1]) < 0.08
    assert abs(np.corrcoef(by_step[:, :-1].ravel(), by_step[:, 1:].ravel())[0, 1]) < 0.03


def test_uniform_is_splitmix64():
    """Against the published algorithm in Python integers (Steele, Lea & Flood, 2014)."""
    word = 2**64 - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    for seed, step in ((0, 0), (1, 5), (2**62, 1000)):
        state = (mix(seed) + 0x9E3779B97F4A7C15 * (step + 1)) & word
        got = uniform(tf.constant([seed], tf.int64), tf.constant(step)).numpy()[0]
        assert got == pytest.approx((mix(state) >> 40) * 2.0**-24, abs=0)


def test_fresh_seeds_replace_negative_ones_only():
    seeds = fresh_seeds(tf.constant([-1, 5, -7, 0], tf.int64)).numpy()
    assert seeds[1] == 5
    assert seeds[3] == 0
    assert (seeds >= 0).all()
    assert seeds[0] != seeds[2]
