import math

import keras
import numpy as np
import pytest

from trainers.schedule import WarmUpThenDecay


def rates(schedule, steps):
    return [float(schedule(step)) for step in range(steps)]


def test_warm_up_reaches_the_peak_at_its_last_step():
    schedule = WarmUpThenDecay("constant", 2e-3, 100, warmup_steps=4)
    np.testing.assert_allclose(rates(schedule, 6), [5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3, 2e-3])


def test_cosine_and_linear_decay():
    cosine = WarmUpThenDecay("cosine", 1.0, 12, warmup_steps=2, min_ratio=0.1)
    linear = WarmUpThenDecay("linear", 1.0, 12, warmup_steps=2, min_ratio=0.1)
    for step in range(2, 12):
        progress = (step - 2) / 10
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
        assert float(cosine(step)) == pytest.approx(expected, rel=1e-6)
        assert float(linear(step)) == pytest.approx(0.1 + 0.9 * (1 - progress), rel=1e-6)
    assert float(cosine(50)) == pytest.approx(0.1)
    assert float(linear(50)) == pytest.approx(0.1)


def test_without_warm_up_the_first_step_has_the_peak():
    assert float(WarmUpThenDecay("linear", 3e-4, 10)(0)) == pytest.approx(3e-4)


def test_warm_up_stable_decay():
    schedule = WarmUpThenDecay("wsd", 2.0, 12, warmup_steps=2, min_ratio=0.2, decay_steps=4)
    expected = [1, 2, 2, 2, 2, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4, 0.4]
    np.testing.assert_allclose(rates(schedule, 14), expected, rtol=1e-6)


def test_inverse_square_root():
    schedule = WarmUpThenDecay("inverse_sqrt", 2.0, 400, warmup_steps=4, min_ratio=0.2)
    expected = [2 * min((t + 1) / 4, 1) * math.sqrt(4 / max(t + 1, 4)) for t in range(99)]
    np.testing.assert_allclose(rates(schedule, 99), expected, rtol=1e-6)
    assert float(schedule(100)) == pytest.approx(0.4)  # not below the minimum
    assert float(WarmUpThenDecay("inverse_sqrt", 2.0, 400)(3)) == pytest.approx(1.0)


def test_keras_serialises_it():
    schedule = WarmUpThenDecay("wsd", 1e-3, 20, 5, 0.2, 3)
    config = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(config)
    assert rates(copy, 20) == rates(schedule, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cosin"}, "schedule='cosin': give one of cosine, linear, constant, wsd"),
        (
            {"kind": "wsd", "warmup_steps": 6, "decay_steps": 5},
            r"warm-up \(6\) and decay \(5\) are longer than the run of 10 steps",
        ),
        ({"warmup_steps": 11}, "warmup_steps=11: give 0 to the 10 steps"),
        ({"min_ratio": 1.5}, "min_learning_rate_ratio=1.5: give a share"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        WarmUpThenDecay(**{"kind": "linear", "peak": 1.0, "total_steps": 10, **changes})
