"""Presets of KerasHub in and out, with KerasHub itself as the oracle."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

import gpt_keras
from gpt_keras import import_checkpoint, inspect, tokenizers
from gpt_keras.checkpoint import weights

TEXTS = [
    "The capital of France is Paris, isn't it?", "naïve café 今天天气很好 🙂", "a  b\n\nc",
]  # fmt: skip
CORPUS = [*TEXTS, "The weather is nice today; I'm so happy about this."] * 4
GPT2 = gpt_keras.GPTConfig(
    vocab_size=330, hidden_size=12, num_layers=2, num_heads=3, intermediate_size=20,
    max_position_embeddings=40, norm="layer", activation="gelu_tanh", gated=False, rotary=None,
    qkv_bias=True, attention_output_bias=True, mlp_bias=True, dropout=0.1, initializer_range=0.3,
    model_type="gpt2",
)  # fmt: skip
LLAMA = gpt_keras.GPTConfig(
    vocab_size=420, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=24,
    max_position_embeddings=50, tie_embeddings=False, initializer_range=0.3,
)  # fmt: skip
LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def hub():
    """KerasHub; importing it takes seconds."""
    return pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def byte_level_bpe():
    return tokenizers.train_byte_level_bpe(
        CORPUS, 320, ("<|endoftext|>", "<|sep|>"), pre_tokenizer="gpt2"
    )


@pytest.fixture(scope="module")
def proto(tmp_path_factory):
    """Content of a `tokenizer.model` like Llama's."""
    prefix = tmp_path_factory.mktemp("proto") / "m"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(prefix), vocab_size=380, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2, character_coverage=0.98,
    )  # fmt: skip
    return prefix.with_suffix(".model").read_bytes()


def randomised(model):
    """The model with weights of which each one matters."""
    rng = np.random.default_rng(5)
    for weight in model.weights:
        if weight.path.rsplit("/", 1)[-1] != "seed_generator_state":
            weight.assign(weight + rng.normal(scale=0.3, size=weight.shape).astype("float32"))
    return model


def their_logits(lm, ids):
    return np.asarray(lm({"token_ids": ids, "padding_mask": np.ones_like(ids)}))


def their_ids(tokenizer, texts):
    return [np.asarray(tokenizer(text)).tolist() for text in texts]


def check_same(ours, theirs, texts=TEXTS):
    ids = np.random.default_rng(1).integers(0, ours.config.vocab_size, (2, 9)).astype("int32")
    np.testing.assert_allclose(ours(ids), their_logits(theirs, ids), atol=1e-5)
    if theirs.preprocessor is not None:
        prompts = theirs.preprocessor.generate_preprocess(texts, sequence_length=60)
        rows = zip(
            *(np.asarray(prompts[key]) for key in ("token_ids", "padding_mask")), strict=True
        )
        expected = [ids[mask.astype(bool)].tolist() for ids, mask in rows]
        if not theirs.preprocessor.add_start_token:  # heeds that in training alone
            expected = [ids[1:] for ids in expected]
        assert ours.tokenizer.encode(texts).to_list() == expected
        expected = their_ids(theirs.preprocessor.tokenizer, texts)
        assert ours.tokenizer.tokenize(texts).to_list() == expected


@pytest.fixture(scope="module")
def gpt2_preset(hub, byte_level_bpe, tmp_path_factory):
    """A preset that KerasHub wrote, and its model."""
    spec = byte_level_bpe.spec
    tokenizer = hub.models.GPT2Tokenizer(
        vocabulary=spec.ids, merges=[" ".join(pair) for pair in spec.model.merges],
        unsplittable_tokens=["<|endoftext|>", "<|sep|>"],
    )  # fmt: skip
    backbone = hub.models.GPT2Backbone(330, 2, 3, 12, 20, max_sequence_length=40)
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=20)
    model = randomised(hub.models.GPT2CausalLM(backbone, preprocessor))
    path = tmp_path_factory.mktemp("gpt2") / "preset"
    model.save_to_preset(str(path))
    return path, model


@pytest.fixture(scope="module")
def llama_preset(hub, proto, tmp_path_factory):
    tokenizer = hub.models.LlamaTokenizer(proto)
    backbone = hub.models.LlamaBackbone(
        420, 2, 4, 16, 24, 2, rope_max_wavelength=5000, layer_norm_epsilon=1e-5
    )
    preprocessor = hub.models.LlamaCausalLMPreprocessor(tokenizer, sequence_length=20)
    model = randomised(hub.models.LlamaCausalLM(backbone, preprocessor))
    path = tmp_path_factory.mktemp("llama") / "preset"
    model.save_to_preset(str(path))
    return path, model


