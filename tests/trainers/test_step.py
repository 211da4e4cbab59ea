import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras.losses import Regularizers
from trainers import loss_scale
from trainers.loss_scale import LossScale
from trainers.optimizer import OPTIMIZERS, Adafactor, AdamW, Lion, Muon
from trainers.parts import layer_rates
from trainers.step import TrainStep, trained_variables
from trainers.strategy import make_strategy

LABELS = ("a", "b", "c")
CONFTEST = str(pathlib.Path(__file__).with_name("conftest.py"))


@pytest.fixture
def losses(config):
    """Function that trains a fresh tiny model and returns the losses of its steps."""

    def run(source, steps=4, top_layers=0, dropout=0.0, rows=slice(None), tied=True, make=AdamW,
            **options):  # fmt: skip
        keras.utils.set_random_seed(5)
        strategy = make_strategy()
        classifies = "label" in source.batch(0)
        with strategy.scope():
            kind = gpt_keras.SequenceClassifier if classifies else gpt_keras.CausalLM
            labels = LABELS if classifies else ()
            changes = {"dropout": dropout, "id2label": labels, "tie_embeddings": tied}
            task = kind(config.replace(**changes))
            variables, first = trained_variables(task, top_layers)
            optimizer = make(variables, 1e-2, ema_decay=0.9)
        step = TrainStep(
            task, variables, optimizer, strategy, first=first, **{"xla": False, **options}
        )
        batches = ({k: v[rows] for k, v in source.batch(i).items()} for i in range(steps))
        return [step(batch, i).loss for i, batch in enumerate(batches)]

    return run


def test_loss_falls(losses, language_source, label_source):
    for source in (language_source, label_source):
        values = losses(source, steps=3 * source.steps_per_epoch)
        assert values[-1] < 0.8 * values[0]


def test_accumulation_equals_the_big_batch(losses, language_source):
    expected = losses(language_source, max_grad_norm=0.5)
    actual = losses(language_source, max_grad_norm=0.5, gradient_accumulation_steps=4)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.parametrize("make", OPTIMIZERS.values())
def test_xla_changes_nothing(losses, language_source, make):
    expected = losses(language_source, max_grad_norm=0.5, make=make)
    actual = losses(language_source, max_grad_norm=0.5, make=make, xla=True)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_recomputed_blocks_change_nothing(losses, language_source, xla):
    """The masks of dropout are the same in both passes."""
    expected = losses(language_source, dropout=0.3, xla=xla)
    actual = losses(language_source, dropout=0.3, xla=xla, remat=True)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_regularizers_add_to_the_loss(losses, language_source, tied):
    plain = losses(language_source, tied=tied)
    more = losses(language_source, tied=tied, regularizers=Regularizers(0.1, 0.1))
    assert more[0] > 1.01 * plain[0]


def half_step(config, dtype="mixed_float16", xla=False):
    """A step in half precision, its optimizer and what it says."""
    keras.utils.set_random_seed(5)
    task, said = gpt_keras.CausalLM(config, dtype=dtype), []
    optimizer = AdamW(task.trainable_variables, 1e-2)
    scale = LossScale(optimizer) if dtype == "mixed_float16" else None
    step = TrainStep(
        task, task.trainable_variables, optimizer, make_strategy(), loss_scale=scale, xla=xla,
        max_grad_norm=0.5, notify=said.append,
    )  # fmt: skip
    return step, said


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_learns_like_float32(config, losses, language_source, dtype, xla):
    expected = losses(language_source, steps=12, max_grad_norm=0.5)
    step, _ = half_step(config, dtype, xla)
    actual = [step(language_source.batch(i), i) for i in range(12)]
    assert not any(result.overflowed for result in actual)
    tolerance = 0.005 if dtype == "mixed_float16" else 0.03
    np.testing.assert_allclose([r.loss for r in actual], expected, rtol=tolerance)
    assert expected[-1] < 0.9 * expected[0]


