import pathlib
import threading

import keras
import numpy as np
import pytest

from trainers.loss_scale import LossScale
from trainers.optimizer import OPTIMIZERS, AdamW
from trainers.state import Progress, TrainingState


class Run:
    """Two weights and their optimizer, with a state in a folder."""

    def __init__(self, folder, shape=(2, 2), **options):
        self.variables = [keras.Variable(np.zeros(shape), name=name) for name in ("a", "b")]
        self.optimizer = AdamW(self.variables, 0.1)
        self.said = []
        self.state = TrainingState(
            folder, self.variables, self.optimizer, notify=self.said.append, **options
        )

    def train(self, steps=1, score=None):
        """Trains and saves."""
        for _ in range(steps):
            gradients = [np.ones(v.shape, np.float32) for v in self.variables]
            self.optimizer.apply(gradients, self.variables)
            self.state.progress.step += 1
        if score is not None:
            self.state.record(score)
        self.state.save()
        self.state.wait()

    @property
    def values(self):
        return [v.numpy() for v in (*self.variables, *self.optimizer.variables)]


def damage(folder, step):
    path = pathlib.Path(folder) / f"checkpoint-{step}" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


def assert_equal(values, expected):
    for value, one in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, one)


def test_restores_weights_optimizer_and_progress(tmp_path):
    before = Run(tmp_path)
    before.state.progress.losses = [0.1, 1 / 3, float(np.float32(2.7))]
    before.train(3, score=0.5)
    after = Run(tmp_path)
    assert after.state.restore()
    assert after.state.progress == before.state.progress
    assert after.state.progress.scores == [[3, 0.5]]
    assert_equal(after.values, before.values)


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
    state.wait()
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


def test_holds_the_moment_of_saving_while_training_goes_on(tmp_path):
    """The write is held up until the weights have moved on: nothing waits, nothing shows."""
    run, go = Run(tmp_path), threading.Event()
    write = run.state.checkpoints.write
    run.state.checkpoints.write = lambda *values: (go.wait(60), write(*values))
    run.optimizer.apply([np.ones((2, 2), np.float32)] * 2, run.variables)
    run.state.progress.step = 1
    expected = run.values
    run.state.save()
    run.state.poll()
    run.optimizer.apply([np.ones((2, 2), np.float32)] * 2, run.variables)
    run.state.progress.step, run.state.progress.losses = 2, [1.0]
    assert not run.state.checkpoints.steps()
    go.set()
    run.state.wait()
    after = Run(tmp_path)
    assert after.state.restore()
    assert after.state.progress == Progress(step=1)
    assert_equal(after.values, expected)


def test_one_write_at_a_time(tmp_path):
    run, go, running = Run(tmp_path, keep_last=9), threading.Event(), []
    write = run.state.checkpoints.write

    def slow(*values):
        running.append(len(running))
        go.wait(0.05)
        write(*values)
        running.pop()

    run.state.checkpoints.write = slow
    for step in range(1, 5):
        run.state.progress.step = step
        run.state.save()
        assert len(running) <= 1
    run.state.wait()
    assert run.state.checkpoints.steps() == [1, 2, 3, 4]


def test_keeps_the_last_and_the_best(tmp_path):
    run = Run(tmp_path, keep_last=2, keep_best=2)
    for score in (0.1, 0.9, None, 0.7, 0.2, None, 0.9, 0.3, float("nan")):
        run.train(score=score)
    assert run.state.checkpoints.steps() == [2, 7, 8, 9]
    resumed = Run(tmp_path, keep_last=2, keep_best=2)
    resumed.state.restore()
    resumed.train(score=0.95)
    assert resumed.state.checkpoints.steps() == [2, 9, 10]
    assert not run.said
    assert not resumed.said


def test_best_weights_come_back_after_worse_steps(tmp_path):
    run = Run(tmp_path, keep_last=1)
    run.train(score=0.5)
    best = run.values
    run.train(2, score=0.4)
    run.train()
    run.state.restore_best()
    assert run.state.progress.best_step == 1
    assert_equal(run.values, best)


