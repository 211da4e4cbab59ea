import json
import os
import resource
import signal

import keras
import numpy as np
import pytest

import gpt_keras
from trainers import args
from trainers.fit import Data, fit, fit_flags
from trainers.insight import insight_flags
from trainers.loop import Schedule, count_tokens, loop_flags
from trainers.loss_guard import BadLossError
from trainers.optimizer import optimizer_flags
from trainers.run_folder import RunFolder
from trainers.strategy import make_strategy, strategy_flags

FLAGS = (fit_flags, loop_flags, insight_flags, optimizer_flags, strategy_flags)
LABELS = ("a", "b", "c")


@pytest.fixture
def run(tmp_path, config):
    """Function that trains a tiny model: lines of metrics.jsonl, progress, final metrics."""

    def train(source, eval_source=None, name="run", **values):
        values = {"xla": False, "learning_rate": 1e-2, "output_dir": str(tmp_path / name), **values}
        arguments = [f"--{key}={value}" for key, value in values.items()]
        flags = args.parse(FLAGS, ["test", *arguments])
        keras.utils.set_random_seed(5)
        strategy, folder = make_strategy(), RunFolder(flags)
        classifies = "label" in source.batch(0)
        kind = gpt_keras.SequenceClassifier if classifies else gpt_keras.CausalLM
        with strategy.scope():
            task = kind(config.replace(id2label=LABELS if classifies else ()))
        train.task = task
        folder.begin()
        progress, metrics = fit(task, Data(source, eval_source), flags, folder, strategy)
        text = (tmp_path / name / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()], progress, metrics

    return train


def column(lines, name):
    return [line[name] for line in lines if name in line]


def test_each_step_and_evaluation_is_a_line(run, language_source, tmp_path):
    lines, progress, metrics = run(
        language_source, language_source, max_steps=5, eval_steps=2, save_steps=3
    )
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 2, 4, 5]
    assert {"learning_rate", "grad_norm", "tokens_per_second", "tokens"} < set(lines[1])
    assert lines[1]["tokens"] == count_tokens(language_source.batch(0))
    assert min(column(lines, "eval_loss")[1:]) == progress.best_metric == metrics.result()["loss"]
    assert column(lines, "learning_rate")[0] == pytest.approx(1e-2)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_frozen_features_change_no_loss(run, label_source):
    options = {"train_top_layers": 1, "num_epochs": 3}
    lines, _, metrics = run(label_source, label_source, name="kept", **options)
    expected, _, _ = run(label_source, label_source, name="plain", frozen_features=False, **options)
    for name in ("loss", "eval_loss", "eval_macro_f1"):
        np.testing.assert_allclose(column(lines, name), column(expected, name), rtol=1e-5)
    assert metrics.details()["confusion_matrix"]


def test_frozen_features_of_packed_rows(run, language_source):
    options = {"train_top_layers": 1, "max_steps": 6}
    lines, _, _ = run(language_source, name="kept", **options)
    expected, _, _ = run(language_source, name="plain", frozen_features=False, **options)
    np.testing.assert_allclose(column(lines, "loss"), column(expected, "loss"), rtol=1e-5)


def test_frozen_features_leave_no_file(run, label_source, tmp_path):
    run(label_source, label_source, train_top_layers=1, max_steps=1)
    assert not list((tmp_path / "run").glob("frozen*"))


