"""Directories in and out, and what is wrong with them."""

import json
import pathlib
import re

import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras import tokenizers

MINILM = pathlib.Path(__file__).parents[3] / "data" / "minilm"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write(folder, fields, config=None, **files):
    folder.joinpath("tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        folder.joinpath("tokenizer_config.json").write_text(text, encoding="utf-8")
    for name, text in files.items():
        folder.joinpath(name.replace("_json", ".json").replace("_jinja", ".jinja")).write_text(text)


def test_save_keeps_what_was_loaded(fields, tmp_path):
    """`tokenizer.json` byte for byte, and every field of the other file."""
    source, target = tmp_path / "in", tmp_path / "out" / "deep"
    source.mkdir()
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 512,
        "bos_token": {"__type": "AddedToken", "content": "<|im_start|>", "special": True},
        "pad_token": None,
        "chat_template": TEMPLATE,
        "something": ["else", "é"],
    }
    write(source, fields | {"truncation": None, "odd": "kept"}, config)
    tokenizer = tokenizers.load(source)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0, None)
    assert tokenizer.unk_token_id == 0  # GPT2Tokenizer's default
    assert tokenizer.chat_template == TEMPLATE
    tokenizer.save(target)
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8")) == config
    again = tokenizers.load(target)
    assert again.bos_token_id == 1
    assert again.tokenize("Hello").to_list() == tokenizer.tokenize("Hello").to_list()


@pytest.mark.parametrize("kind", ["byte-level", "word pieces", "bpe", "unigram"])
def test_tensorflow_does_not_look_through_the_vocabulary(trained, english, kind):
    """It looks for variables in each entry of a module's mappings, again and again in an export."""
    if kind == "byte-level":
        tokenizer = trained
    elif kind == "word pieces":
        if not MINILM.exists():
            pytest.skip("no data/minilm: run `python -m examples.fetch_data minilm`")
        tokenizer = tokenizers.load(MINILM)
    else:
        tokenizer = tokenizers.train_sentence_piece(english, 600, model_type=kind)
    for module in (tokenizer, *tokenizer.submodules):
        assert len(tf.nest.flatten(vars(module))) < 100 < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("config", "files", "template"),
    [
        (None, {}, None),
        ({}, {}, None),
        ({"chat_template": [{"name": n, "template": f"{n}!"} for n in ("tool", "default")]},
         {}, "default!"),
        ({"chat_template": "old"}, {"chat_template_jinja": "new"}, "new"),
        (None, {"chat_template_jinja": "new"}, "new"),
    ],
)  # fmt: skip
def test_chat_templates(fields, tmp_path, config, files, template):
    write(tmp_path, fields, config, **files)
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.chat_template == template
    tokenizer.save(tmp_path / "out")
    assert tokenizers.load(tmp_path / "out").chat_template == template


def test_names_of_tokens_in_other_files(fields, tmp_path):
    """Old directories: a map of its own, or the defaults of the class that the model implies."""
    write(tmp_path, fields, None, special_tokens_map_json='{"eos_token": "<|im_start|>"}')
    assert tokenizers.load(tmp_path).eos_token_id == 1
    write(tmp_path, fields, {"eos_token": "<|endoftext|>"})
    assert tokenizers.load(tmp_path).eos_token_id == 0
    write(tmp_path, fields, {}, special_tokens_map_json="{}", config_json='{"model_type": "gpt2"}')
    assert tokenizers.load(tmp_path).bos_token_id == 0
    tokenizers.load(tmp_path).save(tmp_path / "out")
    assert tokenizers.load(tmp_path / "out").bos_token_id == 0


