"""Runs on folds and on shares of the data, of a trainer that starts at once."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from trainers import args, cross_validate, learning_curve, trainer_process

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _parabola(monkeypatch):
    monkeypatch.setattr(trainer_process, "TRAINERS", (*trainer_process.TRAINERS, "parabola"))
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parent.parent}:{HERE}")


@pytest.fixture
def command(tmp_path, capsys):
    def run(program, *trainer, **values):
        values = {"output_dir": tmp_path / "out", **values}
        arguments = [f"--{name}={value}" for name, value in values.items()]
        argv = ["program", *arguments, "--", "parabola", "--eval_data=", "--x=0.001", *trainer]
        argv = trainer_process.with_trainer_flags(argv)
        return args.exit_status(program.main, program.FLAGS, argv), capsys.readouterr()

    return run


def test_mean_and_interval_of_the_folds(command, tmp_path):
    status, printed = command(cross_validate, folds=3, keep_models=True)
    assert status == 0, printed.err
    found = json.loads((tmp_path / "out" / "folds.json").read_text())
    # (n - 3)^2 of n = 1, and the number of the fold
    assert [found["folds"][f"fold_{i}"]["loss"] for i in range(3)] == [4, 5, 6]
    assert found["mean"]["loss"] == 5
    low, high = stats.t.interval(0.95, 2, 5, stats.sem([4, 5, 6]))
    assert found["confidence"]["loss"] == pytest.approx([low, high])
    assert "names" not in found["mean"]
    assert f"5.0000  ({low:.4f} to {high:.4f})" in printed.out
    assert (tmp_path / "out" / "runs" / "fold_2" / "report.json").exists()


def test_what_is_done_is_not_done_again(command, tmp_path):
    assert command(cross_validate, folds=2)[0] == 0
    log = tmp_path / "out" / "runs" / "fold_1.log"
    before = log.read_text()
    assert command(cross_validate, folds=2)[0] == 2  # the folder holds a result
    (tmp_path / "out" / "runs" / "fold_0" / "report.json").unlink()
    assert command(cross_validate, folds=2, resume=True)[0] == 0
    assert log.read_text() == before
    assert (tmp_path / "out" / "runs" / "fold_0" / "report.json").exists()


def test_a_run_that_fails(command):
    status, printed = command(cross_validate, "--fail_above=0", folds=2)
    assert status == 1
    assert "ended with status 1: parabola: error: --x=0.001: too large" in printed.err


@pytest.mark.parametrize(
    ("extra", "message"),
    [("--eval_fold=0/2", "leave it out"), ("--eval_data=x", "leave --eval_data out")],
)
def test_flags_of_each_run(command, extra, message):
    status, printed = command(cross_validate, extra)
    assert status == 2
    assert message in printed.err


def test_learning_curve(command, tmp_path):
    status, printed = command(learning_curve, sizes="8,2,4")
    assert status == 0, printed.err
    found = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [point["samples"] for point in found["points"]] == [2, 4, 8]
    assert [point["loss"] for point in found["points"]] == [4.5, 4.25, 4.125]
    assert found["metric"] == "loss"
    picture = matplotlib.image.imread(tmp_path / "out" / "curve.png")
    assert picture.shape == (400, 600, 4)
    assert np.unique(picture.reshape(-1, 4), axis=0).shape[0] > 10
    # One more size: those that are there are taken as they are.
    assert command(learning_curve, sizes="8,2,4,16", resume=True)[0] == 0
    found = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [point["samples"] for point in found["points"]] == [2, 4, 8, 16]


@pytest.mark.parametrize("sizes", ["", "0,3", "x"])
def test_sizes_that_are_none(command, sizes):
    status, printed = command(learning_curve, sizes=sizes)
    assert status == 2
    assert f"--sizes={sizes}: give numbers" in printed.err
