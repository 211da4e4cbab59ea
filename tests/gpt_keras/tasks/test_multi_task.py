"""MultiTask: several tasks on one backbone."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import MaskedLM, SequenceClassifier, TextEmbedder, tasks
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.losses import Loss
from gpt_keras.metrics import ClassificationMetrics, MultiTaskMetrics
from gpt_keras.pooling import SentenceEmbedding
from gpt_keras.tasks import MultiTask
from gpt_keras.tasks.multi_task import config_of, joint_config
from gpt_keras.tokenizers import train_byte_level_bpe

LABELS = {"classification": ("no", "yes"), "topic": ("sport", "news", "money")}
IDS = np.random.default_rng(0).integers(3, 37, (4, 6)).astype(np.int32)


@pytest.fixture
def config(tiny):
    ones = {
        name: ("classification", tiny.replace(id2label=labels)) for name, labels in LABELS.items()
    }
    return joint_config(tiny, ones)


def batch(name, classes):
    return {
        "token_ids": IDS,
        "padding_mask": np.ones(IDS.shape, bool),
        "label": np.arange(4, dtype=np.int32) % classes,
        "weight": np.ones(4, np.float32),
        f"task/{name}": np.zeros(4, np.int32),
    }


def test_configurations_are_joined_and_parted(tiny, config):
    assert config.task_params["topic"]["task"] == "classification"
    for name, labels in LABELS.items():
        assert config_of(config, name) == tiny.replace(id2label=labels)
    params = {"classification": {"x": 3}}
    one = tiny.replace(id2label=("a", "b"), task_params=params)
    joint = joint_config(tiny, {"here": ("classification", one), "there": ("classification", one)})
    assert config_of(joint, "there") == one


def test_each_batch_is_learned_by_its_task_alone_and_the_backbone(config):
    model = MultiTask(config)
    assert len({variable.path for variable in model.variables}) == len(model.variables)
    assert all(task.backbone is model.backbone for task in model.tasks.values())
    for name, labels in LABELS.items():
        data = batch(name, len(labels))
        with tf.GradientTape() as tape:
            loss = model.batch_loss(data, model.features(data))
        assert loss.outputs.shape == (4, len(labels))
        alone = model.tasks[name]
        np.testing.assert_allclose(loss.outputs, alone(IDS), rtol=1e-4, atol=1e-5)
        heads = [task.score.kernel.value for task in model.tasks.values()]
        gradients = tape.gradient(loss.total, [*heads, model.backbone.blocks[0].weights[0].value])
        learned = [gradient is not None for gradient in gradients]
        assert learned == [*(other == name for other in LABELS), True]


def test_saved_and_read_again(config, tmp_path):
    model = MultiTask(config)
    model.save_pretrained(tmp_path / "model")
    assert tasks.of(tmp_path / "model") is MultiTask
    again = MultiTask.from_pretrained(tmp_path / "model")
    assert list(again.tasks) == list(LABELS)
    for name in LABELS:
        np.testing.assert_array_equal(again.tasks[name](IDS), model.tasks[name](IDS))
    # A head is found by its task's name: another task's checkpoint has none for it.
    other = SequenceClassifier.from_pretrained(tmp_path / "model", id2label=("a", "b"))
    np.testing.assert_array_equal(other.backbone(IDS), model.backbone(IDS))


def test_signatures_of_all(config):
    tokenizer = train_byte_level_bpe(["the cat sat on the mat"] * 3, vocab_size=270)
    model = MultiTask(config.replace(vocab_size=270, bos_token_id=256), tokenizer)
    signatures = model.signatures()
    assert list(signatures) == ["classify", "classify_topic"]
    answer = signatures["classify_topic"].function(texts=tf.constant(["the mat"]))
    assert {label.decode() for label in answer["labels"].numpy()[0]} == set(LABELS["topic"])


def test_one_task_is_not_several(tiny):
    with pytest.raises(ValueError, match="expected two tasks or more"):
        MultiTask(tiny.replace(task_params={"classification": {"task": "classification"}}))


def test_metrics_of_each_and_their_mean():
    metrics = MultiTaskMetrics({name: ClassificationMetrics(LABELS[name]) for name in LABELS})
    for name, right in (("classification", 3), ("topic", 2)):
        classes = len(LABELS[name])
        data = {**batch(name, classes), "sample_id": np.arange(4)}
        predicted = np.where(np.arange(4) < right, data["label"], (data["label"] + 1) % classes)
        rows = np.ones((4, 2))
        metrics.update(data, Loss(4.0, 4.0, np.eye(classes)[predicted], rows))
    result = metrics.result()
    assert result["classification/accuracy"] == 0.75
    assert result["topic/accuracy"] == 0.5
    mean = (result["classification/macro_f1"] + result["topic/macro_f1"]) / 2
    assert result["score"] == pytest.approx(mean)
    assert metrics.num_samples == 8
    assert metrics.score(np.arange(8)) == result
    assert metrics.score(np.array([0, 0, 4, 4]))["topic/accuracy"] == 1.0
    assert set(metrics.details()["tasks"]) == set(LABELS)


def test_heads_and_pooling_that_a_directory_has_are_taken_on(tiny, tmp_path):
    """Those of a checkpoint of one task; again from a directory of the several."""
    bert = tiny.replace(
        model_type="bert", activation="gelu", token_types=2, **FAMILIES["bert"].fixed
    )
    pooling = SentenceEmbedding("last", normalize=True, max_length=7)
    embedder, filler = TextEmbedder(bert, embedding=pooling), MaskedLM(bert)
    embedder.save_pretrained(tmp_path / "embedder")
    filler.save_pretrained(tmp_path / "filler")
    params = {name: {"task": name} for name in ("embedding", "masked_lm", "classification")}
    params["classification"]["id2label"] = ["no", "yes"]
    model = MultiTask.from_pretrained(tmp_path / "embedder", task_params=params)
    model.save_pretrained(tmp_path / "model")
    again = MultiTask.from_pretrained(tmp_path / "model")
    assert tasks.of(tmp_path / "model") is MultiTask
    for one in (model, again):
        assert one.embedding == one.tasks["embedding"].embedding == pooling
        np.testing.assert_array_equal(one.tasks["embedding"](IDS), embedder(IDS))
        pooler = one.tasks["classification"].pooler.kernel
        np.testing.assert_array_equal(pooler, embedder.pooler.kernel)
    for name, task in model.tasks.items():
        np.testing.assert_array_equal(again.tasks[name](IDS), task(IDS))
    model = MultiTask.from_pretrained(tmp_path / "filler", task_params=params)
    np.testing.assert_array_equal(model.tasks["masked_lm"](IDS), filler(IDS))
    assert model.embedding == SentenceEmbedding()
