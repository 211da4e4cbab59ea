"""Model directories: what is read, what is written, and what is refused in one clear line."""

import json
import os
import resource
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpt_keras
from gpt_keras.checkpoint import directory, read_config

TINY = gpt_keras.GPTConfig(
    vocab_size=31, hidden_size=12, num_layers=2, num_heads=3, num_kv_heads=1, intermediate_size=20,
    bos_token_id=1, eos_token_ids=(2,), pad_token_id=0,
)  # fmt: skip
IDS = np.array([[5, 6, 7, 8]], np.int32)


@pytest.fixture
def saved(tmp_path):
    """A model directory, and the model it was written from."""
    model = gpt_keras.CausalLM(TINY)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def read(path, **changes):
    return gpt_keras.CausalLM.from_pretrained(path, **changes)


def edit_config(path, **changes):
    values = json.loads((path / "config.json").read_text())
    values.update(changes)
    (path / "config.json").write_text(json.dumps(values))


def edit_weights(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def refuses(path, *words, task=gpt_keras.CausalLM, **changes):
    """Reading fails with one line that holds all the words."""
    with pytest.raises(ValueError) as caught:
        task.from_pretrained(path, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


def test_files_and_their_contents(saved):
    path, model = saved
    assert sorted(os.listdir(path)) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert {os.stat(path / n).st_mode & 0o777 for n in os.listdir(path)} == {0o666 & ~umask()}
    assert os.stat(path).st_mode & 0o777 == 0o777 & ~umask()
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "float32"
    assert json.loads((path / "generation_config.json").read_text()) == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    tensors = load_file(path / "model.safetensors")
    kernel = model.backbone.blocks[1].attention.qkv.kernel.numpy()  # (D, H*h + 2*K*h)
    key = tensors["model.layers.1.self_attn.k_proj.weight"]
    np.testing.assert_array_equal(key, kernel[:, 12:16].T)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_read_as_float32(saved, dtype):
    path, model = saved
    edit_weights(path, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    for ours, exact in zip(read(path).weights, model.weights, strict=True):
        assert ours.dtype == "float32"
        np.testing.assert_array_equal(ours, exact.numpy().astype(dtype).astype(np.float32))


def test_bfloat16_model_is_written_as_bfloat16(saved, tmp_path):
    path, model = saved
    gpt_keras.CausalLM.from_pretrained(path, dtype="bfloat16").save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == "bfloat16"
    half = load_file(tmp_path / "half/model.safetensors")["model.norm.weight"]
    assert half.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(read(tmp_path / "half")(IDS), model(IDS), atol=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_written_and_read_in_half_precision(saved, tmp_path, dtype):
    _, model = saved
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    assert json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == dtype
    tensors = load_file(tmp_path / "half/model.safetensors")
    (stored,) = {tensor.dtype for tensor in tensors.values()}
    assert stored.name == dtype
    half = gpt_keras.CausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    for ours, exact in zip(half.weights, model.weights, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_array_equal(
            ours, exact.numpy().astype(tensors[next(iter(tensors))].dtype)
        )


def test_what_float16_cannot_hold_is_refused(saved, tmp_path):
    _, model = saved
    weight = model.backbone.blocks[0].feed_forward.down.kernel
    weight.assign(weight.numpy() + 7e4)
    message = r"float16: tensor model.layers.0.mlp.down_proj.weight has the value 700\d\d.*bfloat16"
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8': expected one of float32, bfloat16"),
        ({"max_shard_size": "5 TB"}, "max_shard_size='5 TB': expected bytes, or a text"),
        ({"max_shard_size": 0}, "max_shard_size=0: expected"),
    ],
)
def test_bad_options_of_writing_are_refused(saved, tmp_path, options, message):
    _, model = saved
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", [2000, "2kB", "2000"])
def test_shards(saved, tmp_path, size):
    _, model = saved
    model.save_pretrained(tmp_path / "shards", max_shard_size=size)
    names = sorted(os.listdir(tmp_path / "shards"))
    shards = [n for n in names if n.startswith("model-")]
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert "model.safetensors" not in names
    sizes = [os.path.getsize(tmp_path / "shards" / n) for n in shards]
    assert max(sizes) < 2000 + 1500  # the header comes on top
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(w.numpy().nbytes for w in model.weights)
    np.testing.assert_array_equal(read(tmp_path / "shards")(IDS), model(IDS))

    os.remove(tmp_path / "shards" / shards[1])
    refuses(tmp_path / "shards", shards[1], "missing", "index.json")


def test_backbone_alone_without_prefix_is_read(saved):
    path, model = saved
    edit_weights(path, lambda t: [t.update({k.removeprefix("model."): t.pop(k)}) for k in list(t)])
    np.testing.assert_array_equal(read(path)(IDS), model(IDS))


def test_tied_head_and_old_buffers_are_ignored(saved):
    path, model = saved
    extra = {
        "lm_head.weight": np.zeros((31, 12), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32),
    }
    edit_weights(path, lambda t: t.update(extra))
    np.testing.assert_array_equal(read(path)(IDS), model(IDS))


def test_classifier_on_a_language_model_keeps_a_fresh_head(saved, tmp_path):
    path, model = saved
    labels = ("no", "yes")
    classifier = gpt_keras.SequenceClassifier.from_pretrained(path, id2label=labels)
    np.testing.assert_array_equal(classifier.backbone(IDS), model.backbone(IDS))
    assert np.asarray(classifier.score.kernel).std() > 0

    classifier.save_pretrained(tmp_path / "classifier")
    config = json.loads((tmp_path / "classifier/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["label2id"] == {"no": 0, "yes": 1}
    again = gpt_keras.SequenceClassifier.from_pretrained(tmp_path / "classifier")
    assert again.config.id2label == labels
    np.testing.assert_array_equal(again(IDS), classifier(IDS))
    # The body serves as a language model as well: its head is tied.
    np.testing.assert_array_equal(read(tmp_path / "classifier")(IDS), model(IDS))

    edit_weights(tmp_path / "classifier", lambda t: t.pop("score.weight"))
    refuses(tmp_path / "classifier", "score.weight", "missing", task=gpt_keras.SequenceClassifier)


def test_other_number_of_labels_than_the_head_has(saved, tmp_path):
    path, _ = saved
    classifier = gpt_keras.SequenceClassifier.from_pretrained(path, id2label=("a", "b"))
    classifier.save_pretrained(tmp_path / "c")
    refuses(tmp_path / "c", "score.weight", "(2, 12)", "(3, 12)",
            task=gpt_keras.SequenceClassifier, id2label=("a", "b", "c"))  # fmt: skip


def test_pad_token_of_a_classifier_without_one(tmp_path):
    config = TINY.replace(pad_token_id=None, id2label=("a", "b"))
    gpt_keras.SequenceClassifier(config).save_pretrained(tmp_path / "c")
    assert json.loads((tmp_path / "c/config.json").read_text())["pad_token_id"] == 2  # eos


def test_generation_config_is_read_and_kept(saved, tmp_path):
    path, _ = saved
    values = {"eos_token_id": [2, 5], "temperature": 0.6, "top_p": 0.9}
    (path / "generation_config.json").write_text(json.dumps(values))
    model = read(path)
    assert model.config.eos_token_ids == (2, 5)
    model.save_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert written == {**values, "bos_token_id": 1, "pad_token_id": 0}


def test_nothing_is_left_behind_and_a_model_can_be_replaced(saved):
    path, _ = saved
    other = gpt_keras.CausalLM(TINY.replace(num_layers=1))
    other.save_pretrained(path)
    assert read(path).config.num_layers == 1
    assert os.listdir(path.parent) == ["model"]


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    path, model = saved

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        gpt_keras.CausalLM(TINY.replace(num_layers=1)).save_pretrained(path)
    assert os.listdir(path.parent) == ["model"]
    np.testing.assert_array_equal(read(path)(IDS), model(IDS))


def test_a_full_disk_is_an_os_error_that_names_the_file(saved):
    path, model = saved
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"0\.partial: .*File too large"):
            model.save_pretrained(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


def test_a_failed_replacement_puts_the_old_model_back(saved, monkeypatch):
    path, model = saved
    rename = os.rename

    def fails_on_the_new_one(source, target):
        if str(target) == str(path) and ".old." not in source:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(directory.os, "rename", fails_on_the_new_one)
    with pytest.raises(OSError, match="Input/output"):
        gpt_keras.CausalLM(TINY.replace(num_layers=1)).save_pretrained(path)
    assert os.listdir(path.parent) == ["model"]
    np.testing.assert_array_equal(read(path)(IDS), model(IDS))


def test_only_model_directories_are_replaced(saved, tmp_path):
    _, model = saved
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"results: holds thesis\.txt"):
        model.save_pretrained(tmp_path / "results")
    with pytest.raises(ValueError, match=r"thesis\.txt: is a file"):
        model.save_pretrained(tmp_path / "results" / "thesis.txt")
    assert (tmp_path / "results" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    model.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    model.save_pretrained(tmp_path / "new" / "deep" / "model")
    assert read_config(tmp_path / "new" / "deep" / "model") == read_config(tmp_path / "empty")


def test_missing_and_empty_places(tmp_path):
    refuses(tmp_path / "nowhere", "nowhere", "no such model directory")
    refuses(tmp_path, str(tmp_path), "no config.json", "nothing")
    (tmp_path / "model.bin").write_bytes(b"x")
    refuses(tmp_path / "model.bin", "model.bin", "expected a model directory or a .gguf file")


def test_no_weights(saved):
    path, _ = saved
    os.remove(path / "model.safetensors")
    refuses(path, str(path), "no model.safetensors")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    refuses(path, "pickled", "never read", "convert it to safetensors")


@pytest.mark.parametrize("length", [0, 7, 100, 3000])
def test_truncated_weights(saved, length):
    path, _ = saved
    os.truncate(path / "model.safetensors", length)
    refuses(path, "model.safetensors", "truncated or damaged")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 24}, ("layers.1.mlp.down_proj.weight", "(12, 20)", "(12, 24)")),
        ({"hidden_size": 24}, ("embed_tokens.weight", "(31, 12)", "(31, 24)")),
        ({"vocab_size": 30}, ("embed_tokens.weight", "(31, 12)", "(30, 12)")),
        ({"num_attention_heads": 6}, ("layers.1.self_attn.o_proj.weight", "(12, 12)", "(12, 24)")),
        ({"num_key_value_heads": 3}, ("layers.0.self_attn.k_proj.weight", "(4, 12)", "(12, 12)")),
        ({"num_hidden_layers": 3}, ("layers.2.", "missing")),
        ({"num_hidden_layers": 1}, ("layers.1.", "no place")),
        ({"tie_word_embeddings": False}, ("lm_head.weight", "missing", "(31, 12)")),
        ({"attention_bias": True}, ("layers.0.self_attn.q_proj.bias", "missing")),
        # Refused before 40 TB are asked for.
        ({"intermediate_size": 10**11}, ("layers.1.mlp.down_proj.weight", "(12, 100000000000)")),
        ({"num_hidden_layers": 10**9}, ("layers.999999999.", "missing")),
    ],
)
def test_shapes_that_disagree(saved, changes, words):
    path, _ = saved
    edit_config(path, **changes)
    refuses(path, "model.safetensors: tensor", *words)


def test_configuration_alone_is_read(saved):
    path, model = saved
    os.remove(path / "model.safetensors")
    assert read_config(path) == model.config


def test_integer_weights(saved):
    path, _ = saved
    edit_weights(path, lambda t: t.update({"model.norm.weight": np.ones(12, np.int8)}))
    refuses(path, "model.norm.weight", "I8", "F32")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "llama",\n "hidden_size": }', ("config.json:2", "column 17")),
        ("[1, 2]", ("expected a JSON object", "list")),
        ("{}", ("model_type is missing",)),
        (b'{"model_type": "\xff"}', ("not UTF-8", "byte 16")),
        ('{"model_type": "mamba"}', ("model_type='mamba'", "supported are llama, gpt2")),
        ('{"model_type": "llama"}', ("vocab_size is missing",)),
    ],
)
def test_malformed_config(saved, text, words):
    path, _ = saved
    (path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(path, "config.json", *words)


def test_malformed_index(saved):
    path, _ = saved
    shutil.move(path / "model.safetensors", path / "model-00001-of-00001.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text("{")
    refuses(path, "index.json:1", "malformed JSON")
    index.write_text("{}")
    refuses(path, "index.json", "weight_map is missing")
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    refuses(path, f"{path}/passwd", "missing")  # a name never leads out of the directory


def test_a_card_is_replaced_and_what_people_wrote_is_not(saved, tmp_path):
    _, model = saved
    for name in ("one", "two"):
        model.save_pretrained(
            tmp_path / "out", card=f"---\nlibrary_name: gpt-keras\n---\n# {name}\n"
        )
        assert (tmp_path / "out" / "README.md").read_text().endswith(f"# {name}\n")
    (tmp_path / "out" / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match=r"holds README\.md, which a model directory written here"):
        model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "# Mine\n"
