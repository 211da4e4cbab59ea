"""GGUF files in: whole, of every type, damaged, unsupported."""

import struct

import gguf
import numpy as np
import pytest

import gpt_keras
from gpt_keras import import_checkpoint
from gpt_keras.checkpoint import gguf_file, hf_config, read_config, weights
from gpt_keras.checkpoint.fields import Fields

Type = gguf.GGMLQuantizationType
LLAMA = gpt_keras.GPTConfig(
    vocab_size=40, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96,
    max_position_embeddings=128, rotary=gpt_keras.RotaryConfig(5000.0), norm_epsilon=1e-6,
    bos_token_id=1, eos_token_ids=(2,), pad_token_id=0,
)  # fmt: skip
GPT2 = gpt_keras.GPTConfig(
    vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=128, norm="layer",
    max_position_embeddings=16, activation="gelu_tanh", gated=False, rotary=None, qkv_bias=True,
    attention_output_bias=True, mlp_bias=True, model_type="gpt2", dropout=0.1, eos_token_ids=(2,),
)  # fmt: skip
IDS = np.array([[5, 6, 7, 8, 9]], np.int32)


@pytest.fixture(scope="module")
def llama():
    return gpt_keras.CausalLM(LLAMA.replace(initializer_range=0.2))


def read(path):
    return gpt_keras.CausalLM.from_pretrained(path)


def refuses(path, *words):
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert not [word for word in words if word not in message], message


def test_float32_is_exact(write, llama, tmp_path):
    model = read(write(tmp_path / "m.gguf", llama))
    assert model.config == LLAMA
    for ours, exact in zip(model.weights, llama.weights, strict=True):
        np.testing.assert_array_equal(ours, exact, err_msg=ours.path)


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_1])
def test_other_types_are_what_gguf_makes_of_them(write, llama, tmp_path, kind):
    model = read(write(tmp_path / "m.gguf", llama, kind))
    found = dict(weights.tensors(model))
    for name, exact in weights.tensors(llama):
        if exact.ndim == 2:  # rows are quantized one by one, so their order plays no part
            exact = gguf.dequantize(gguf.quantize(exact, kind), kind)
        np.testing.assert_array_equal(found[name], exact, err_msg=name)


@pytest.mark.parametrize("changes", [{"tie_embeddings": False}, {"head_dim": 32}, {
    "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True,
}])  # fmt: skip
def test_llama_options(write, tmp_path, changes):
    config = LLAMA.replace(**changes)
    model = gpt_keras.CausalLM(config)
    for variable in model.weights:  # biases begin as zeros, which would compare equal anywhere
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    again = read(write(tmp_path / "m.gguf", model))
    assert again.config == config
    np.testing.assert_array_equal(again(IDS), model(IDS))


def test_gpt2(write, tmp_path):
    model = gpt_keras.CausalLM(GPT2.replace(initializer_range=0.2))
    again = read(write(tmp_path / "m.gguf", model))
    assert again.config == GPT2
    np.testing.assert_array_equal(again(IDS), model(IDS))


SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128,
         "rope_theta": 5000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 3}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 16}),
        ("smollm3", {}),
        ("olmo2", {}),
        ("phi3", {"sliding_window": 4}),
        ("phi3", {"partial_rotary_factor": 0.75}),
        ("starcoder2", {}),
        ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
        ("gpt_neox", {"rotary_emb_base": 5000.0}),
        ("gpt_neox", {"rotary_emb_base": 5000.0, "use_parallel_residual": False}),
        ("gemma", {"head_dim": 16}),
        ("gemma2", {**GEMMA, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0}),
        ("gemma2", {**GEMMA, "query_pre_attn_scalar": 8, "num_hidden_layers": 46}),
        ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16}),
        ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2}),
        (
            "qwen3_moe",
            {
                "head_dim": 16,
                "moe_intermediate_size": 48,
                "num_experts": 3,
                "num_experts_per_tok": 2,
                "norm_topk_prob": True,
            },
        ),
    ],
)
def test_families(write, tmp_path, model_type, changes):
    fields = {"model_type": model_type, **SMALL, **changes}
    config = hf_config.from_fields(Fields(fields, "config.json"))
    model = gpt_keras.CausalLM(config)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        # Few bits, so that what is added to a norm's scale can be taken off again.
        variable.assign(np.round(rng.normal(size=variable.shape, scale=0.3) * 64) / 64)
    again = read(write(tmp_path / "theirs.gguf", model))
    assert again.config.replace(dropout=0.0, initializer_range=0.02) == config.replace(
        dropout=0.0, initializer_range=0.02
    )
    for ours, exact in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, exact, err_msg=ours.path)

    model.save_gguf(tmp_path / "ours.gguf", "F32")
    assert_same_file(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
    assert read_config(tmp_path / "ours.gguf") == again.config


def assert_same_file(ours, theirs):
    """The same tensors, and all the metadata that the other has."""
    ours, theirs = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    tensors = [{t.name: t for t in reader.tensors} for reader in (ours, theirs)]
    assert set(tensors[0]) == set(tensors[1])
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert (tensor.tensor_type, list(tensor.shape)) == (other.tensor_type, list(other.shape))
        np.testing.assert_array_equal(tensor.data, other.data, err_msg=name)
    for key, field in theirs.fields.items():
        # The converter writes no key heads of GPT-NeoX, whose heads are as many; for Qwen 3 with
        # experts the width of a feed-forward that it has not.
        absent = ("GGUF.", "gptneox.attention.head_count_kv", "qwen3moe.feed_forward_length")
        if not key.startswith(absent):
            assert ours.fields[key].contents() == field.contents(), key


def test_linear_rope_scaling_and_end_of_turn(write, llama, tmp_path):
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0,
                "tokenizer.ggml.eot_token_id": 3, "tokenizer.ggml.eom_token_id": 4,
                "tokenizer.ggml.padding_token_id": None}  # fmt: skip
    config = read_config(write(tmp_path / "m.gguf", llama, metadata=metadata))
    assert dict(config.rotary.scaling) == {"rope_type": "linear", "factor": 4.0}
    assert (config.eos_token_ids, config.pad_token_id) == ((2, 3, 4), None)


