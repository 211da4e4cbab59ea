"""Words, against the reference's pre-tokenizers."""

import json
import random

import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras.tokenizers import pre_tokenizer, utf8, word_splitting

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
PREFIX = BYTE_LEVEL | {"add_prefix_space": True}
INDIVIDUAL = {"type": "Digits", "individual_digits": True}
CONTIGUOUS = {"type": "Digits", "individual_digits": False}
SPLIT = {
    "type": "Split",
    "pattern": {"Regex": word_splitting.GPT2},
    "behavior": "Isolated",
    "invert": False,
}
LLAMA3 = SPLIT | {"pattern": {"Regex": word_splitting.LLAMA3}}
QWEN2 = SPLIT | {"pattern": {"Regex": word_splitting.QWEN2}}
NO_REGEX = BYTE_LEVEL | {"use_regex": False}


def sequence(*nodes):
    return {"type": "Sequence", "pretokenizers": list(nodes)}


NODES = {
    "gpt2": BYTE_LEVEL,
    "prefix": PREFIX,
    "digits": sequence(INDIVIDUAL, BYTE_LEVEL),
    "contiguous digits": sequence(CONTIGUOUS, BYTE_LEVEL),
    "digits and prefix": sequence(INDIVIDUAL, PREFIX),
    "split": sequence(SPLIT, NO_REGEX),
    "digits and split": sequence(CONTIGUOUS, SPLIT, NO_REGEX),
    "llama3": sequence(LLAMA3, NO_REGEX),
    "qwen2": sequence(QWEN2, NO_REGEX),
    "cl100k": sequence(SPLIT | {"pattern": {"Regex": word_splitting.CL100K}}, NO_REGEX),
    "o200k": sequence(SPLIT | {"pattern": {"Regex": word_splitting.O200K}}, NO_REGEX),
    "tekken": sequence(SPLIT | {"pattern": {"Regex": word_splitting.TEKKEN}}, NO_REGEX),
    "digits and llama3": sequence(INDIVIDUAL, LLAMA3, NO_REGEX),
}


def reference_words(node, text):
    """The byte-mapped words of the reference, back in bytes."""
    fields = {"version": "1.0", "pre_tokenizer": node, "model": {"type": "BPE", "vocab": {}}}
    fields["model"]["merges"] = []
    tokenizer = hf.Tokenizer.from_str(json.dumps(fields))
    decoder = hf.decoders.ByteLevel()
    return [decoder.decode([word]) for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def random_mixtures(count, seed):
    """Short texts of the characters that the expressions treat differently."""
    rng = random.Random(seed)
    return [
        "".join(rng.choices("ab1'sLve!.\n\r \t\u0301\xa0AR日/", k=rng.randrange(1, 9)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", NODES)
def test_words_are_those_of_the_reference(name, random_texts):
    splitter = pre_tokenizer.from_json(NODES[name], "here")
    split = tf.function(
        lambda texts: splitter(*utf8.to_code_points(texts)),
        [tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    texts = [
        "", " ", "  ", "\n", " a", "a ", "  1", "x 's", "don't'll 'tis''s", "'", "''", "'r", "'re",
        "a're'", "a'rex", "a's1", "1's", "\n's", " 's", "a \n b", "a\n\n\n", "\0\0a", "12a3 4",
        "'S'ſ'LL'Lx'rE", "!'s", "''s", "x\t'sa", "1234567 12", "!\r\n\n x", "!\n \n  \n x", "a \n",
        " \n \n 1", "\t\n\t!", "\n!\n", " !x", "!x", "!!x", "\t!x", "\xa0x", "\xa0!", "\n x\n\n\ty",
        "'\n", "'s\n\n x", "\u0301a", "!\u0301a ", "٣٣٣٣ⅫⅫ", "\r\rx", " \r x", "!\n\n\n", "! \n",
        *random_texts(700, seed=1, extra=["'ll", "'s", "n't", "  ", "\n\n"]),
        "日AB", "AB日", "日ABcd", "aBCdE'S", "A日B", "!\u0301\n/", "!!\u0301a", "\u0301\u0301",
        *random_mixtures(4000, seed=2),
    ]  # fmt: skip
    words, splits, *_ = split(tf.constant(texts))
    rows = tf.RaggedTensor.from_row_splits(words, splits).to_list()
    for text, row in zip(texts, rows, strict=True):
        assert [word.decode() for word in row] == reference_words(NODES[name], text), repr(text)


def test_json_round_trip():
    for splitter in (
        *pre_tokenizer.NAMED.values(),
        pre_tokenizer.named("digits_gpt2", add_prefix_space=True),
        pre_tokenizer.PreTokenizer(digits="contiguous"),
        pre_tokenizer.PreTokenizer(word_splitting.LLAMA3, digits="individual"),
    ):
        assert pre_tokenizer.from_json(splitter.to_json(), "here") == splitter


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (None, "unsupported pre-tokenizer None"),
        ({"type": "Whitespace"}, "Whitespace"),
        (BYTE_LEVEL | {"use_regex": False}, "use_regex"),
        (sequence(BYTE_LEVEL, INDIVIDUAL), "supported are"),
        (sequence(), "supported are"),
        ({"type": "Sequence"}, "malformed"),
        ({"type": "ByteLevel"}, "malformed pre_tokenizer .*add_prefix_space"),
        (sequence({"type": "Digits"}, BYTE_LEVEL), "malformed pre_tokenizer .*individual_digits"),
        (sequence(SPLIT | {"pattern": {"Regex": r"\w+"}}, NO_REGEX), r"pattern of Split: \\w\+"),
        (sequence(SPLIT | {"pattern": {"String": "x"}}, NO_REGEX), "pattern of Split"),
        (sequence(SPLIT | {"behavior": "Removed"}, NO_REGEX), "behavior='Removed'"),
        (sequence(SPLIT | {"invert": True}, NO_REGEX), "invert=True"),
        (sequence(SPLIT, NO_REGEX | {"add_prefix_space": True}), "add_prefix_space after Split"),
        ("ByteLevel", "malformed"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(node, words):
    with pytest.raises(ValueError, match=f"^here: .*{words}"):
        pre_tokenizer.from_json(node, "here")


def test_unknown_name():
    with pytest.raises(
        ValueError, match="'llama4': expected one of gpt2, digits_gpt2, llama3, qwen2, o"
    ):
        pre_tokenizer.named("llama4")


def test_prefix_space_that_no_file_could_ask_for():
    with pytest.raises(ValueError, match="'qwen2' with add_prefix_space: unsupported"):
        pre_tokenizer.named("qwen2", add_prefix_space=True)
