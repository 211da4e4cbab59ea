"""The tokenizer inside a GGUF file, and on its way into a model directory."""

import json
import pathlib

import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras.checkpoint import read_tokenizer, weights
from gpt_keras.tokenizers import load, train_byte_level_bpe, utf8

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
TEXTS = [
    "the cat sat on the mat",
    "12345 cats\n\n",
    "<|im_start|>héllo 你好 🎉<|im_end|>",
    "<tool>x",
    "",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SMOLLM2 = pathlib.Path(__file__).parents[3] / "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer, and its tokenizer.json."""
    tokenizer = train_byte_level_bpe(
        ["the cat sat on the mat with other cats in 12345 hats"] * 4, 300, SPECIAL,
        pre_tokenizer="digits_gpt2",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return tokenizer, json.loads((path / "tokenizer.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def model(trained):
    return gpt_keras.CausalLM(
        gpt_keras.GPTConfig(trained[0].vocab_size + 1, 32, 1, 2, 32, eos_token_ids=(2,))
    )


@pytest.fixture(scope="module")
def metadata(trained):
    vocab, merges = trained[1]["model"]["vocab"], trained[1]["model"]["merges"]
    tokens = [*sorted(vocab, key=vocab.get), "<tool>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 4) + [4],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }


def test_imported(write, model, metadata, trained, tmp_path):
    path = write(tmp_path / "m.gguf", model, metadata=metadata)
    read = gpt_keras.CausalLM.from_pretrained(path)
    read.save_pretrained(tmp_path / "dir")
    again = gpt_keras.CausalLM.from_pretrained(tmp_path / "dir")
    for tokenizer in (read.tokenizer, again.tokenizer):
        ids = tokenizer.tokenize(TEXTS)
        expected = trained[0].tokenize(TEXTS[:3])
        assert ids[:3].to_list() == expected.to_list()
        assert ids[3].numpy()[0] == tokenizer.vocab_size - 1  # <tool>, found but not special
        assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == TEXTS
        assert tokenizer.special_tokens == {token: i for i, token in enumerate(SPECIAL)}
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
        assert tokenizer.chat_template == TEMPLATE
    config = again.config
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), 0)


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "don't 1234", ["don", "'t", " 1234"]),
        ("olmo", "e\u0301 1234", ["é", " 1234"]),
        ("smollm", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "DON'T 1234", ["DON", "'T", " ", "123", "4"]),
        ("dbrx", "!a 1234", ["!a", " ", "123", "4"]),
        ("tekken", "aBC 12", ["a", "BC", " ", "1", "2"]),
        ("gpt-4o", "don't 1234", ["don't", " ", "123", "4"]),
        ("qwen2", "e\u0301\n\na 12", ["é", "\n\n", "a", " ", "1", "2"]),
    ],
)
def test_words_of_each_name(write, model, metadata, tmp_path, pre, text, words):
    path = write(tmp_path / "m.gguf", model, metadata={**metadata, "tokenizer.ggml.pre": pre})
    tokenizer = read_tokenizer(path)
    expected = tokenizer.tokenize(words).values.numpy().tolist()
    assert tokenizer.tokenize(text).to_list() == [expected]
    spec = tokenizer._spec
    splitter, _ = tokenizer._make_parts(spec, "")
    found = splitter(*spec.normalizer(*utf8.to_code_points(tf.constant([text])))).texts
    assert [word.decode() for word in found.numpy()] == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"tokenizer.ggml.model": "bert"},
            "tokenizer.ggml.model='bert': unsupported; supported are",
        ),
        ({"tokenizer.ggml.model": "llama"}, "tokens, 0 scores and"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "tokenizer.ggml.pre='kimi-k2': unsupported"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre='default': unsupported"),
        ({"tokenizer.ggml.bos_token_id": 9999}, "9999"),
        (
            {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.add_bos_token": True},
            "add_bos_token is set, but there is no bos_token_id",
        ),
        ({"tokenizer.ggml.merges": ["q qqq"]}, "tokenizer: "),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "tokenizer: "),
    ],
)
def test_refused(write, model, metadata, tmp_path, changes, words):
    path = write(tmp_path / "m.gguf", model, metadata={**metadata, **changes})
    with pytest.raises(ValueError) as caught:
        gpt_keras.CausalLM.from_pretrained(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "with_tokenizer=False" in message
    assert "\n" not in message
    assert gpt_keras.CausalLM.from_pretrained(path, with_tokenizer=False).tokenizer is None


@pytest.mark.parametrize(
    ("pre", "flags", "begins", "ends"),
    [
        ("smollm", {}, False, False),
        ("llama-bpe", {}, True, False),
        ("tekken", {}, True, False),
        ("tekken", {"add_bos_token": False, "add_eos_token": True}, False, True),
        ("qwen2", {"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_special_tokens_around_a_text(write, model, metadata, tmp_path, pre, flags, begins, ends):
    """As llama.cpp adds them, which goes by the name where the file does not say."""
    flags = {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    changes = {**metadata, "tokenizer.ggml.pre": pre, **flags}
    read = read_tokenizer(write(tmp_path / "m.gguf", model, metadata=changes))
    read.save(tmp_path)
    for tokenizer in (read, load(tmp_path)):
        assert tokenizer.encode([""]).to_list() == [[1] * begins + [2] * ends]


def test_sentence_piece(write, model, tmp_path):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3] + [6] * 256
    tokens += ["▁", "t", "h", "e", "▁t", "he", "▁the", "<tool>"]
    types += [1] * 7 + [4]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [0.0] * 263 + [-1.0, -2.0, -3.0, 0.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    read = read_tokenizer(write(tmp_path / "m.gguf", model, metadata=metadata))
    read.save(tmp_path / "dir")
    for tokenizer in (read, load(tmp_path / "dir")):
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
        ids = tokenizer.tokenize(["the<tool>é</s>", "", "thee the"])
        assert ids.to_list() == [[265, 266, 259, 198, 172, 2], [], [265, 262, 265]]
        texts = tokenizer.detokenize(ids, skip_special_tokens=True).numpy()
        assert [text.decode() for text in texts] == ["the<tool> é", "", "thee the"]
        assert tokenizer.encode("the").to_list() == [[1, 265]]
    metadata["tokenizer.ggml.add_space_prefix"] = False
    metadata["tokenizer.ggml.add_bos_token"] = False
    read = read_tokenizer(write(tmp_path / "n.gguf", model, metadata=metadata))
    assert read.encode("the").to_list() == read.tokenize("the").to_list() == [[260, 264]]


def test_no_tokenizer_in_the_file(write, model, tmp_path):
    assert read_tokenizer(write(tmp_path / "m.gguf", model)) is None


def test_tokenizer_larger_than_the_model(write, metadata, tmp_path):
    small = gpt_keras.CausalLM(gpt_keras.GPTConfig(100, 32, 1, 2, 32))
    path = write(tmp_path / "m.gguf", small, metadata=metadata)
    with pytest.raises(ValueError, match="tokens, the model's vocab_size is 100"):
        gpt_keras.CausalLM.from_pretrained(path)


@pytest.mark.oracle
@pytest.mark.skipif(
    not SMOLLM2.exists(), reason=f"no {SMOLLM2}: run `python -m examples.fetch_data smollm2`"
)
def test_smollm2_directory_gives_transformers_the_tokenizer_it_reads_from_the_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = read_tokenizer(SMOLLM2)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    source = pathlib.Path(weights.__file__).read_text("utf-8")
    texts = [*TEXTS, source, "一二三 3.14\t\n end", "<repo_name>a<|endoftext|>\x00\x1f"]
    expected = theirs(texts)["input_ids"]
    assert loaded(texts)["input_ids"] == expected
    assert ours.tokenize(texts).to_list() == expected
    # transformers reads past `tokenizer.ggml.pre` and does not split digits off first, as the
    # model's own tokenizer.json and llama.cpp do.
    assert ours.tokenize(" ½").to_list() == loaded([" ½"])["input_ids"]
    assert ours.tokenize(" ½").to_list() != theirs([" ½"])["input_ids"]
    assert loaded.get_vocab() == theirs.get_vocab()
    assert loaded.special_tokens_map == theirs.special_tokens_map
    assert loaded.chat_template == theirs.chat_template