def test_early_stopping_brings_the_best_weights_back(run, language_source):
    """So high a learning rate that things soon get worse."""
    lines, progress, metrics = run(
        language_source, language_source, learning_rate=1.0, schedule="constant", max_steps=30,
        eval_steps=1, early_stopping_patience=2,
    )  # fmt: skip
    losses = column(lines, "eval_loss")[1:]
    assert progress.stopped
    assert progress.step < 30
    assert progress.step == progress.best_step + 2
    assert losses.index(min(losses)) + 1 == progress.best_step
    assert metrics.result()["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_moving_averages_are_evaluated_and_kept(run, language_source):
    """The steps do not notice; what is evaluated changes, and is what the run ends with."""
    options = {"max_steps": 6, "eval_steps": 3, "schedule": "constant"}
    plain, _, _ = run(language_source, language_source, name="plain", **options)
    lines, _, metrics = run(language_source, language_source, name="ema", ema_decay=0.9, **options)
    assert column(lines, "loss") == column(plain, "loss")
    ours, theirs = column(lines, "eval_loss"), column(plain, "eval_loss")
    assert ours[0] == theirs[0]
    assert abs(ours[2] - theirs[2]) > 1e-3
    assert metrics.result()["loss"] == pytest.approx(min(ours[1:]), rel=1e-6)


def test_moving_averages_are_kept_without_eval_data(run, language_source):
    weights = {}
    for decay in (0.0, 0.9):
        run(language_source, name=f"ema{decay}", max_steps=3, ema_decay=decay)
        weights[decay] = run.task.trainable_variables[0].numpy()
    assert np.abs(weights[0.0] - weights[0.9]).max() > 1e-4


def test_all_that_a_step_can_do_at_once(run, language_source):
    lines, _, _ = run(
        language_source, language_source, max_steps=24, optimizer="muon", schedule="wsd",
        mixed_precision="float16", remat=True, label_smoothing=0.05, z_loss=1e-4, ema_decay=0.5,
        layer_lr_decay=0.9, gradient_accumulation_steps=2, warmup_steps=2,
    )  # fmt: skip
    losses = column(lines, "loss")
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert column(lines, "learning_rate")[-1] < 0.6e-2  # of 1e-2: the decay has begun


def test_without_eval_data_the_last_weights_are_kept(run, language_source):
    lines, progress, metrics = run(language_source, max_steps=2)
    assert metrics is None
    assert progress.best_step == -1
    assert len(lines) == 2


class Wrapped:
    """A source that gives what another one gives."""

    def __init__(self, source):
        self.source, self.count = source, 0

    def __getattr__(self, name):
        return getattr(self.source, name)

    def batch(self, step):
        return self.source.batch(step)


class Broken(Wrapped):
    """Its third batch has no loss."""

    def batch(self, step):
        batch = self.source.batch(step)
        return {**batch, "loss_mask": batch["loss_mask"] * np.nan} if step == 2 else batch


class Signalling(Wrapped):
    """Its fifth batch comes with a SIGTERM."""

    def batch(self, step):
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.source.batch(step)


def test_a_loss_that_is_no_number_ends_the_run_and_a_resume_leaves_it_out(
    run, language_source, tmp_path
):
    """The losses are those of a run without that batch in the data."""
    options = {"max_steps": 5, "schedule": "constant"}
    with pytest.raises(BadLossError, match=r"step 3: the loss is nan; .* lower --learning_rate"):
        run(Broken(language_source), **options)
    assert [path.name for path in (tmp_path / "run" / "training_state").iterdir()] == [
        "checkpoint-2"
    ]
    lines, progress, _ = run(Broken(language_source), resume=True, bad_loss="skip", **options)
    bad = json.loads((tmp_path / "run" / "bad_batches.jsonl").read_text())  # one line
    assert bad["step"] == 3
    assert bad["sample_ids"] == language_source.batch(2)["sample_id"].tolist()
    assert progress.step == 5
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if line.get("skipped")] == [3]
    assert lines[2]["loss"] is None

    batch = language_source.batch
    language_source.batch = lambda step: batch(step + (step >= 2))
    expected, _, _ = run(language_source, name="without", **{**options, "max_steps": 4})
    assert [x for x in column(lines, "loss") if x] == column(expected, "loss")


def test_stopped_in_an_evaluation_which_is_done_anew(run, language_source):
    """The second evaluation, after step 2, is never finished; a resumed run begins with it."""
    options = {"max_steps": 5, "eval_steps": 2, "early_stopping_patience": 9}
    expected, *results = run(language_source, language_source, name="whole", **options)
    with pytest.raises(args.Stopped, match="SIGTERM: stopped after step 2; --resume continues"):
        run(language_source, Signalling(language_source), **options)
    lines, *resumed = run(language_source, language_source, resume=True, **options)
    for line in (*lines, *expected):
        line.pop("tokens_per_second", None)
    assert lines == expected
    assert resumed[0] == results[0]
    assert resumed[1].result() == results[1].result()


def test_goes_on_where_checkpoints_do_not_fit(run, language_source, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        lines, progress, _ = run(language_source, language_source, max_steps=5, save_steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert progress.step == 5
    assert "eval_loss" in lines[-1]
    said = capsys.readouterr().err
    for step in (2, 3, 4, 5):
        assert f"the checkpoint of step {step} could not be written (" in said
    assert not list((tmp_path / "run" / "training_state").iterdir())


def test_schedule_follows_the_epochs():
    flags = args.parse(FLAGS, ["test", "--num_epochs=3"])
    assert Schedule.of(flags, 10) == Schedule(30, 10, 10)
    flags = args.parse(FLAGS, ["test", "--max_steps=7", "--eval_steps=4", "--save_steps=2"])
    assert Schedule.of(flags, 10) == Schedule(7, 4, 2)
