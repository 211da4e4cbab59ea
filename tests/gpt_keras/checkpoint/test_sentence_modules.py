"""The files of sentence-transformers: what is read, written and refused."""

import json

import pytest

from gpt_keras.checkpoint import sentence_modules
from gpt_keras.pooling import SentenceEmbedding


@pytest.mark.parametrize(
    "embedding",
    [
        SentenceEmbedding(),
        SentenceEmbedding("first", True, 128),
        SentenceEmbedding("last", False, 7),
    ],
)
def test_round_trip(embedding, tmp_path):
    assert not sentence_modules.has(tmp_path)
    sentence_modules.write(embedding, 12, tmp_path)
    assert sentence_modules.has(tmp_path)
    assert sentence_modules.read(tmp_path) == embedding


def test_without_a_length(tmp_path):
    sentence_modules.write(SentenceEmbedding(max_length=5), 12, tmp_path)
    (tmp_path / "sentence_bert_config.json").unlink()
    assert sentence_modules.read(tmp_path).max_length is None


def _edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("modules.json", lambda v: v.append({"type": "a.Dense"}), "modules .*Dense: unsupported"),
        ("modules.json", lambda v: v.pop(), "modules Transformer: unsupported"),
        ("1_Pooling/config.json", lambda v: v.update(pooling_mode_max_tokens=True),
         "pooling_mode_mean_tokens, pooling_mode_max_tokens: unsupported"),
        ("1_Pooling/config.json", lambda v: v.clear(), "no way of pooling: unsupported"),
        ("1_Pooling/config.json", lambda v: v.update(include_prompt=False), "include_prompt=False"),
        ("sentence_bert_config.json", lambda v: v.update(do_lower_case=True), "do_lower_case=True"),
        ("sentence_bert_config.json", lambda v: v.update(max_seq_length="x"), "max_seq_length='x'"),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_refused_by_name(tmp_path, name, change, words):
    sentence_modules.write(SentenceEmbedding(), 12, tmp_path)
    _edit(tmp_path / name, change)
    with pytest.raises(ValueError, match=f"{name}: {words}"):
        sentence_modules.read(tmp_path)


def test_damaged(tmp_path):
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ValueError, match=r"modules\.json: not valid JSON"):
        sentence_modules.read(tmp_path)
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(ValueError, match=r"modules\.json: expected a JSON array"):
        sentence_modules.read(tmp_path)