def test_the_next_best_stands_in_for_a_damaged_best(tmp_path):
    run = Run(tmp_path, keep_best=2)
    run.train(score=0.4)
    expected = [v.numpy() for v in run.variables]
    run.train(score=0.5)
    run.train()
    damage(tmp_path, 2)
    run.state.restore_best()
    assert run.state.progress.best_step == 1
    assert_equal([v.numpy() for v in run.variables], expected)
    assert "checkpoint-2 is damaged" in run.said[0]


def test_better_weights_in_memory_stay_though_they_could_not_be_written(tmp_path):
    run = Run(tmp_path / "state")
    run.train(score=0.4)
    (tmp_path / "state").rename(tmp_path / "away")
    (tmp_path / "state").write_text("no folder")
    run.train(score=0.9)
    run.train(score=0.5)
    expected = run.values
    run.state.restore_best()
    assert run.state.progress.best_step == 3
    assert_equal(run.values, expected)


def test_without_any_evaluated_checkpoint_the_last_weights_stay(tmp_path):
    run = Run(tmp_path, keep_last=1)
    run.train(score=0.4)
    run.train()
    damage(tmp_path, 1)
    run.state.restore_best()
    assert run.state.progress.best_step == 2
    assert run.said[-1].endswith("the weights are those of the last step")


def test_a_damaged_checkpoint_is_passed_over_and_written_anew(tmp_path):
    before = Run(tmp_path)
    before.train()
    expected = before.values
    before.train()
    damage(tmp_path, 2)
    after = Run(tmp_path)
    assert after.state.restore()
    assert after.state.progress.step == 1
    assert_equal(after.values, expected)
    assert len(after.said) == 1
    assert "checkpoint-2 is damaged" in after.said[0]
    assert after.said[0].endswith("taking the one before it")
    after.train()
    last = Run(tmp_path)
    assert last.state.restore()
    assert last.state.progress.step == 2
    assert not last.said


def test_a_damaged_one_of_a_later_step_does_not_count(tmp_path):
    before = Run(tmp_path)
    for _ in range(3):
        before.train()
    damage(tmp_path, 3)
    after = Run(tmp_path, keep_last=1)
    after.state.restore()
    after.state.record(0.1)
    after.state._saved_step = -1
    after.state.save()
    after.state.wait()
    assert after.state.checkpoints.steps() == [2]


def test_only_damaged_checkpoints(tmp_path):
    Run(tmp_path).train()
    damage(tmp_path, 1)
    with pytest.raises(ValueError, match="no checkpoint there can be read"):
        Run(tmp_path).state.restore()


def test_a_checkpoint_of_another_model(tmp_path):
    Run(tmp_path).train()
    with pytest.raises(ValueError, match=r"tensor .* has shape \(2, 2\), the run's \(3, 2\)"):
        Run(tmp_path, shape=(3, 2)).state.restore()
    other = Run(tmp_path)
    other.state._variables["weights/c"] = other.variables[0]
    with pytest.raises(ValueError, match="tensor weights/c: the checkpoint lacks it"):
        other.state.restore()


def test_a_disk_that_takes_nothing_is_a_warning(tmp_path):
    run = Run(tmp_path / "state")
    run.train()
    (tmp_path / "state").rename(tmp_path / "away")
    (tmp_path / "state").write_text("no folder")
    run.train()
    assert run.said == [
        f"the checkpoint of step 2 could not be written ({tmp_path / 'state'}: File exists); the "
        "last one is of step 1"
    ]
    (tmp_path / "state").unlink()
    (tmp_path / "away").rename(tmp_path / "state")
    run.state.save()  # the same step, once more
    run.state.wait()
    assert run.state.checkpoints.steps() == [1, 2]


def test_other_errors_of_the_thread_are_raised(tmp_path):
    run = Run(tmp_path)
    run.state.checkpoints.write = lambda *_: [][0]
    run.state.progress.step = 1
    run.state.save()
    with pytest.raises(IndexError):
        run.state.wait()
