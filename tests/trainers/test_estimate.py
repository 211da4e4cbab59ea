"""What a run would take, beside what it takes."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

import gpt_keras
from trainers.args import UsageError
from trainers.estimate import Memory, estimate, largest_batch, step_flops
from trainers.optimizer import AdamW
from trainers.step import TrainStep, count_parameters, trained_variables
from trainers.strategy import make_strategy


def make_step(config, top_layers=0, **options):
    strategy = make_strategy()
    with strategy.scope():
        task = gpt_keras.CausalLM(config)
        variables, first = trained_variables(task, top_layers)
        optimizer = AdamW(variables, 1e-3)
    return TrainStep(task, variables, optimizer, strategy, first=first, notify=str, **options)


def test_weights_gradients_and_optimizer(config, language_source):
    step = make_step(config)
    weights = 4 * count_parameters(step.variables)
    memory = Memory.of(step, language_source)
    assert (memory.weights, memory.gradients) == (weights, weights)
    assert 0 <= memory.optimizer - 2 * weights < 100  # step and learning rate
    assert memory.copies == weights + memory.optimizer  # a checkpoint
    assert memory.total == sum(dataclasses.astuple(memory))


def test_micro_batches_take_less_but_a_sum_of_gradients(config, language_source):
    language_source.shapes = [(8, 256)]
    whole = Memory.of(make_step(config), language_source)
    cut = Memory.of(make_step(config, gradient_accumulation_steps=4), language_source)
    assert cut.activations < 0.4 * whole.activations
    assert cut.gradients == 2 * whole.gradients


@pytest.mark.slow
def test_weights_before_a_measured_update_take_what_activations_leave(config, language_source):
    wide = make_step(config.replace(intermediate_size=20_000))
    for rows in (1, 64):
        language_source.shapes = [(rows, 2)]
        plain, measured = (Memory.of(wide, language_source, measures) for measures in (False, True))
        former = max(0, plain.weights - plain.activations - plain.logits)
        assert measured.copies == plain.copies + former
        assert bool(former) == (rows == 1)


def test_flops_by_hand(config):
    step = make_step(config.replace(tie_embeddings=True))
    a_block = 16 * 3 * 16 + 16 * 16 + 16 * 48 + 24 * 16
    attention = 12 * 2 * 2 * 8 * 10  # layers, heads, head width, tokens
    by_hand = 6 * (2 * a_block + 16 * 40) + attention
    assert step_flops(step, (3, 10)) == 30 * by_hand
    frozen = make_step(config, top_layers=1)
    assert step_flops(frozen, (3, 10)) == 30 * (6 * a_block + 2 * a_block + 2 * 16 * 40 + 8 * 320)


def test_a_table_that_is_no_head_multiplies_nothing(config):
    tied = config.replace(tie_embeddings=True, rotary=None, id2label=("a", "b", "c"))
    strategy = make_strategy()
    with strategy.scope():
        task = gpt_keras.SequenceClassifier(tied)
        variables, first = trained_variables(task, 1)
    step = TrainStep(task, variables, AdamW(variables, 1e-3), strategy, first=first, notify=str)
    a_block = 16 * 3 * 16 + 16 * 16 + 16 * 48 + 24 * 16
    assert step_flops(step, (3, 10)) == 30 * (8 * a_block + 6 * 16 * 3 + 8 * 320)


def test_frozen_blocks_count_in_the_first_epoch_alone(config, language_source, monkeypatch):
    def seconds(step, batch):
        step(batch, 0)
        return 2.0 if "features" not in batch else 0.5

    monkeypatch.setattr("trainers.estimate._seconds_of_step", seconds)
    step = make_step(config, top_layers=1)
    kept = estimate(step, language_source, 11, keeps_frozen=True)  # 3 steps an epoch
    assert "2.000 s a step" in kept
    assert "; 0.500 s after the first epoch" in kept
    assert kept.endswith("00:10 for the run, without evaluations")
    flops = [step_flops(step, (8, 12), computed) for computed in (True, False)]
    assert f", {3 * flops[0] + 8 * flops[1]:.2e} in 11 steps" in kept
    anew = estimate(step, language_source, 11)
    assert "00:22 for the run" in anew
    assert f", {11 * flops[0]:.2e} in 11 steps" in anew


def test_the_largest_of_several_shapes(label_source, monkeypatch):
    small = {**label_source.batch(0), "labels": np.zeros((8, 3))}
    monkeypatch.setattr(label_source, "batch", lambda step: small)
    batch = largest_batch(label_source)
    assert {name: value.shape for name, value in batch.items()} == {
        "token_ids": (8, 10), "padding_mask": (8, 10), "label": (8,), "weight": (8,),
        "sample_id": (8,), "labels": (8, 3),
    }  # fmt: skip
    assert batch["padding_mask"].dtype == bool


def test_what_it_says(config, language_source):
    text = estimate(make_step(config), language_source, 1000)
    assert re.search(r"^memory: \S+B of \S+B available: weights \S+B, gradients ", text)
    assert re.search(
        r"^compute: \S+ FLOPs a step of 8 x 12 tokens, \S+ in 1,000 steps$", text, re.M
    )
    assert re.search(r"^time:   0\.\d+ s a step on average of 3, [\d,]+ tokens/s", text, re.M)


def test_what_cannot_fit_is_refused_before_it_is_tried(config, language_source):
    length = 1 << 18  # the scores alone take terabytes
    language_source.shapes = [(8, length)]
    with pytest.raises(UsageError) as refused:
        estimate(make_step(config), language_source, 10)
    text = str(refused.value)
    assert re.match(r"this run needs about \S+TB of memory, and \S+GB are available", text)
    assert "what would help: --gradient_accumulation_steps, --remat or a lower --max_length" in text


PEAK = """
import sys
import gpt_keras, numpy as np
from benchmarks.train_step import CONFIG
from trainers.estimate import Memory
from trainers.optimizer import AdamW
from trainers.state import TrainingState
from trainers.step import TrainStep
from trainers.strategy import make_strategy

class Source:
    shapes = [(8, 256)]
    def batch(self, step):
        ids = np.random.default_rng(step).integers(0, 8192, (8, 256)).astype(np.int32)
        ones = np.ones_like(ids)
        return {"token_ids": ids, "segment_ids": ones, "loss_mask": ones.astype(np.float32)}

strategy = make_strategy()
with strategy.scope():
    task = gpt_keras.CausalLM(CONFIG)
    optimizer = AdamW(task.trainable_variables, 1e-4)
step = TrainStep(task, task.trainable_variables, optimizer, strategy)
if sys.argv[1] == "estimate":
    print(Memory.of(step, Source(), measures=True).total)
else:
    state = TrainingState(sys.argv[2], step.variables, optimizer)
    for i in range(3):
        step(Source().batch(i), i, measure=True)
        state.progress.step += 1
        state.save()
    state.wait()
    print(next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmHWM" in line))
"""


@pytest.mark.slow
def test_as_much_as_it_takes(tmp_path):
    found = {}
    for what in ("estimate", "run"):
        result = subprocess.run(
            [sys.executable, "-c", PEAK, what, str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[what] = int(result.stdout.split()[-1])
    assert 0.7 < found["estimate"] / found["run"] < 1.3
