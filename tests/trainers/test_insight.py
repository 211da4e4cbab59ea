"""What is said of a step beside its loss."""

import math

import pytest
import tensorflow as tf

import gpt_keras
from trainers import args
from trainers.args import UsageError
from trainers.estimate import step_flops
from trainers.insight import Insight, Profile, gemm_peak, insight_flags
from trainers.optimizer import AdamW
from trainers.step import StepResult, TrainStep, trained_variables
from trainers.strategy import make_strategy


def make_step(task, top_layers=0):
    variables, first = trained_variables(task, top_layers)
    return TrainStep(task, variables, AdamW(variables, 1e-3), make_strategy(), first=first)


def test_shares_of_time_and_of_the_peak(config, language_source):
    step = make_step(gpt_keras.CausalLM(config))
    insight, batch = Insight(step), language_source.batch(0)
    values = insight.values(batch, StepResult(2.0, 1.0), seconds=0.3, waited=0.1)
    assert values["input_wait"] == pytest.approx(0.25)
    assert values["gflops"] == pytest.approx(step_flops(step, (8, 12)) / 0.3e9)
    assert values["of_gemm_peak"] == pytest.approx(values["gflops"] / insight.peak)
    assert values["perplexity"] == pytest.approx(math.exp(2.0))
    assert 0.05 < values["memory_gb"] < 100


def test_what_is_not_computed_does_not_count(config, label_source):
    step = make_step(gpt_keras.SequenceClassifier(config.replace(id2label=("a", "b"))), 1)
    insight, batch = Insight(step), label_source.batch(0)
    whole, kept = (
        insight.values(inputs, StepResult(2.0, 1.0), 0.3, 0.0)
        for inputs in (batch, batch | {"features": None})
    )
    assert kept["gflops"] < whole["gflops"]
    assert "perplexity" not in kept


def test_a_peak_is_one():
    small, large = gemm_peak(64), gemm_peak(512)
    assert small > 0
    assert 1 < large < 1e5


def profile_of(text, folder):
    return Profile.of(args.parse([insight_flags], ["test", f"--profile_steps={text}"]), folder)


@pytest.mark.parametrize("text", ["3", "3:", "5:5", "6:4", "a:b", "-1:4"])
def test_steps_that_are_none(text, tmp_path):
    with pytest.raises(UsageError, match=f"--profile_steps={text}: expected FIRST:LAST, as 10:15"):
        profile_of(text, str(tmp_path))


def test_a_trace_of_the_steps_asked_for(tmp_path):
    with profile_of("2:4", str(tmp_path)) as profile:
        for step in range(6):
            profile.before(step)
            tf.matmul(tf.ones((4, 4)), tf.ones((4, 4)))
            assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (step >= 4)


def test_a_trace_that_the_end_of_the_run_cuts_short(tmp_path):
    with profile_of("0:9", str(tmp_path)) as profile:
        profile.before(0)
        tf.matmul(tf.ones((4, 4)), tf.ones((4, 4)))
    assert list(tmp_path.rglob("*.xplane.pb"))
    with profile_of("", str(tmp_path / "none")) as profile:
        profile.before(0)
    assert not (tmp_path / "none").exists()
