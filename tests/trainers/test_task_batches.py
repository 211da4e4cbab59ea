"""Batches of several tasks in turns."""

import collections

import numpy as np

from gpt_keras.tasks.examples import Examples
from trainers.batches import ExampleBatches
from trainers.task_batches import TaskBatches


def source(rows, token, shuffle=True):
    """Rows of three times a token."""
    return ExampleBatches(
        Examples(
            np.full(3 * rows, token, np.int32),
            np.arange(rows + 1) * 3,
            {"weight": np.ones(rows, np.float32)},
            np.arange(rows, dtype=np.int32),
            [{}] * rows,
        ),
        4,
        shuffle=shuffle,
    )


def name_of(batch):
    (name,) = (key.removeprefix("task/") for key in batch if key.startswith("task/"))
    assert batch["task/" + name].shape == (4,)
    return name


def test_each_task_has_its_share_and_none_of_its_batches_is_left_out():
    mixed = TaskBatches({"a": source(8, 1), "b": source(40, 2)}, {"a": 3.0, "b": 0.5}, seed=5)
    assert mixed.steps_per_epoch == 6 + 5
    assert mixed.shapes == [(4, 8)]
    seen = collections.defaultdict(list)
    for step in range(2 * mixed.steps_per_epoch):
        batch = mixed.batch(step)
        name = name_of(batch)
        assert (batch["token_ids"][:, :3] == {"a": 1, "b": 2}[name]).all()
        seen[name].append(tuple(batch["sample_id"]))
    assert seen["a"] == [tuple(source(8, 1).batch(i)["sample_id"]) for i in range(12)]
    assert seen["b"] == [tuple(8 + source(40, 2).batch(i)["sample_id"]) for i in range(10)]


def test_a_batch_depends_on_seed_and_step_alone():
    def order(seed):
        mixed = TaskBatches({"a": source(8, 1), "b": source(16, 2)}, seed=seed)
        return [name_of(mixed.batch(step)) for step in reversed(range(3 * mixed.steps_per_epoch))]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:6] != order(1)[6:12]


def test_evaluation_takes_each_sample_once():
    mixed = TaskBatches(
        {"a": source(6, 1, False), "b": source(5, 2, False)}, {"a": 9.0, "b": 1.0}, shuffle=False
    )
    names = [name_of(mixed.batch(step)) for step in range(mixed.steps_per_epoch)]
    assert names == ["a", "a", "b", "b"]
    assert mixed.num_samples == 11
    ids = [list(mixed.batch(step)["sample_id"]) for step in range(mixed.steps_per_epoch)]
    # Distinct over the tasks: what frozen blocks say is kept by them.
    assert ids == [[0, 1, 2, 3], [4, 5, -1, -1], [6, 7, 8, 9], [10, -1, -1, -1]]
