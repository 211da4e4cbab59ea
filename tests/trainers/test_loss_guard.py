import json
import math

import numpy as np
import pytest

from trainers import args
from trainers.loop import loop_flags
from trainers.loss_guard import BadLossError, LossGuard
from trainers.run_folder import RunFolder
from trainers.state import Progress
from trainers.step import StepResult

BATCH = {"sample_id": np.array([4, 2, -1], np.int32)}


@pytest.fixture
def guard(tmp_path):
    """Function from policy and factor to a guard, and what it said."""

    def make(policy="skip", spike=0.0):
        flags = args.parse([loop_flags], ["test", f"--output_dir={tmp_path / 'run'}"])
        folder, said = RunFolder(flags), []
        folder.begin()
        return LossGuard(policy, spike, Progress(), folder, said.append), said

    return make


def bad_batches(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "bad_batches.jsonl").open()]


def test_no_limit_without_a_factor(guard):
    guard, _ = guard()
    for _ in range(100):
        guard.accept(1.0)
    assert guard.limit() == math.inf


def test_the_limit_is_a_multiple_of_the_median_of_the_last(guard):
    guard, _ = guard(spike=2.0)
    losses = np.random.default_rng(0).random(100).tolist()
    for i, loss in enumerate(losses):
        expected = 2 * np.median(losses[:i][-64:]) if i >= 16 else math.inf
        assert guard.limit() == pytest.approx(expected)
        guard.accept(loss)


def test_a_spike_is_left_out_told_and_no_measure_of_the_next(guard, tmp_path):
    guard, said = guard(spike=3.0)
    for _ in range(20):
        guard.accept(1.0)
    guard.reject(21, StepResult(5.5, 1.0, applied=False), BATCH)
    assert guard.limit() == 3.0
    reason = "the loss is 5.5, above 3 times the median of the last 20"
    assert bad_batches(tmp_path) == [
        {"step": 21, "loss": 5.5, "reason": reason, "sample_ids": [4, 2]}
    ]
    assert said == [f"step 21: {reason}; left out, its sample ids are in bad_batches.jsonl"]


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, math.nan, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (1.0, math.inf, "the gradient's norm is inf"),
    ],
)
def test_stop_names_the_reason_and_the_remedy(guard, tmp_path, loss, norm, reason):
    guard, _ = guard("stop")
    with pytest.raises(BadLossError, match=f"step 3: {reason}; .*--bad_loss=skip leaves it out"):
        guard.reject(3, StepResult(loss, norm, applied=False), BATCH)
    assert bad_batches(tmp_path)[0]["sample_ids"] == [4, 2]
    assert guard.progress.skipped == 0


def test_too_many_in_a_row_stop(guard):
    guard, _ = guard()
    nan = StepResult(math.nan, math.nan, applied=False)
    for step in range(9):
        guard.reject(step, nan, BATCH)
    guard.accept(1.0)
    for step in range(9):
        guard.reject(step, nan, BATCH)
    with pytest.raises(BadLossError, match="the 10th batch in a row to be left out"):
        guard.reject(9, nan, BATCH)


@pytest.mark.parametrize("spike", ["1", "0.5", "nan"])
def test_a_factor_that_finds_spikes_everywhere(spike):
    with pytest.raises(args.UsageError, match=rf"--loss_spike={spike}.*: give a factor above 1"):
        args.parse([loop_flags], ["test", f"--loss_spike={spike}"])