def test_loss_scale_falls_until_gradients_are_finite(config, language_source, monkeypatch):
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**28)
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    step, said = half_step(config)
    batch, weight = language_source.batch(0), step.variables[0]
    before = weight.numpy()
    skips = 0
    while step(batch, 0).overflowed:
        skips += 1
        np.testing.assert_array_equal(weight.numpy(), before)
        assert float(step.loss_scale.value) == 2.0 ** (28 - skips)
        assert int(step.optimizer.iterations) == 0
    assert skips
    assert len(said) == skips
    assert f"loss scale now {2.0 ** (28 - skips):g}" in said[-1]
    assert np.any(weight.numpy() != before)
    for i in range(1, 3):
        step(batch, i)
    assert float(step.loss_scale.value) == 2.0 ** (29 - skips)  # three good ones in a row


def test_gradients_that_no_scale_makes_finite_end_the_run(config, language_source):
    step, _ = half_step(config)
    step.variables[0].assign(np.full(step.variables[0].shape, np.nan))
    step.loss_scale.value.assign(2 * loss_scale.LEAST)
    assert step(language_source.batch(0), 0).overflowed
    with pytest.raises(ValueError, match="mixed_precision=float16: gradients are not finite"):
        step(language_source.batch(0), 1)


def test_clipping_matters(losses, language_source):
    assert losses(language_source, max_grad_norm=1e-9)[-1] != pytest.approx(
        losses(language_source)[-1], rel=1e-3
    )


def test_dropout_follows_seed_and_step_alone(losses, language_source):
    first, again = (losses(language_source, dropout=0.3, seed=1) for _ in range(2))
    assert first == again
    assert losses(language_source, dropout=0.3, seed=2) != first
    # Without learning the same batch would give the same loss, were the masks not new each step.
    same_batch = losses(language_source, steps=4, dropout=0.3, max_grad_norm=1e-12)
    assert same_batch[0] != same_batch[3]


@pytest.mark.parametrize("xla", [False, True])
def test_a_bad_batch_changes_nothing(config, language_source, xla):
    task = gpt_keras.CausalLM(config)
    optimizer = AdamW(task.trainable_variables, 1e-2)
    step = TrainStep(task, task.trainable_variables, optimizer, make_strategy(), xla=xla)
    variables = [*task.trainable_variables, *optimizer.variables]
    batch = language_source.batch(0)
    nan = {**batch, "loss_mask": batch["loss_mask"] * np.nan}
    loss = step(batch, 0).loss
    before = [v.numpy() for v in variables]
    for bad, limit in ((nan, np.inf), (batch, 0.5 * loss)):
        result = step(bad, 1, limit)
        assert not result.applied
        assert not result.loss <= limit
        for variable, value in zip(variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
    assert step(batch, 1, loss).applied
    assert np.any(variables[0].numpy() != before[0])


def plain_losses(task, batch):
    """Keras' cross-entropy of each target (B, T-1), with the model called as a whole."""
    logits = task(batch["token_ids"], segment_ids=batch["segment_ids"])[:, :-1]
    loss = keras.losses.sparse_categorical_crossentropy(
        batch["token_ids"][:, 1:], logits, from_logits=True
    )
    return loss * batch["loss_mask"][:, 1:]


@pytest.mark.parametrize("options", [{}, {"xla": True}, {"gradient_accumulation_steps": 4}])
def test_norms_by_part_are_those_of_plain_gradients_and_weights(config, language_source, options):
    task, batch = gpt_keras.CausalLM(config.replace(tie_embeddings=False)), language_source.batch(0)
    variables = task.trainable_variables
    optimizer = AdamW(variables, 1e-2)
    step = TrainStep(task, variables, optimizer, make_strategy(), **{"xla": False, **options})
    assert step.parts == ["embedding", "block_0", "block_1", "head"]
    parts = [
        [task.backbone.embedding.table],
        *(block.trainable_variables for block in task.backbone.blocks),
        [task.backbone.embedding.head, *task.backbone.final_norm.trainable_variables],
    ]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(plain_losses(task, batch)) / batch["loss_mask"][:, 1:].sum()
    by_part = [[tf.convert_to_tensor(g) for g in gs] for gs in tape.gradient(loss, parts)]
    before = [[v.numpy() for v in part] for part in parts]
    result = step(batch, 0, measure=True)
    changes = [
        [v.numpy() - old for v, old in zip(part, olds, strict=True)]
        for part, olds in zip(parts, before, strict=True)
    ]

    def norm(values):
        return np.sqrt(sum(np.square(v).sum() for v in values))

    np.testing.assert_allclose(result.grad_norms, list(map(norm, by_part)), rtol=1e-4)
    expected = [norm(c) / norm(b) for c, b in zip(changes, before, strict=True)]
    np.testing.assert_allclose(result.update_ratios, expected, rtol=1e-5)
    assert min(expected) > 1e-3
    whole = norm(map(norm, changes)) / norm(map(norm, before))
    assert result.update_ratio == pytest.approx(whole, rel=1e-5)
    assert step(batch, 1).update_ratio is None


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_to_measure_changes_no_update(config, language_source, xla):
    results = []
    for measure in (False, True):
        keras.utils.set_random_seed(5)
        task = gpt_keras.CausalLM(config)
        optimizer = AdamW(task.trainable_variables, 1e-2)
        step = TrainStep(task, task.trainable_variables, optimizer, make_strategy(), xla=xla)
        for i in range(3):
            step(language_source.batch(i), i, measure=measure)
        results.append([v.numpy() for v in (*task.variables, *optimizer.variables)])
    for plain, measured in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, measured)