def test_gpt2_in(gpt2_preset):
    path, theirs = gpt2_preset
    ours = gpt_keras.CausalLM.from_pretrained(path)
    check_same(ours, theirs)
    end = ours.tokenizer.token_to_id("<|endoftext|>")
    assert ours.config == GPT2.replace(
        bos_token_id=end, eos_token_ids=(end,), initializer_range=0.02
    )
    assert ours.tokenizer.special_tokens.keys() == {"<|endoftext|>", "<|sep|>"}
    # In a graph KerasHub splits texts as GPT-2 does, elsewhere as Llama 3.
    in_graph = tf.function(lambda texts: theirs.preprocessor.tokenizer(texts))
    texts = [*TEXTS, "(the 12345 things) cost $67.89"]
    expected = in_graph(tf.constant(texts)).to_list()
    assert ours.tokenizer.tokenize(texts).to_list() == expected


def test_llama_in(llama_preset):
    path, theirs = llama_preset
    ours = gpt_keras.CausalLM.from_pretrained(path, max_position_embeddings=64)
    check_same(ours, theirs)
    assert (ours.config.bos_token_id, ours.config.eos_token_ids) == (1, (2,))
    assert (ours.config.num_kv_heads, ours.config.rotary.theta) == (2, 5000)
    assert ours.config.max_position_embeddings == 64  # the preset does not say


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {
            "rope_frequency_adjustment_factor": 4.0, "rope_low_freq_factor": 1.0,
            "rope_high_freq_factor": 4.0, "rope_pretraining_sequence_length": 16,
        },
    ],
    ids=["tied", "llama3"],
)  # fmt: skip
def test_llamas_in(hub, tmp_path, options):
    backbone = hub.models.LlamaBackbone(31, 1, 4, 16, 24, 2, **options)
    theirs = randomised(hub.models.LlamaCausalLM(backbone, None))
    theirs.save_to_preset(str(tmp_path / "preset"))
    ours = gpt_keras.CausalLM.from_pretrained(tmp_path / "preset")
    assert ours.tokenizer is None
    check_same(ours, theirs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_in(hub, tmp_path, dtype):
    backbone = hub.models.LlamaBackbone(31, 1, 4, 16, 24, 2, dtype=dtype)
    backbone.save_to_preset(str(tmp_path / "preset"))
    ours = gpt_keras.CausalLM.from_pretrained(tmp_path / "preset")
    table = np.asarray(keras.ops.cast(backbone.token_embedding.embeddings, "float32"))
    np.testing.assert_array_equal(ours.backbone.embedding.table.numpy().T, table)
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "preset", dtype="auto")
    assert again.dtype_policy.name == dtype
    ours.save_keras_hub(tmp_path / "again", dtype=dtype)
    back = hub.models.LlamaBackbone.from_preset(str(tmp_path / "again"))
    np.testing.assert_array_equal(np.asarray(back.token_embedding.embeddings), table)


def test_shards_in(hub, tmp_path):
    backbone = hub.models.LlamaBackbone(2000, 2, 4, 64, 24, 2)
    theirs = randomised(hub.models.LlamaCausalLM(backbone, None))
    theirs.save_to_preset(str(tmp_path / "preset"), max_shard_size=0.0006)  # GB
    files = [n for n in os.listdir(tmp_path / "preset") if n.endswith(".h5")]
    assert len(files) > 1
    check_same(gpt_keras.CausalLM.from_pretrained(tmp_path / "preset"), theirs)
    os.remove(tmp_path / "preset" / files[0])
    with pytest.raises(ValueError, match=f"{files[0]}: missing; .*json names it as a shard"):
        gpt_keras.CausalLM.from_pretrained(tmp_path / "preset")


