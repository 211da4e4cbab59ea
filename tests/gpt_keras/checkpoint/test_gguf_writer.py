"""GGUF files out; that they are what llama.cpp's converter writes is in test_gguf_file."""

import itertools
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
    with pytest.raises(ValueError, match=r"tensor model\.layers\.1\.mlp\.down_proj.* F16 holds"):
        llama.save_gguf(tmp_path / "m.gguf")
    weight.assign(before)
    assert os.listdir(tmp_path) == []
