"""GGUF files in: whole, of every type, damaged, unsupported."""

import math
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


def one_model(write, tmp_path, model_type, changes, metadata, tensors):
    """A model of a file that the converter would write, and of the one written of the model."""
    fields = {"model_type": model_type, **SMALL, **changes}
    config = hf_config.from_fields(Fields(fields, "config.json"))
    model = gpt_keras.CausalLM(config.replace(initializer_range=0.2))
    arch = {"phi3": "phi3", "gemma3_text": "gemma3"}.get(model_type, "llama")
    metadata = {f"{arch}.{key}": value for key, value in metadata.items()}
    path = write(
        tmp_path / "theirs.gguf", model, metadata=metadata, change=lambda t: t.update(tensors)
    )
    again = read(path)
    np.testing.assert_array_equal(again(IDS), model(IDS))
    model.save_gguf(tmp_path / "ours.gguf", "F32")
    return config, again.config, path, tmp_path / "ours.gguf"


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
SHORT, LONG = [1.0, 1.5, 2.0, 3.25], [1.0, 4.0, 8.5, 32.0]
LONGROPE = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}


def llama3_factors(theta, width, factor=8, low=1, high=4, original=8192):
    """As `LlamaModel.generate_extra_tensors` of llama.cpp's conversion/llama.py."""
    factors = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * theta ** (i / width)
        smooth = (original / wavelength - low) / (high - low)
        smooth = min(max(smooth, 0), 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(
    ("model_type", "changes", "metadata", "tensors"),
    [
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0,
                              "original_max_position_embeddings": 32}},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 32, "rope.scaling.yarn_beta_fast": 16.0},
            {},
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5,
                              "original_max_position_embeddings": 32}},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 32, "rope.scaling.yarn_attn_factor": 1.5},
            {},
        ),
        (
            "gemma3_text",
            {**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 6,
             "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
             "rope.freq_base_swa": 10000.0},
            {},
        ),
        (
            "phi3",
            {"rope_scaling": LONGROPE, "original_max_position_embeddings": 4,
             "max_position_embeddings": 16},
            {"rope.scaling.original_context_length": 4,
             "rope.scaling.attn_factor": math.sqrt(1 + math.log(4) / math.log(4))},
            {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
        ),
        (
            "llama",
            {"rope_scaling": {**LONGROPE, "attention_factor": 1.25,
                              "original_max_position_embeddings": 4}},
            {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 4,
             "rope.scaling.attn_factor": 1.25},
            {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
        ),
        (
            "llama",
            {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 16},
            {"rope.freq_base": 500000.0},
            {"rope_freqs.weight": llama3_factors(500000.0, 16)},
        ),
        (
            "mixtral",
            {"rope_scaling": {**LLAMA3, "factor": 32.0}, "rope_theta": 500000.0, "head_dim": 16,
             "num_local_experts": 2, "num_experts_per_tok": 1},
            {"rope.freq_base": 500000.0},
            {"rope_freqs.weight": llama3_factors(500000.0, 16, 32)},
        ),
    ],
)  # fmt: skip
def test_rotary_scalings(write, tmp_path, model_type, changes, metadata, tensors):
    tensors = {name: np.array(values, np.float32) for name, values in tensors.items()}
    config, again, theirs, ours = one_model(write, tmp_path, model_type, changes, metadata, tensors)
    assert again.rotary == config.rotary
    assert read_config(ours).rotary == config.rotary
    found = gguf.GGUFReader(ours)
    for tensor in found.tensors:
        if tensor.name in tensors:
            np.testing.assert_allclose(tensor.data, tensors[tensor.name], rtol=1e-6)
            tensors.pop(tensor.name)
    assert not tensors
    for key, field in gguf.GGUFReader(theirs).fields.items():
        if "rope.scaling" in key and "yarn_attn_factor" not in key:
            assert found.fields[key].contents() == pytest.approx(field.contents()), key


def test_scaling_that_is_no_models_known(write, tmp_path):
    """Its angles are kept, in other words."""
    factors = np.array([1.0, 1.5, 2.5, 7.0], np.float32)
    rope = {"rope_type": "longrope", "short_factor": factors.tolist(),
            "long_factor": factors.tolist(), "attention_factor": 1.0,
            "original_max_position_embeddings": 128}  # fmt: skip
    tensors = {"rope_freqs.weight": factors}
    _, again, _, _ = one_model(write, tmp_path, "llama", {"rope_scaling": rope}, {}, tensors)
    assert dict(again.rotary.scaling)["long_factor"] == (1.0, 1.5, 2.5, 7.0)


def test_a_window_that_gguf_has_no_place_for_shortens_the_context(tmp_path):
    fields = {"model_type": "mistral", **SMALL, "sliding_window": 16}
    config = hf_config.from_fields(Fields(fields, "config.json"))
    model = gpt_keras.CausalLM(config.replace(initializer_range=0.2))
    model.save_gguf(tmp_path / "m.gguf", "F32")
    again = read(tmp_path / "m.gguf")
    assert (again.config.model_type, again.config.max_position_embeddings) == ("llama", 16)
    ids = np.arange(16)[None]
    np.testing.assert_array_equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "rotary=.* of layer 1 is not written"),
        ("gemma2", {**GEMMA, "query_pre_attn_scalar": 32}, "attention_scalar=32 is not written"),
        ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16,
                         "layer_types": ["full_attention", "sliding_attention"] * 2},
         "sliding_window=0 of layer 0"),
        ("qwen3_moe", {"moe_intermediate_size": 48, "num_experts": 3, "num_experts_per_tok": 2},
         "normalize_experts=False is not written as GGUF: llama.cpp would take it for True"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False,
                                    "original_max_position_embeddings": 2048}},
         "rotary=.*truncate.* is not written"),
        ("llama", {"eos_token_id": [2, 3, 4, 5]}, "GGUF has places for 3"),
        ("llama", {"hidden_act": "gelu"}, "activation='gelu' is not written"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say_is_refused(tmp_path, model_type, changes, message):
    fields = {"model_type": model_type, **SMALL, **changes}
    model = gpt_keras.CausalLM(hf_config.from_fields(Fields(fields, "config.json")))
    with pytest.raises(ValueError, match=message):
        model.save_gguf(tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


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