def test_gpt2_out(hub, byte_level_bpe, tmp_path):
    end = byte_level_bpe.token_to_id("<|endoftext|>")
    config = GPT2.replace(bos_token_id=end, eos_token_ids=(end,))
    ours = randomised(gpt_keras.CausalLM(config, byte_level_bpe))
    ours.save_keras_hub(tmp_path / "preset")
    theirs = hub.models.GPT2CausalLM.from_preset(str(tmp_path / "preset"))
    check_same(ours, theirs, [*TEXTS, "a<|sep|>b<|endoftext|>"])
    assert theirs.preprocessor.sequence_length == 40
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "preset")
    check_same(again, theirs)
    assert again.config.replace(initializer_range=0.3) == config
    ours.save_keras_hub(tmp_path / "preset")  # what is there is a preset


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "num_kv_heads": 4},
        {"rotary": gpt_keras.RotaryConfig(5e5, tuple(sorted(LLAMA3_SCALING.items())))},
    ],
    ids=["grouped", "tied", "llama3"],
)
def test_llama_out(hub, proto, tmp_path, changes):
    begins = {"add_bos_token": "tie_embeddings" in changes}
    tokenizer = tokenizers.sentence_piece.from_bytes(proto, begins)
    config = LLAMA.replace(bos_token_id=1, eos_token_ids=(2,), **changes)
    ours = randomised(gpt_keras.CausalLM(config, tokenizer))
    ours.save_keras_hub(tmp_path / "preset")
    theirs = hub.models.LlamaCausalLM.from_preset(str(tmp_path / "preset"))
    check_same(ours, theirs)
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "preset")
    assert again.config.replace(initializer_range=0.3) == config
    for name, values in weights.tensors(ours):
        np.testing.assert_array_equal(dict(weights.tensors(again))[name], values)


def test_import_program(llama_preset, tmp_path, capsys):
    path, _ = llama_preset
    assert import_checkpoint.main(["i", f"--source={path}", f"--output_dir={tmp_path / 'o'}"]) == 0
    ours, copy = (gpt_keras.CausalLM.from_pretrained(p) for p in (path, tmp_path / "o"))
    ids = np.arange(12)[None]
    np.testing.assert_array_equal(ours(ids), copy(ids))
    assert copy.tokenizer.tokenize(TEXTS).to_list() == ours.tokenizer.tokenize(TEXTS).to_list()
    found = inspect.inspect(path)
    assert (found["format"], found["family"]) == ("KerasHub preset", "llama")
    assert found["parameters"] == sum(w.shape.num_elements() for w in ours.weights)
    assert found["tokenizer"] == "SentencePieceBPE, 380 tokens, <s> before a text"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2", "qkv_bias": True}, "model_type='qwen2' is not written for Keras"),
        ({"activation": "gelu"}, "activation='gelu' cannot be written as a KerasHub Llama"),
        ({"head_dim": 8}, "head_dim=8 cannot be written as a KerasHub Llama"),
        ({"mlp_bias": True}, "mlp_bias=True cannot be written as a KerasHub Llama"),
        (
            {"rotary": gpt_keras.RotaryConfig(
                scaling=(("factor", 2.0), ("rope_type", "linear")))},
            "rope_type='linear' is not written for KerasHub, whose Llama has llama3 alone",
        ),
    ],
)  # fmt: skip
def test_models_that_are_not_written(tmp_path, changes, message):
    model = gpt_keras.CausalLM(LLAMA.replace(**changes))
    with pytest.raises(ValueError, match=message):
        model.save_keras_hub(tmp_path / "preset")
    assert os.listdir(tmp_path) == []


def test_gpt2s_that_are_not_written(byte_level_bpe, tmp_path):
    for config, message in {
        GPT2.replace(norm_epsilon=1e-6): "norm_epsilon=1e-06 cannot be written",
        GPT2.replace(tie_embeddings=False): "tie_embeddings=False cannot be written",
        GPT2.replace(activation="gelu"): "activation='gelu' cannot be written",
    }.items():
        with pytest.raises(ValueError, match=message):
            gpt_keras.CausalLM(config).save_keras_hub(tmp_path / "preset")
    for tokenizer, message in [
        (["<|endoftext|>", "digits_gpt2"], "splits texts otherwise than GPT-2's; with_tokenizer"),
        (["<|end|>", "gpt2"], r"lacks <\|endoftext\|>, which KerasHub asks for"),
    ]:
        special, pre = tokenizer
        tokenizer = tokenizers.train_byte_level_bpe(CORPUS, 300, (special,), pre_tokenizer=pre)
        with pytest.raises(ValueError, match=message):
            gpt_keras.CausalLM(GPT2, tokenizer).save_keras_hub(tmp_path / "preset")
    with pytest.raises(
        ValueError, match="ByteLevelBPE tokenizers are not written for KerasHub's L"
    ):
        gpt_keras.CausalLM(LLAMA, byte_level_bpe).save_keras_hub(tmp_path / "preset")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis\.txt"):
        gpt_keras.CausalLM(LLAMA).save_keras_hub(tmp_path / "other")
    assert os.listdir(tmp_path) == ["other"]


