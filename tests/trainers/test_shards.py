import hashlib
import json
import os

import numpy as np
import pytest

from trainers import shards
from trainers.files import write_json

DOCUMENTS = [[i + 1] * (i % 5 + 2) + [0] for i in range(10)]


@pytest.fixture
def folder(make_shards, tmp_path):
    return make_shards(tmp_path / "shards", DOCUMENTS, DOCUMENTS[:3])


def test_what_was_written_is_read_by_numpy_alone(folder):
    read = []
    for shard in folder.manifest["splits"]["train"]["shards"]:
        tokens = np.load(os.path.join(folder.path, f"{shard['name']}.tokens.npy"), mmap_mode="r")
        offsets = np.load(os.path.join(folder.path, f"{shard['name']}.offsets.npy"))
        assert isinstance(tokens, np.memmap)
        assert (tokens.dtype, offsets.dtype) == (np.uint16, np.int64)
        read += [part.tolist() for part in np.split(tokens, offsets[1:-1])]
    assert read == DOCUMENTS
    assert len(folder.shards("train")) == 3
    assert [s.num_tokens for s in folder.shards("eval")] == [sum(map(len, DOCUMENTS[:3]))]


def test_manifest_vouches_for_every_file(folder):
    there = {
        os.path.relpath(os.path.join(path, name), folder.path)
        for path, _, names in os.walk(folder.path)
        for name in names
    }
    assert there == {shards.MANIFEST, *folder.manifest["files"]}
    for name, entry in folder.manifest["files"].items():
        with open(os.path.join(folder.path, name), "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == entry["sha256"]
    assert "tokenizer/tokenizer.json" in there


def test_a_missing_truncated_or_damaged_file_is_named(folder):
    path = os.path.join(folder.path, "train-00001.tokens.npy")
    with open(path, "rb") as file:
        content = file.read()
    damaged = content[:-2] + bytes([content[-2] ^ 1, content[-1]])
    cases = [
        (damaged, "its SHA-256 is .*damaged"),
        (content[:-2], "has .* truncated or overwritten"),
    ]
    for bad, message in cases:
        with open(path, "wb") as file:
            file.write(bad)
        with pytest.raises(ValueError, match=rf"train-00001\.tokens\.npy: {message}; copy it anew"):
            shards.open_folder(folder.path)
    with pytest.raises(ValueError, match="truncated"):  # sizes are compared in any case
        shards.open_folder(folder.path, verify=False)
    os.remove(path)
    with pytest.raises(ValueError, match=r"train-00001\.tokens\.npy: missing, though the manifest"):
        shards.open_folder(folder.path)


def test_bad_manifests(folder, tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json: No such file.*prepare_data"):
        shards.open_folder(tmp_path)
    for text, message in (
        ("{", "not a manifest of shards"),
        ("[]", "not a manifest of shards"),
        (json.dumps({"format": "x"}), "the format is 'x'"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            shards.open_folder(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["preparation"], None, "preparation is missing, expected an object"),
        (["splits", "eval"], None, r"splits\.eval is missing"),
        (["splits", "train", "shards"], {}, r"splits\.train\.shards is '{}', expected a list"),
        (["splits", "train", "shards", 1, "tokens"], "9",
         r"splits\.train\.shards\[1\]\.tokens is '9', expected a whole number"),
        (["tokenizer", "eos_token_id"], None, r"tokenizer\.eos_token_id is missing"),
        (["files"], [], r"files is '\[\]', expected an object"),
        (["files", "train-00000.tokens.npy", "sha256"], 7,
         r"files\.train-00000\.tokens\.npy\.sha256 is '7', expected a string"),
        (["files", "train-00002.offsets.npy"], None, r"files\.train-00002\.offsets\.npy is miss"),
        (["files", "tokenizer/tokenizer.json"], None, r"files\.tokenizer/tokenizer\.json is miss"),
    ],
)  # fmt: skip
def test_a_manifest_that_lacks_something_is_refused_by_key(folder, keys, value, message):
    path = os.path.join(folder.path, shards.MANIFEST)
    with open(path, encoding="utf-8") as file:
        place = manifest = json.load(file)
    *above, last = keys
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    write_json(path, manifest)
    with pytest.raises(ValueError, match=rf"manifest\.json: {message}"):
        shards.open_folder(folder.path)


def test_a_folder_without_its_manifest_is_none_that_can_be_read(folder):
    os.remove(os.path.join(folder.path, shards.MANIFEST))
    assert shards.is_folder(folder.path)
    with pytest.raises(ValueError, match=r"manifest\.json: No such file .*goes on with one that"):
        shards.open_folder(folder.path)


def test_another_tokenizer_is_refused(folder, model_dir, tmp_path):
    folder.check_tokenizer(model_dir)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=f"--tokenizer={tmp_path}: has the SHA-256 .* leave the"):
        folder.check_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere/tokenizer\.json: No such file"):
        folder.check_tokenizer("nowhere")


def test_length_statistics_are_those_of_numpy():
    lengths = np.random.default_rng(0).integers(1, 3000, 1001)
    offsets = [np.cumsum([0, *part]) for part in np.array_split(lengths, 3)]
    statistics = shards.length_statistics(offsets)
    for name in ("mean", "min", "max"):
        assert statistics[name] == pytest.approx(getattr(lengths, name)())
    for quantile in (10, 25, 50, 75, 90, 99):
        expected = np.quantile(lengths, quantile / 100, method="inverted_cdf")
        assert statistics[f"p{quantile}"] == expected
    assert shards.length_statistics([]) == {}
    assert shards.length_statistics([np.array([0, 2**21])])["max"] == 2**21
