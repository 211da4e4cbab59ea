import keras
import numpy as np
import pytest

from trainers import args
from trainers.optimizer import OPTIMIZERS, AdamW, Lion, make_optimizer, optimizer_flags

SHAPES = (3, 2), (3,), (2, 5)
DECAYS = 0.5, 0.0, 0.5  # of matrices and vectors


def make_variables(seed=0):
    rng = np.random.default_rng(seed)
    names = ("kernel", "scale", "kernel")  # Keras names them alike in every block
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for shape, name in zip(SHAPES, names, strict=True)
    ]


def make_gradients(step):
    rng = np.random.default_rng([1, step])
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def train(optimizer, variables, steps=3):
    for step in range(steps):
        train_one(optimizer, variables, step)
    return [v.numpy() for v in variables]


def train_one(optimizer, variables, step):
    gradients = [keras.ops.convert_to_tensor(g) for g in make_gradients(step)]
    optimizer.apply(gradients, variables)


def test_adamw_is_that_of_the_paper_and_spares_vectors():
    variables = make_variables()
    expected = [v.numpy().astype(float) for v in variables]
    optimizer = AdamW(variables, 0.1, weight_decay=0.5, beta_1=0.8, beta_2=0.9)
    means, squares = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for t in range(1, 4):
        for i, gradient in enumerate(make_gradients(t - 1)):
            means[i] = 0.8 * means[i] + 0.2 * gradient
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            mean, square = means[i] / (1 - 0.8**t), squares[i] / (1 - 0.9**t)
            expected[i] = expected[i] * (1 - 0.1 * DECAYS[i]) - 0.1 * mean / np.sqrt(square)
    for value, reference in zip(train(optimizer, variables), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5)


@pytest.mark.parametrize("make", OPTIMIZERS.values())
def test_a_variable_that_begins_later_does_not_change_before(make):
    """Then its steps are those that it would have taken, of the running means so far."""
    variables = make_variables()
    before = [v.numpy() for v in variables]
    optimizer = make(variables, 0.1, weight_decay=0.5, starts=[0, 1, 2], ema_decay=0.5)
    for step in range(3):
        train_one(optimizer, variables, step)
        for i, variable in enumerate(variables):
            assert np.array_equal(variable, before[i]) == (step < i)


def test_a_variable_that_begins_later_begins_with_steps_of_the_usual_size():
    late, early = make_variables(), make_variables()
    for variables, starts in ((late, [2, 2, 2]), (early, None)):
        optimizer = AdamW(variables, 0.1, weight_decay=0.0, starts=starts)
        for step in range(3):
            now = [v.numpy() for v in variables]
            train_one(optimizer, variables, step)
        steps = [v.numpy() - x for v, x in zip(variables, now, strict=True)]
        if starts:
            expected = steps
    for step, reference in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step, reference, rtol=1e-3, atol=1e-6)


def test_lion_is_that_of_the_paper():
    variables = make_variables()
    expected = [v.numpy().astype(float) for v in variables]
    means = [np.zeros(shape) for shape in SHAPES]
    for step in range(3):
        for i, gradient in enumerate(make_gradients(step)):
            expected[i] *= 1 - 0.01 * DECAYS[i]
            expected[i] -= 0.01 * np.sign(0.8 * means[i] + 0.2 * gradient)
            means[i] = 0.9 * means[i] + 0.1 * gradient
    optimizer = Lion(variables, 0.01, weight_decay=0.5, beta_1=0.8, beta_2=0.9)
    for value, reference in zip(train(optimizer, variables), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adafactor", keras.optimizers.Adafactor(0.05)),
        ("muon", keras.optimizers.Muon(0.05, weight_decay=None, adam_weight_decay=None,
                                       epsilon=1e-8)),
    ],
)  # fmt: skip
def test_the_others_are_those_of_keras(name, plain):
    ours, theirs = make_variables(), make_variables()
    optimizer = OPTIMIZERS[name](ours, 0.05, weight_decay=0.0)
    for value, expected in zip(train(optimizer, ours), train(plain, theirs), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_and_decay_follow_each_variable(name):
    """The first update is the rate's share of that with the full rate, and so is its decay."""
    start = [v.numpy() for v in make_variables()]
    full, shares = make_variables(), make_variables()
    whole = train(OPTIMIZERS[name](full, 1e-3, weight_decay=0.5), full, steps=1)
    optimizer = OPTIMIZERS[name](shares, 1e-3, weight_decay=0.5, rates=[0.5, 0.25, 0.0])
    parts = train(optimizer, shares, steps=1)
    for x, a, b, share in zip(start, whole, parts, (0.5, 0.25, 0.0), strict=True):
        np.testing.assert_allclose(b - x, share * (a - x), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_averages_follow_the_weights(name):
    variables = make_variables()
    optimizer = OPTIMIZERS[name](variables, 0.05, ema_decay=0.3)
    first = [v.numpy() for v in variables]
    with optimizer.averaged():  # nothing to average yet
        for variable, value in zip(variables, first, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
    expected = [0.0] * 3
    for t in range(5):
        gradients = [keras.ops.convert_to_tensor(g) for g in make_gradients(t)]
        optimizer.apply(gradients, variables)
        decay = min(0.3, t / (t + 9))
        expected = [
            decay * x + (1 - decay) * v.numpy() for x, v in zip(expected, variables, strict=True)
        ]
    last = [v.numpy() for v in variables]
    with optimizer.averaged():
        for variable, value in zip(variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)
    for variable, value in zip(variables, last, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    optimizer.take_averages()
    np.testing.assert_allclose(variables[0].numpy(), expected[0], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_flags_make_each(name):
    flags = args.parse(
        [optimizer_flags],
        ["test", f"--optimizer={name}", "--beta_2=0.5", "--weight_decay=0.2", "--ema_decay=0.9",
         "--schedule=wsd", "--learning_rate=0.5"],
    )  # fmt: skip
    optimizer = make_optimizer(flags, make_variables(), 10)
    assert (optimizer.name, optimizer.weight_decay, optimizer.ema_decay) == (name, 0.2, 0.9)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    given = {"adafactor": None, "muon": "adam_beta_2"}.get(name, "beta_2")
    assert given is None or getattr(optimizer, given) == 0.5


def test_default_of_beta_2_is_that_of_the_optimizer():
    for name, expected in (("adamw", 0.999), ("lion", 0.99)):
        flags = args.parse([optimizer_flags], ["test", f"--optimizer={name}"])
        assert make_optimizer(flags, make_variables(), 10).beta_2 == expected
