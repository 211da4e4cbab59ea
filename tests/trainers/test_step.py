import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from trainers.optimizer import AdamW
from trainers.step import TrainStep, trained_variables
from trainers.strategy import make_strategy

LABELS = ("a", "b", "c")
CONFTEST = str(pathlib.Path(__file__).with_name("conftest.py"))


@pytest.fixture
def losses(config):
    """Function that trains a fresh tiny model and returns the losses of its steps."""

    def run(source, steps=4, top_layers=0, dropout=0.0, rows=slice(None), **options):
        keras.utils.set_random_seed(5)
        strategy = make_strategy()
        classifies = "label" in source.batch(0)
        with strategy.scope():
            kind = gpt_keras.SequenceClassifier if classifies else gpt_keras.CausalLM
            changes = {"dropout": dropout, "id2label": LABELS if classifies else ()}
            task = kind(config.replace(**changes))
            variables, first = trained_variables(task, top_layers)
            optimizer = AdamW(variables, 1e-2)
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


def test_xla_changes_nothing(losses, language_source):
    expected = losses(language_source, max_grad_norm=0.5)
    actual = losses(language_source, max_grad_norm=0.5, xla=True)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


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


def test_rows_that_do_not_divide_are_refused(losses, language_source):
    message = "global_batch_size=8 is not a multiple of num_replicas=1 x .*steps=3"
    with pytest.raises(ValueError, match=message):
        losses(language_source, gradient_accumulation_steps=3)


def test_mirrored_replicas_equal_one_device(losses, language_source, label_source):
    """Two logical CPUs need a process of their own: the CPU is cut before TensorFlow starts."""
    script = f"""
import json, sys, keras
sys.path[:0] = {sys.path!r}
from trainers.strategy import make_strategy
strategy = make_strategy("mirrored", 2)
assert strategy.num_replicas_in_sync == 2
import runpy
fixtures = runpy.run_path({CONFTEST!r})
import gpt_keras
from trainers.optimizer import AdamW
from trainers.step import TrainStep
results = []
for kind, source, labels in (
    (gpt_keras.CausalLM, fixtures["LanguageSource"](), ()),
    (gpt_keras.SequenceClassifier, fixtures["LabelSource"](), {LABELS!r}),
):
    keras.utils.set_random_seed(5)
    with strategy.scope():
        task = kind(fixtures["CONFIG"].replace(id2label=labels))
        optimizer = AdamW(task.trainable_variables, 1e-2)
    step = TrainStep(task, task.trainable_variables, optimizer, strategy, max_grad_norm=0.5,
                     gradient_accumulation_steps=2, xla=False)
    results.append([step(source.batch(i), i).loss for i in range(4)])
print(json.dumps(results))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    mirrored = json.loads(done.stdout.splitlines()[-1])
    for source, actual in zip((language_source, label_source), mirrored, strict=True):
        np.testing.assert_allclose(actual, losses(source, max_grad_norm=0.5), rtol=2e-5)


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
