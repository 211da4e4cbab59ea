import pathlib

import keras
import numpy as np
import pytest

from trainers.loss_scale import LossScale
from trainers.optimizer import OPTIMIZERS, AdamW
from trainers.state import Progress, TrainingState


class Run:
    """Two weights and their optimizer, with a state in a folder."""

    def __init__(self, folder):
        self.variables = [keras.Variable(np.zeros((2, 2)), name=name) for name in ("a", "b")]
        self.optimizer = AdamW(self.variables, 0.1)
        self.said = []
        self.state = TrainingState(folder, self.variables, self.optimizer, self.said.append)

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.apply([np.ones((2, 2), np.float32)] * 2, self.variables)
            self.state.progress.step += 1

    @property
    def values(self):
        return [v.numpy() for v in (*self.variables, *self.optimizer.variables)]


def test_restores_weights_optimizer_and_progress(tmp_path):
    before = Run(tmp_path)
    before.train(3)
    before.state.save_best(0.5)
    before.state.save()
    after = Run(tmp_path)
    assert after.state.restore()
    assert after.state.progress == Progress(3, 3, 0.5, 0, False)
    for value, expected in zip(after.values, before.values, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_optimizers_go_on_where_they_were(tmp_path, name):
    """With moving averages and a loss scale."""

    def make(folder):
        start = (("a", (2, 3)), ("scale", (3,)), ("b", (3, 2)))
        variables = [keras.Variable(np.ones(shape, "f"), name=n) for n, shape in start]
        optimizer = OPTIMIZERS[name](variables, 0.1, ema_decay=0.9)
        loss_scale = LossScale(optimizer)
        return variables, optimizer, loss_scale, TrainingState(folder, variables, optimizer)

    def train(variables, optimizer, step):
        rng = np.random.default_rng(step)
        gradients = [rng.normal(size=v.shape).astype("f") for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)

    variables, optimizer, loss_scale, state = make(tmp_path)
    for step in range(3):
        train(variables, optimizer, step)
    loss_scale.value.assign(64.0)
    state.progress.step = 3
    state.save()
    again, optimizer_again, scale_again, state = make(tmp_path)
    assert state.restore()
    assert float(scale_again.value) == 64.0
    for _ in range(2):
        for mine, theirs in (
            (variables, again),
            (optimizer.variables, optimizer_again.variables),
        ):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
        train(variables, optimizer, 3)
        train(again, optimizer_again, 3)


def test_nothing_to_restore(tmp_path):
    run = Run(tmp_path)
    assert not run.state.restore()
    assert run.state.progress == Progress()


def test_best_weights_come_back_after_worse_steps(tmp_path):
    run = Run(tmp_path)
    run.train(1)
    best = [v.numpy() for v in run.variables]
    run.state.save_best(0.5)
    run.train(2)
    run.state.restore_best()
    for variable, expected in zip(run.variables, best, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected)


def damage(folder, step):
    path = pathlib.Path(folder) / f"ckpt-{step}.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[10] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    before = Run(tmp_path)
    for _ in range(2):
        before.train(1)
        before.state.save()
    damage(tmp_path, 2)
    after = Run(tmp_path)
    assert after.state.restore()
    assert after.state.progress.step == 1
    assert len(after.said) == 1
    assert "ckpt-2 is damaged, taking the one before it" in after.said[0]


def test_only_damaged_checkpoints(tmp_path):
    run = Run(tmp_path)
    run.train(1)
    run.state.save()
    damage(tmp_path, 1)
    with pytest.raises(ValueError, match="no checkpoint there can be read"):
        Run(tmp_path).state.restore()


def test_what_a_kill_left_half_written_goes(tmp_path):
    remains = tmp_path / "ckpt-7_temp"
    remains.mkdir()
    (remains / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    assert not Run(tmp_path).state.restore()
    assert not remains.exists()