@pytest.mark.parametrize("options", [{}, {"xla": True}, {"gradient_accumulation_steps": 4}])
@pytest.mark.parametrize("elements", [40 * 9, 1 << 23], ids=["chunks", "whole"])
def test_loss_of_each_source(config, language_source, monkeypatch, options, elements):
    monkeypatch.setattr(gpt_keras.losses, "CHUNK_ELEMENTS", elements)
    task, batch = gpt_keras.CausalLM(config), language_source.batch(0)
    batch["source_id"] = np.array([0, 3, 1, 1, 0, 1, 1, 1], np.int32)
    step = TrainStep(
        task, task.trainable_variables, AdamW(task.trainable_variables, 1e-2), make_strategy(),
        sources=("a", "b", "none", "d"), **{"xla": False, **options},
    )  # fmt: skip
    losses, weights = plain_losses(task, batch).numpy(), batch["loss_mask"][:, 1:]
    rows = [batch["source_id"] == i for i in range(4)]
    expected = [losses[r].sum() / weights[r].sum() if r.any() else np.nan for r in rows]
    result = step(batch, 0)
    np.testing.assert_allclose(result.source_losses, expected, rtol=1e-5)
    shares = [weights[r].sum() / weights.sum() for r in rows]
    assert result.loss == pytest.approx(np.nansum(np.multiply(shares, expected)), rel=1e-5)


def test_rows_that_do_not_divide_are_refused(losses, language_source):
    message = "global_batch_size=8 is not a multiple of num_replicas=1 x .*steps=3"
    with pytest.raises(ValueError, match=message):
        losses(language_source, gradient_accumulation_steps=3)