def test_llama_tokenizers_that_are_not_written(proto, tmp_path):
    fields = json.loads(tokenizers.sentence_piece.from_bytes(proto).spec.text)
    model = fields["model"]
    metaspace = {"type": "Metaspace", "replacement": "▁", "split": True, "prepend_scheme": "first"}
    for changes in (
        {"pre_tokenizer": metaspace, "normalizer": None},
        {"model": model | {"merges": model["merges"][::-1]}},
    ):
        tokenizer = tokenizers.from_text(json.dumps(fields | changes))
        with pytest.raises(ValueError, match=r"no SentencePiece model says .*with_tokenizer=False"):
            gpt_keras.CausalLM(LLAMA, tokenizer).save_keras_hub(tmp_path / "preset")
    model["vocab"]["<eos>"] = model["vocab"].pop("</s>")
    added = [token for token in fields["added_tokens"] if token["content"] != "</s>"]
    tokenizer = tokenizers.from_text(json.dumps(fields | {"added_tokens": added}))
    with pytest.raises(ValueError, match="lacks </s>, which KerasHub asks for"):
        gpt_keras.CausalLM(LLAMA, tokenizer).save_keras_hub(tmp_path / "preset")
    assert os.listdir(tmp_path) == []


def damaged(path, name, key=None, value=None):
    """Sets or removes an entry of the configuration in a JSON file."""
    fields = json.loads((path / name).read_text())
    if value is None:
        del fields["config"][key]
    else:
        (fields["config"] if key in fields["config"] else fields)[key] = value
    (path / name).write_text(json.dumps(fields))


def truncated(path, size):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * size)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: os.remove(p / "model.weights.h5"), "holds no model.weights.h5"),
        (lambda p: truncated(p / "model.weights.h5", 0.6), "h5: .*truncated or damaged HDF5"),
        (lambda p: truncated(p / "model.weights.h5", 0.001), "h5: truncated or damaged HDF5"),
        (lambda p: (p / "model.weights.h5").write_text("no"), "h5: truncated or damaged HDF5"),
        (lambda p: damaged(p, "config.json", "num_layers"), "config: num_layers is missing"),
        (lambda p: damaged(p, "config.json", "num_layers", 1), "have no place in the model"),
        (lambda p: damaged(p, "config.json", "num_layers", 3), "decoder_2/.*is missing"),
        (lambda p: damaged(p, "config.json", "hidden_dim", "x"), "hidden_dim='x': expected an int"),
        (
            lambda p: damaged(p, "config.json", "intermediate_dim", 21),
            r"vars/0 has shape \(24, 16\), but the configuration asks for \(21, 16\)",
        ),
        (
            lambda p: damaged(p, "config.json", "registered_name", "keras_hub>BertBackbone"),
            "BertBackbone': unsupported; supported are keras_hub>GPT2Backbone, keras_hub>Llama",
        ),
        (
            lambda p: damaged(p, "config.json", "rope_position_scaling_factor", 2.0),
            "rope_position_scaling_factor=2.0: unsupported: versions of KerasHub differ",
        ),
        (
            lambda p: damaged(p, "config.json", "rope_position_scaling_factor", "1"),
            "rope_position_scaling_factor='1': expected a number",
        ),
        (
            lambda p: damaged(p, "tokenizer.json", "registered_name", "keras_hub>BertTokenizer"),
            "BertTokenizer': unsupported; .*with_tokenizer=False",
        ),
        (lambda p: os.remove(p / "assets/tokenizer/vocabulary.spm"), "vocabulary.spm: No such"),
        (lambda p: truncated(p / "assets/tokenizer/vocabulary.spm", 0.5), "spm: not a Sentence"),
    ],
)  # fmt: skip
def test_damage_is_told_in_one_line(llama_preset, tmp_path, damage, message):
    path = tmp_path / "preset"
    shutil.copytree(llama_preset[0], path)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        gpt_keras.CausalLM.from_pretrained(path)
    assert "\n" not in str(caught.value)