def test_from_tokenizer_json(fields, tmp_path):
    write(tmp_path, fields, {"pad_token": "<|im_start|>"})
    tokenizer = tokenizers.ByteLevelBPE.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (None, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"normalizer": {"type": "Nmt"}},
            'normalizer {"type": "Nmt"}: unsupported; supported are NFC',
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "__"}}, "normalizer .*__.*: unsupported"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "\\s"}, "content": ""}},
            "normalizer Replace of {'Regex': '.*s'}: unsupported; supported are strings and",
        ),
        ({"normalizer": {"type": "Replace"}}, "malformed: KeyError"),
        (
            {"decoder": {"type": "Metaspace"}},
            "decoder Metaspace: unsupported; supported is ByteLevel",
        ),
        ({"decoder": None}, "decoder None: unsupported; supported is ByteLevel"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "unsupported pre-tokenizer .*Metaspace"),
        ({"model": []}, 'no "model" object'),
        ({"added_tokens": [3]}, "malformed: AttributeError"),
        ({"normalizer": "NFC"}, "malformed: TypeError"),
        ({"pre_tokenizer": "ByteLevel"}, "malformed pre_tokenizer ByteLevel"),
        ({"decoder": "ByteLevel"}, "malformed decoder ByteLevel"),
    ],
)
def test_unsupported_files(fields, tmp_path, change, words):
    write(tmp_path, fields | change)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}/tokenizer\.json: {words}"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"type": "WordLevel"},
            "model WordLevel: unsupported; supported are BPE, WordPiece, Unigram",
        ),
        ({"type": "WordPiece"}, "unk_token None in it"),
        ({"type": "Unigram"}, "the model needs a vocab array of tokens and their scores"),
        ({"type": "Unigram", "vocab": [["a", 0.0]]}, "unk_id None: expected the id of a token"),
        (
            {"type": "Unigram", "vocab": [["a", 0], ["a", 1]]},
            "token 'a' is in the vocabulary twice",
        ),
        ({"dropout": 0.1}, "model with dropout=0.1: unsupported"),
        ({"byte_fallback": True}, "model with byte_fallback=True: unsupported with ByteLevel"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix='##': unsupported"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix='</w>': unsupported"),
        ({"merges": [["t", "h"], ["q", "☃"]]}, r"merge 1, \('q', '☃'\): expected two tokens"),
        ({"merges": ["t h e"]}, r"merge 0, \('t', 'h', 'e'\): expected two tokens"),
        ({"merges": None}, "needs a vocab object with tokens and a merges array"),
        ({"vocab": {}}, "needs a vocab object"),
        ({"vocab": {"a": 0, "b": 0}}, "ids of the vocabulary: expected each once"),
        ({"vocab": {"a": "0"}}, "ids of the vocabulary: expected .* whole numbers"),
        ({"vocab": {"a": -1}}, "ids of the vocabulary: expected .* whole numbers"),
        ({"vocab": {"a": 10**9}}, "ids of the vocabulary: expected .* below 16777216"),
        ({"vocab": {"a": []}}, "malformed: TypeError"),
        ({"merges": [3]}, "malformed: TypeError"),
        ({"vocab": {"a": 0}, "merges": [], "unk_token": "<u>"}, "unk_token '<u>' is not in the"),
    ],
)
def test_unsupported_models(fields, change, words):
    text = json.dumps(fields | {"model": fields["model"] | change})
    with pytest.raises(ValueError, match=f"^here: .*{words}"):
        tokenizers.ByteLevelBPE(text, where="here")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not valid JSON: .*; get the file anew"),
        ("[]", "expected a JSON object, found list"),
        ({"eos_token": "</s>"}, "eos_token '</s>' is not in the vocabulary: add it to"),
        ({"bos_token": 3}, "bos_token is 3; expected a string"),
        ({"chat_template": 3}, "chat_template is 3"),
        ({"chat_template": ["x"]}, "chat_template is a list of something else"),
        ({"chat_template": [{"name": "tool", "template": "x"}]}, 'named "default"; there are tool'),
    ],
)
def test_bad_tokenizer_config(fields, tmp_path, config, words):
    write(tmp_path, fields, config)
    path = re.escape(str(tmp_path / "tokenizer_config.json"))
    with pytest.raises(ValueError, match=f"^{path}: .*{words}"):
        tokenizers.load(tmp_path)


def test_broken_template(fields, tmp_path):
    write(tmp_path, fields)
    tmp_path.joinpath("chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"/chat_template\.jinja: not valid UTF-8"):
        tokenizers.load(tmp_path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"/tokenizer\.json: no such file; copy it from"):
        tokenizers.load(tmp_path)
    with pytest.raises(ValueError, match=r"^no/file\.json: No such file or directory; expected"):
        tokenizers.ByteLevelBPE.from_tokenizer_json("no/file.json")
    for content in (b"", b'{"model": ', b"\xff\xfe", b"[1]"):
        tmp_path.joinpath("tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"/tokenizer\.json: (not valid JSON|no .model)"):
            tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("pre_tokenizer", "options"),
    [
        ("gpt2", {}),
        ("gpt2", {"add_prefix_space": True, "normalizer": "NFC"}),
        ("digits_gpt2", {}),
        ("digits_gpt2", {"add_prefix_space": True}),
        ("llama3", {"ignore_merges": True}),
        ("qwen2", {"normalizer": "NFC"}),
    ],
)
def test_from_vocab_and_merges(fields, tmp_path, random_texts, check_ids, pre_tokenizer, options):
    """The file that is written is one that Hugging Face loads, with the same ids."""
    model = fields["model"]
    ours = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        list(model["vocab"]),
        model["merges"],
        ["<|endoftext|>", "<new>"],
        added_tokens=["<user>"],
        pre_tokenizer=pre_tokenizer,
        **options,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        chat_template=TEMPLATE,
    )
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (0, 1, 0)
    assert ours.special_tokens == {"<|endoftext|>": 0, "<new>": 1500}
    assert ours.token_to_id("<user>") == 1501
    ours.save(tmp_path)
    reference = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = random_texts(
        300, seed=8, extra=["<new>", "<user>", "<|endoftext|>", "123", "  9", "e\u0301"]
    )
    check_ids(ours, reference, texts)
    check_ids(ours, reference, texts, allow_special=False)
    loaded = tokenizers.load(tmp_path)
    assert loaded.tokenize(texts[:50]).to_list() == ours.tokenize(texts[:50]).to_list()
    assert (loaded.eos_token_id, loaded.chat_template) == (1, TEMPLATE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": "nfc"}, 'normalizer {"type": "nfc"}: unsupported; supported are NFC'),
        ({"pre_tokenizer": "llama-bpe"}, "pre_tokenizer='llama-bpe': expected one of"),
        ({"eos_token_id": 9}, "eos_token_id=9: not an id of the vocabulary"),
        ({"add_bos_token": True}, "add_bos_token=True: there is no bos_token_id to add"),
        ({"merges": [("a", "c")]}, r"vocab and merges: merge 0, \('a', 'c'\)"),
    ],
)
def test_wrong_parts(changes, words):
    parts = {"vocab": ["a", "b", "ab"], "merges": ["a b"]} | changes
    with pytest.raises(ValueError, match=words):
        tokenizers.ByteLevelBPE.from_vocab_and_merges(**parts)
