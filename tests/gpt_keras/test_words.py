"""Words of raw texts, and the tokens that begin them."""

import json

import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras import words

TEXTS = ["", "  ", "Hi there, ada-x!", "我们 ab在c", "naïve\tcafé 🙂🙂 x"]


@pytest.mark.parametrize("separator", [" ", ""])
def test_words_of_texts(separator):
    starts, ends = (x.to_list() for x in words.split(tf.constant(TEXTS), separator))
    found = [
        [text.encode()[a:b].decode() for a, b in zip(*row, strict=True)]
        for text, *row in zip(TEXTS, starts, ends, strict=True)
    ]
    if separator:
        expected = [
            [], [], ["Hi", "there", ",", "ada", "-", "x", "!"], ["我", "们", "ab", "在", "c"],
            ["naïve", "café", "🙂🙂", "x"],
        ]  # fmt: skip
    else:
        expected = [[char for char in text if not char.isspace()] for text in TEXTS]
    assert found == expected


def test_words_are_what_bert_splits_at():
    fields = {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": True}
    model = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    model["normalizer"] = fields | {"strip_accents": False, "lowercase": False}
    model["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    theirs = hf.Tokenizer.from_str(json.dumps(model))
    texts = ["don't “quote” it… 3.5%", "日本語のテスト、です。", "a_b c\u3000d"]
    starts, ends = (x.to_list() for x in words.split(tf.constant(texts), " "))
    for text, begins, limits in zip(texts, starts, ends, strict=True):
        normal = theirs.normalizer.normalize_str(text)
        expected = [word for word, _ in theirs.pre_tokenizer.pre_tokenize_str(normal)]
        found = [text.encode()[a:b].decode() for a, b in zip(begins, limits, strict=True)]
        assert found == expected


def ragged(rows):
    return tf.ragged.constant(rows, tf.int32, 1, row_splits_dtype=tf.int64)


def test_first_tokens():
    # Row 0: a word of two tokens, one whose token begins with the blank, two in one token, one
    # without. Row 1: nothing. Row 2: special tokens around.
    word_starts = ragged([[0, 5, 8, 9, 20], [], [2]])
    word_ends = ragged([[4, 7, 9, 10, 22], [], [5]])
    token_starts = ragged([[0, 2, 4, 7, 8], [], [0, 2, 4, 0]])
    token_ends = ragged([[2, 4, 7, 8, 10], [], [0, 4, 6, 0]])
    word_ids, token_ids = words.first_tokens((word_starts, word_ends), (token_starts, token_ends))
    assert word_ids.to_list() == [[0, -1, 1, -1, 2], [], [-1, 0, -1, -1]]
    assert token_ids.to_list() == [[0, 2, 4, -1, -1], [], [1]]


def test_no_words_or_no_tokens():
    none, some = ragged([[]]), ragged([[0]])
    word_ids, token_ids = words.first_tokens((none, none), (some, some + 2))
    assert (word_ids.to_list(), token_ids.to_list()) == ([[-1]], [[]])
    word_ids, token_ids = words.first_tokens((some, some + 2), (none, none))
    assert (word_ids.to_list(), token_ids.to_list()) == ([[]], [[-1]])