def test_mirrored_replicas_equal_one_device(config, language_source, label_source):
    """Two logical CPUs need a process of their own: the CPU is cut before TensorFlow starts."""
    script = f"""
import json, runpy, sys
sys.path[:0] = {sys.path!r}
from trainers.strategy import make_strategy
strategy = make_strategy("mirrored", 2)
assert strategy.num_replicas_in_sync == 2
fixtures, tests = runpy.run_path({CONFTEST!r}), runpy.run_path({__file__!r})
sources = fixtures["LanguageSource"](), fixtures["LabelSource"]()
print(json.dumps(tests["all_kinds"](strategy, fixtures["CONFIG"], *sources)))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    alone = all_kinds(make_strategy(), config, language_source, label_source)  # meanwhile
    printed, error = process.communicate()
    assert process.returncode == 0, error[-2000:]
    mirrored = json.loads(printed.splitlines()[-1])
    for kind, expected in alone.items():
        tolerance = 2e-3 if kind == "float16" else 2e-5
        np.testing.assert_allclose(mirrored[kind], expected, rtol=tolerance, err_msg=kind)


class Mixed:
    """A source whose rows are of two sources by turns."""

    def __init__(self, source):
        self.source = source

    def batch(self, step):
        return {**self.source.batch(step), "source_id": np.arange(8, dtype=np.int32) % 2}


def all_kinds(strategy, config, language_source, label_source):
    """Losses, and the sum of a weight's moving average, of all that a step can do."""
    results = {}
    for kind, make in {
        "classifier": AdamW,
        "remat": Muon,
        "float16": Lion,
        "last": Adafactor,
    }.items():
        keras.utils.set_random_seed(5)
        half = kind == "float16"
        with strategy.scope():
            if kind == "classifier":
                task = gpt_keras.SequenceClassifier(config.replace(id2label=LABELS))
            else:
                task = gpt_keras.CausalLM(config, dtype="mixed_float16" if half else None)
            rates = layer_rates(task, task.trainable_variables, 0.8)
            optimizer = make(task.trainable_variables, 1e-2, rates=rates, ema_decay=0.9)
            scale = LossScale(optimizer) if half else None
        step = TrainStep(
            task, task.trainable_variables, optimizer, strategy, max_grad_norm=0.5, xla=False,
            gradient_accumulation_steps=2, remat=kind == "remat", loss_scale=scale,
            sources=() if kind == "classifier" else ("a", "b"), notify=lambda line: None,
        )  # fmt: skip
        source = label_source if kind == "classifier" else Mixed(language_source)
        if half:  # too large a scale at first; how often it is halved depends on the cut
            scale.value.assign(2.0**28)
            while step(source.batch(0), 0).overflowed:
                pass
        values = [step(source.batch(i), i).loss for i in range(3)]
        assert not step(source.batch(3), 3, limit=0.0).applied
        result = step(source.batch(3), 3, measure=True)
        values += [result.loss, *result.source_losses]
        if not half:  # where the signs of small gradients, which are all that Lion sees, may differ
            values += [*result.grad_norms, *result.update_ratios]
        with optimizer.averaged():
            values.append(float(np.sum(task.trainable_variables[1].numpy())))
        results[kind] = values
    return results


class NeedsPython(gpt_keras.CausalLM):
    """A task that XLA cannot compile."""

    def batch_loss(self, batch, features, *more):
        loss = super().batch_loss(batch, features, *more)
        checked = tf.numpy_function(lambda x: x, [tf.stop_gradient(loss.weight)], tf.float32)
        return loss._replace(weight=tf.reshape(checked, ()))


def test_falls_back_once_and_says_so_where_xla_cannot_compile(config, language_source):
    task, said = NeedsPython(config), []
    optimizer = AdamW(task.trainable_variables, 1e-2)
    step = TrainStep(
        task, task.trainable_variables, optimizer, make_strategy(), xla=True, notify=said.append
    )
    values = [step(language_source.batch(i), i).loss for i in range(4)]
    assert np.isfinite(values).all()
    assert [line for line in said if "going on without" in line] == said[1:]
    assert len(said) == 2
    assert not step.xla


def test_top_layers_are_trained_and_nothing_else(config, label_source):
    task = gpt_keras.SequenceClassifier(config.replace(id2label=LABELS))
    variables, first = trained_variables(task, top_layers=1)
    assert first == 1
    step = TrainStep(
        task, variables, AdamW(variables, 1e-2), make_strategy(), first=first, xla=False
    )
    before = {v.path: v.numpy() for v in task.trainable_variables}
    for i in range(2):
        step(label_source.batch(i), i)
    changed = {v.path for v in task.trainable_variables if np.any(v.numpy() != before[v.path])}
    assert changed == {v.path for v in variables}
    assert {path.split("/")[0] for path in changed} == {"block_1", "final_norm", "score"}


@pytest.mark.parametrize(("tied", "with_head"), [(True, False), (False, True)])
def test_a_head_of_its_own_is_trained_and_a_tied_one_frozen(config, tied, with_head):
    task = gpt_keras.CausalLM(config.replace(tie_embeddings=tied))
    variables, _ = trained_variables(task, top_layers=1)
    embedding = task.backbone.embedding
    assert not any(v is embedding.table for v in variables)
    assert any(v is embedding.head for v in variables) == with_head


def test_all_layers_on_top_still_freeze_the_embedding(config):
    task = gpt_keras.CausalLM(config)
    variables, first = trained_variables(task, top_layers=2)
    assert first == 0
    assert len(variables) == len(task.trainable_variables) - 1


def test_more_top_layers_than_there_are(config):
    with pytest.raises(ValueError, match="train_top_layers=3: the model has 2"):
        trained_variables(gpt_keras.CausalLM(config), top_layers=3)