def test_imported_directory_is_the_same_model(write, llama, tmp_path, capsys):
    source, output_dir = write(tmp_path / "m.gguf", llama, Type.Q8_0), tmp_path / "dir"
    arguments = [f"--source={source}", f"--output_dir={output_dir}"]
    assert import_checkpoint.main(["import_checkpoint", *arguments]) == 0
    assert "llama with 0.1 M parameters" in capsys.readouterr().out
    model, again = read(source), read(output_dir)
    assert again.config == model.config
    np.testing.assert_array_equal(again(IDS), model(IDS))


def test_file_is_parsed_once_until_it_changes(write, llama, tmp_path):
    path = str(write(tmp_path / "m.gguf", llama))
    assert gguf_file.open_file(path) is gguf_file.open_file(path)
    write(path, llama, metadata={"llama.context_length": 64})
    assert read_config(path).max_position_embeddings == 64


def test_no_gguf_and_truncated(write, llama, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    refuses(path, "no GGUF file")
    path.write_bytes(b"PK\x03\x04 something else")
    refuses(path, "no GGUF file")
    whole = write(path, llama).read_bytes()
    for length in (5, 20, 300, 1500, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        refuses(path, "truncated or damaged")
    refuses(tmp_path / "nowhere.gguf", "no such")


def test_metadata_that_is_no_text(write, llama, tmp_path):
    path = write(tmp_path / "m.gguf", llama, metadata={"llama.rope.scaling.type": "linear"})
    path.write_bytes(path.read_bytes().replace(b"linear", b"lin\xffar"))
    refuses(path, "llama.rope.scaling.type", "damaged")


def test_unknown_types_are_named(write, llama, tmp_path):
    path = write(tmp_path / "m.gguf", llama)
    name, dimensions = b"output_norm.weight", struct.pack("<IQ", 1, 64)
    data = path.read_bytes()
    before = name + dimensions + struct.pack("<I", Type.F32)
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, name + dimensions + struct.pack("<I", 77)))
    refuses(path, "type", "77")

    def as_integers(tensors):
        tensors["output_norm.weight"] = np.ones(64, np.int8)

    refuses(write(path, llama, change=as_integers), "output_norm.weight", "I8", "not supported")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"llama.block_count": None}, "llama.block_count"),
        ({"llama.block_count": 3}, "model.layers.2.self_attn.o_proj.weight is missing"),
        ({"llama.block_count": 2**31}, "llama.block_count=2147483648"),
        ({"llama.block_count": "two"}, "llama.block_count='two'"),
        ({"llama.block_count": 1}, "no place"),
        ({"llama.embedding_length": 32}, "(40, 64)"),
        ({"llama.attention.head_count": 3}, "head"),
        ({"llama.attention.head_count": "four"}, "expected an integer"),
        ({"llama.rope.scaling.type": "ntk"}, "rope.scaling.type='ntk'"),
        ({"llama.rope.scaling.type": "yarn"}, "factor is missing"),
        ({"llama.rope.scaling.type": "longrope"}, "rope_factors_long.weight missing"),
        ({"llama.rope.scaling.yarn_ext_factor": 2.0}, "yarn_ext_factor"),
        ({"llama.rope.dimension_count": 8, "llama.attention.key_length": 16}, "dimension_count=8"),
        ({"llama.expert_count": 8}, "expert_count=8, but the file"),
        ({"general.architecture": "qwen2", "qwen2.expert_count": 8}, "qwen2.expert_count=8: uns"),
        ({"split.count": 2}, "merge"),
        ({"general.architecture": "rwkv"}, "general.architecture='rwkv'"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model='rwkv'"),
        ({"tokenizer.ggml.model": "llama"}, "bos_token_id=1: not one of the 0 tokens"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "kimi"}, "pre='kimi'"),
    ],
)
def test_metadata_that_is_refused(write, llama, tmp_path, metadata, words):
    refuses(write(tmp_path / "m.gguf", llama, metadata=metadata), words)


def test_tensors_that_are_refused(write, llama, tmp_path):
    path = tmp_path / "m.gguf"

    def rope_freqs(tensors):
        tensors["rope_freqs.weight"] = np.ones(7, np.float32)

    refuses(write(path, llama, change=rope_freqs), "short_factor", "expected 8 numbers")
    refuses(write(path, llama, change=lambda t: t.pop("blk.1.attn_v.weight")),
            "model.layers.1.self_attn.v_proj.weight is missing")  # fmt: skip

    def surplus(tensors):
        tensors["blk.0.attn_q_norm.weight"] = np.ones(16, np.float32)

    refuses(write(path, llama, change=surplus), "blk.0.attn_q_norm.weight", "no place")
