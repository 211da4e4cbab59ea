"""Checkpoints of BERT's kind: old names, heads of other tasks, positions behind the padding."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpt_keras
from gpt_keras import checkpoint
from gpt_keras.checkpoint.families import FAMILIES

IDS = np.random.default_rng(0).integers(3, 31, (2, 9)).astype(np.int32)


def config_of(family, **changes):
    sizes = {
        "vocab_size": 31, "hidden_size": 12, "num_layers": 2, "num_heads": 3,
        "intermediate_size": 20, "max_position_embeddings": 16, "token_types": 2,
        "activation": "gelu", "norm_epsilon": 1e-12, "pad_token_id": 0,
    }  # fmt: skip
    return gpt_keras.GPTConfig(**{**sizes, **FAMILIES[family].fixed, **changes}, model_type=family)


@pytest.fixture
def saved(tmp_path):
    """A directory of a masked language model, and the model."""
    model = gpt_keras.MaskedLM(config_of("bert"))
    model.transform.bias.assign(np.random.default_rng(1).normal(size=31))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def edit(path, change):
    tensors = load_file(path / "model.safetensors")
    save_file(change(tensors), path / "model.safetensors")


def test_old_names_and_what_no_task_of_ours_has(saved):
    path, model = saved

    def change(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }
        assert len(old.keys() - tensors.keys()) == 12  # 5 norms of the trunk, 1 of the head
        return old | {
            "bert.embeddings.position_ids": np.arange(16)[None],
            "bert.pooler.dense.weight": np.ones((12, 12), np.float32),
            "bert.pooler.dense.bias": np.ones(12, np.float32),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
            "cls.seq_relationship.weight": np.ones((2, 12), np.float32),
            "cls.seq_relationship.bias": np.ones(2, np.float32),
        }

    edit(path, change)
    again = gpt_keras.MaskedLM.from_pretrained(path)
    np.testing.assert_array_equal(again(IDS), model(IDS))
    classifier = gpt_keras.SequenceClassifier.from_pretrained(path, id2label=("a", "b"))
    np.testing.assert_array_equal(classifier.pooler.kernel, np.ones((12, 12)))
    np.testing.assert_array_equal(classifier.backbone(IDS), model.backbone(IDS))


def test_a_tensor_that_has_no_place_is_named(saved):
    path, _ = saved
    edit(path, lambda tensors: tensors | {"bert.more.weight": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"tensors bert\.more\.weight have no place"):
        gpt_keras.MaskedLM.from_pretrained(path)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_classifier_begins_with_the_trunk_of_an_embedder(family, tmp_path):
    embedder = gpt_keras.TextEmbedder(config_of(family, position_offset=1 * (family != "bert")))
    embedder.save_pretrained(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert "embeddings.word_embeddings.weight" in names
    assert "pooler.dense.weight" in names
    classifier = gpt_keras.SequenceClassifier.from_pretrained(
        tmp_path / "model", id2label=("a", "b", "c")
    )
    np.testing.assert_array_equal(classifier.backbone(IDS), embedder.backbone(IDS))
    same = np.array_equal(classifier.pooler.kernel, embedder.pooler.kernel)
    assert same == (family == "bert")  # RoBERTa's classifiers do not go on from that layer
    classifier.save_pretrained(tmp_path / "again")
    again = gpt_keras.SequenceClassifier.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(again(IDS), classifier(IDS))
    assert checkpoint.read_task(tmp_path / "again") == "SequenceClassifier"


def test_positions_behind_the_padding(tmp_path):
    config = config_of("roberta", pad_token_id=4, position_offset=5)
    gpt_keras.MaskedLM(config).save_pretrained(tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    assert values["max_position_embeddings"] == 21
    found = checkpoint.read_config(tmp_path / "model")
    assert (found.max_position_embeddings, found.position_offset) == (16, 5)
    other = gpt_keras.MaskedLM(config.replace(position_offset=2))
    with pytest.raises(ValueError, match="cannot be written as model_type='roberta'"):
        other.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("bert", {"is_decoder": True}, "is_decoder=True: unsupported"),
        ("bert", {"position_embedding_type": "relative_key"}, "='relative_key': unsupported"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings=False: unsupported"),
        ("bert", {"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act='relu': unsupported"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id=-1: expected one"),
    ],
)
def test_refused_by_name(tmp_path, family, changes, words):
    config = config_of(family, position_offset=1 * (family != "bert"))
    gpt_keras.MaskedLM(config).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=words):
        gpt_keras.MaskedLM.from_pretrained(tmp_path / "model")
