"""What is said of a step beside its loss."""

import math

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from trainers import args
from trainers.args import UsageError
from trainers.estimate import step_flops
from trainers.insight import (
    MAX_TOKENS,
    AttentionMaps,
    Insight,
    Profile,
    gemm_peak,
    insight_flags,
)
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
    assert "bits_per_byte" not in values  # of a model without a tokenizer
    assert not [name for name in values if "/" in name]


def test_what_is_not_computed_does_not_count(config, label_source):
    step = make_step(gpt_keras.SequenceClassifier(config.replace(id2label=("a", "b"))), 1)
    insight, batch = Insight(step), label_source.batch(0)
    whole, kept = (
        insight.values(inputs, StepResult(2.0, 1.0), 0.3, 0.0)
        for inputs in (batch, batch | {"features": None})
    )
    assert kept["gflops"] < whole["gflops"]
    assert "perplexity" not in kept


def test_bits_per_byte_of_the_text_that_a_batch_predicts(model_dir):
    task = gpt_keras.CausalLM.from_pretrained(model_dir)
    ids = task.tokenizer.tokenize(["the cat sat", "on a mat"]).to_tensor().numpy()
    eos = task.tokenizer.eos_token_id
    batch = {
        "token_ids": np.concatenate([ids, [[eos], [eos]]], axis=1),
        "loss_mask": np.array([[0.0, *[1.0] * ids.shape[1]], [0.0] * (ids.shape[1] + 1)]),
    }
    values = Insight(make_step(task)).values(batch, StepResult(2.0, 1.0), 0.3, 0.0)
    text = b"".join(task.tokenizer.token_bytes.numpy()[ids[0, 1:]])
    assert b"the cat sat".endswith(text)
    # The end of the document has to be said too, but it is no text.
    bits = 2.0 * ids.shape[1] / math.log(2)
    assert values["bits_per_byte"] == pytest.approx(bits / len(text))


def test_what_was_measured_by_part_and_source(config, language_source):
    task = gpt_keras.CausalLM(config)
    step = TrainStep(
        task, task.trainable_variables, AdamW(task.trainable_variables, 1e-3), make_strategy(),
        sources=("wiki", "code", "none"), xla=False,
    )  # fmt: skip
    insight = Insight(step, every=4)
    assert [i for i in range(12) if insight.measures(i)] == [3, 7, 11]
    assert not Insight(step).measures(0)
    batch = {**language_source.batch(0), "source_id": np.arange(8, dtype=np.int32) % 2}

    def by_group(result):
        groups = {}
        for name, value in insight.values(batch, result, 0.3, 0.0).items():
            if "/" in name:
                group, part = name.split("/")
                groups.setdefault(group, {})[part] = value
        return groups

    result = step(batch, 0)
    losses = dict(zip(("wiki", "code"), result.source_losses[:2], strict=True))
    assert by_group(result) == {"loss_of": losses}
    result = step(batch, 1, measure=True)
    found = by_group(result)
    parts = ["embedding", "block_0", "block_1", "head"]
    assert found["grad_norm_of"] == dict(zip(parts, result.grad_norms, strict=True))
    assert found["update_ratio_of"] == dict(zip(parts, result.update_ratios, strict=True))
    assert insight.values(batch, result, 0.3, 0.0)["update_ratio"] == result.update_ratio
    held_back = step(batch, 2, limit=0.0, measure=True)
    assert set(by_group(held_back)) == {"loss_of", "grad_norm_of"}


class Pictures:
    """A board that keeps what of attention it is to show."""

    def __init__(self):
        self.shown = {}

    def attention(self, name, weights, tokens, step):
        self.shown[name] = (weights, tokens, step)


def test_attention_of_first_middle_and_last_block(model_dir):
    task = gpt_keras.SequenceClassifier.from_pretrained(
        model_dir, id2label=("a", "b"), num_layers=2
    )
    maps = AttentionMaps(task, ["the cat\n ", "on " * 200])
    assert maps.layers == [0, 1]
    board = Pictures()
    maps.show(board, 7)
    assert list(board.shown) == [f"attention/{i}/block_{j}" for i in (0, 1) for j in (0, 1)]
    weights, tokens, step = board.shown["attention/0/block_1"]
    ids = task.tokenizer.tokenize(["the cat\n "]).to_tensor().numpy()
    np.testing.assert_array_equal(weights, task.backbone.attention_weights(ids, [1])[0][0])
    assert "".join(tokens) == r"the·cat\n·"
    assert step == 7
    assert board.shown["attention/1/block_0"][0].shape == (2, MAX_TOKENS, MAX_TOKENS)
    with pytest.raises(UsageError, match="--attention_prompts=: has no token to draw"):
        AttentionMaps(task, ["a", ""])


def test_a_peak_is_one():
    small, large = gemm_peak(64), gemm_peak(512)
    assert small > 0
    assert 1 < large < 1e5


def profile_of(text, folder):
    return Profile.of(args.parse([insight_flags], ["test", f"--profile_steps={text}"]), folder)


@pytest.mark.parametrize("text", ["3", "3:", "5:5", "6:4", "a:b", "-1:4"])
def test_steps_that_are_none(text):
    with pytest.raises(UsageError, match=f"--profile_steps={text}: expected FIRST:LAST, as 10:15"):
        args.parse([insight_flags], ["test", f"--profile_steps={text}"])


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
