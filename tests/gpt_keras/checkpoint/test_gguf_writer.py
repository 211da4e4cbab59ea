"""GGUF files out; that they are what llama.cpp's converter writes is in test_gguf_file."""

import itertools
import json
import os
import pathlib

import gguf
import numpy as np
import pytest

import gpt_keras
from gpt_keras import checkpoint, tokenizers
from gpt_keras.checkpoint import weights
from gpt_keras.tokenizers.byte_alphabet import ALPHABET

SMOLLM2 = pathlib.Path(__file__).parents[3] / "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA = gpt_keras.GPTConfig(
    vocab_size=40, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=80,
    max_position_embeddings=128, initializer_range=0.2, eos_token_ids=(2,),
)  # fmt: skip
TEXTS = ["Hello, world! 12345", " two  spaces\n\ttab", "naïve café 你好 🙂", "<|im_start|>user\n"]


@pytest.fixture(scope="module")
def llama():
    return gpt_keras.CausalLM(LLAMA)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_types(llama, tmp_path, kind):
    llama.save_gguf(tmp_path / "m.gguf", type=kind)
    types = {
        tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors
    }
    assert types["blk.0.attn_norm.weight"].name == "F32"
    assert types["blk.0.ffn_down.weight"].name == "F16"  # rows of 80 are no whole blocks
    assert types["blk.1.attn_q.weight"].name == kind
    found = dict(weights.tensors(gpt_keras.CausalLM.from_pretrained(tmp_path / "m.gguf")))
    for name, exact in weights.tensors(llama):
        if exact.ndim == 2:
            stored = gguf.GGMLQuantizationType["F16" if "down_proj" in name else kind]
            exact = gguf.dequantize(gguf.quantize(exact, stored), stored)
        np.testing.assert_array_equal(found[name], exact, err_msg=name)
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_tokenizer(tmp_path):
    tokenizer = checkpoint.read_tokenizer(SMOLLM2)
    config = LLAMA.replace(
        vocab_size=tokenizer.vocab_size + 8, hidden_size=16, intermediate_size=8,
        bos_token_id=tokenizer.bos_token_id, eos_token_ids=(tokenizer.eos_token_id,),
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_gguf(tmp_path / "m.gguf")
    again = checkpoint.read_tokenizer(tmp_path / "m.gguf")
    ids = tokenizer.tokenize(TEXTS)
    assert again.tokenize(TEXTS).to_list() == ids.to_list()
    assert again.detokenize(ids).numpy().tolist() == [text.encode() for text in TEXTS]
    assert again.chat_template == tokenizer.chat_template
    assert again.special_tokens == tokenizer.special_tokens
    for name in ("bos", "eos", "pad", "unk"):
        name = f"{name}_token_id"
        assert getattr(again, name) == getattr(tokenizer, name)
    ours, theirs = (gguf.GGUFReader(path).fields for path in (tmp_path / "m.gguf", SMOLLM2))
    assert ours["tokenizer.ggml.pre"].contents() == theirs["tokenizer.ggml.pre"].contents()
    assert ours["tokenizer.ggml.merges"].contents() == theirs["tokenizer.ggml.merges"].contents()
    n = tokenizer.vocab_size
    for name in ("tokens", "token_type"):
        key = f"tokenizer.ggml.{name}"
        assert ours[key].contents()[:n] == theirs[key].contents()
        assert len(ours[key].contents()) == config.vocab_size


def sentence_piece(**changes):
    """A tokenizer.json of SentencePiece's kind."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "t", "h", "e", "é", "th", "he", "▁t", "▁the", "the", "▁▁", "<tool>"]
    scores = [0.0] * 264 + [-1.0, -4.0, -3.0, -5.0, -6.0, -2.0, 0.0]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 11 + [4]
    fields = json.loads(tokenizers.bpe_json(tokens, scores, kinds)) | changes
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": "hi"}
    return tokenizers.SentencePieceBPE(json.dumps(fields), config), tokens, kinds, scores


def test_sentence_piece(tmp_path):
    tokenizer, tokens, kinds, scores = sentence_piece()
    config = LLAMA.replace(
        vocab_size=272, hidden_size=16, intermediate_size=8, bos_token_id=1, eos_token_ids=(2,)
    )
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_gguf(tmp_path / "m.gguf")
    again = checkpoint.read_tokenizer(tmp_path / "m.gguf")
    texts = ["the thé  the", "", " tool<tool>the</s>the", "你 e"]
    ids = tokenizer.tokenize(texts)
    assert again.tokenize(texts).to_list() == ids.to_list()
    assert again.detokenize(ids).numpy().tolist() == tokenizer.detokenize(ids).numpy().tolist()
    names = [f"{name}_token_id" for name in ("bos", "eos", "pad", "unk")]
    assert [getattr(again, n) for n in names] == [getattr(tokenizer, n) for n in names]
    assert again.chat_template == "hi"
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    found = {k: fields[f"tokenizer.ggml.{k}"].contents() for k in (
        "model", "pre", "tokens", "token_type", "scores", "add_space_prefix"
    )}  # fmt: skip
    assert (found["model"], found["pre"], found["add_space_prefix"]) == ("llama", "default", True)
    assert found["tokens"] == [*tokens, "[PAD271]"]
    assert found["token_type"] == [*kinds, 5]
    merged = [i for i, token in enumerate(tokens) if len(token) > 1 and kinds[i] == 1]
    by_theirs, by_ours = (sorted(merged, key=s.__getitem__) for s in (scores, found["scores"]))
    assert by_ours == by_theirs


def test_sentence_piece_without_prefix(tmp_path):
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
             "invert": False}  # fmt: skip
    gemma = {"normalizer": replace, "pre_tokenizer": split}
    never = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    for changes in (gemma, {"normalizer": None, "pre_tokenizer": never}):
        tokenizer = sentence_piece(**changes)[0]
        config = LLAMA.replace(vocab_size=271, hidden_size=16, intermediate_size=8)
        gpt_keras.CausalLM(config, tokenizer=tokenizer).save_gguf(tmp_path / "m.gguf")
        again = checkpoint.read_tokenizer(tmp_path / "m.gguf")
        texts = ["the thé  the", " the<tool> the"]
        assert again.tokenize(texts).to_list() == tokenizer.tokenize(texts).to_list()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model", lambda m: m["merges"].pop(), "merges are not those of SentencePiece"),
        ("model", lambda m: m["merges"].insert(0, m["merges"].pop()), "merges are not those"),
        ("model", lambda m: m.update(byte_fallback=False), "no byte_fallback"),
        ("normalizer", lambda n: n["normalizers"].pop(), "llama.cpp has no name for it"),
    ],
)
def test_sentence_piece_that_is_none(tmp_path, part, change, message):
    fields = json.loads(sentence_piece()[0].spec.text)[part]
    change(fields)
    tokenizer = sentence_piece(**{part: fields})[0]
    model = gpt_keras.CausalLM(LLAMA.replace(vocab_size=271), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=message):
        model.save_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt-2", {"pre_tokenizer": "gpt2"}),
        ("olmo", {"pre_tokenizer": "gpt2", "normalizer": "NFC"}),
        ("smollm", {"pre_tokenizer": "digits_gpt2"}),
        ("command-r", {"pre_tokenizer": "digits_gpt2", "normalizer": "NFC"}),
        ("llama-bpe", {"pre_tokenizer": "llama3", "ignore_merges": True}),
        ("dbrx", {"pre_tokenizer": "llama3"}),
        ("qwen2", {"pre_tokenizer": "qwen2", "normalizer": "NFC"}),
        ("stablelm2", {"pre_tokenizer": "qwen2"}),
        ("tekken", {"pre_tokenizer": "tekken", "ignore_merges": True}),
        ("gpt-4o", {"pre_tokenizer": "o200k"}),
    ],
)
def test_names_of_splitting(tmp_path, name, options):
    alphabet = list(ALPHABET)
    tokenizer = tokenizers.ByteLevelBPE.from_vocab_and_merges(alphabet, [], **options)
    model = gpt_keras.CausalLM(LLAMA.replace(vocab_size=256), tokenizer=tokenizer)
    model.save_gguf(tmp_path / "m.gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"].contents() == name
    texts = ["e\u0301 1234 don't", "DON'T aBC\n\n"]
    again = checkpoint.read_tokenizer(tmp_path / "m.gguf")
    assert again.tokenize(texts).to_list() == tokenizer.tokenize(texts).to_list()


def test_special_tokens_around_a_text(tmp_path):
    parts = {
        "vocab": ["<s>", "</s>", *sorted(ALPHABET)], "merges": [],
        "special_tokens": ["<s>", "</s>"], "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    config = LLAMA.replace(vocab_size=258, bos_token_id=0, eos_token_ids=(1,))
    for begins, ends in itertools.product([False, True], repeat=2):
        tokenizer = tokenizers.ByteLevelBPE.from_vocab_and_merges(
            **parts, add_bos_token=begins, add_eos_token=ends, pre_tokenizer="llama3",
            ignore_merges=True,
        )  # fmt: skip
        gpt_keras.CausalLM(config, tokenizer=tokenizer).save_gguf(tmp_path / "m.gguf")
        again = checkpoint.read_tokenizer(tmp_path / "m.gguf")
        assert again.post_processor == tokenizer.post_processor
    other = gpt_keras.CausalLM(config.replace(bos_token_id=5), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"adds the tokens \[0\]; GGUF has .* alone, \[5\]"):
        other.save_gguf(tmp_path / "m.gguf")


def test_what_is_not_written_is_refused(llama, tmp_path):
    for kind, message in {"Q4_0": "type='Q4_0': expected one of F32, F16, Q8_0"}.items():
        with pytest.raises(ValueError, match=message):
            llama.save_gguf(tmp_path / "m.gguf", type=kind)
    with pytest.raises(ValueError, match="is a directory; give a file"):
        llama.save_gguf(tmp_path)
    scaled = gpt_keras.RotaryConfig(scaling=(("factor", 2.0), ("rope_type", "dynamic")))
    with pytest.raises(ValueError, match="rope_type='dynamic' is not written as GGUF"):
        gpt_keras.CausalLM(LLAMA.replace(rotary=scaled)).save_gguf(tmp_path / "m.gguf")
    weight = llama.backbone.blocks[1].feed_forward.down.kernel
    before = weight.numpy()
    weight.assign(before + 7e4)
    with pytest.raises(ValueError, match=r"tensor blk\.1\.ffn_down\.weight .* F16 holds"):
        llama.save_gguf(tmp_path / "m.gguf")
    weight.assign(before)
    assert os.listdir(tmp_path) == []
