"""Normalized texts, against the reference's normalizers."""

import json
import random

import pytest
import tensorflow as tf
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_keras.tokenizers import normalizer, unicode_data

FORMS = [{"type": form} for form in normalizer.FORMS]
NODES = [
    None,
    *FORMS,
    {"type": "Lowercase"},
    {"type": "StripAccents"},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": ""},
    {"type": "Replace", "pattern": {"String": "ab."}, "content": "\\1x\\"},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFD"},
            {"type": "Sequence", "normalizers": [{"type": "StripAccents"}]},
            {"type": "Lowercase"},
            {"type": "Prepend", "prepend": " "},
        ],
    },
    {"type": "Sequence", "normalizers": []},
]
# What composes, what does not, what comes apart, and marks of many classes.
BASES = (
    "aeosAEIOU \u1e63\u1e61\u0928\u09c7\u0dd9\u30ab\u1100\u1161\u11a8가각ᄒ\u0958\u2126ﬁ\U0001d157"
)
MARKS = (
    "\u0300\u0301\u0307\u0308\u0323\u0327\u0334\u0345\u0344\u05b0\u0651\u093c\u09be\u3099\U0001d165"
)


def both(node):
    """(our function, the reference's), list of str -> list of str."""
    ours = normalizer.from_json(node, "here").of_texts
    ours = tf.function(ours, [tf.TensorSpec([None], tf.string)], autograph=False)
    fields = {"version": "1.0", "normalizer": node}
    fields["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    theirs = hf.Tokenizer.from_str(json.dumps(fields)).normalizer

    def of_ours(texts):
        return [text.decode() for text in ours(tf.constant(texts, tf.string)).numpy()]

    def of_theirs(texts):
        return [theirs.normalize_str(text) if theirs else text for text in texts]

    return of_ours, of_theirs


@pytest.mark.parametrize("node", NODES, ids=json.dumps)
def test_texts_are_those_of_the_reference(node, random_texts):
    rng = random.Random(1)
    mixtures = ["".join(rng.choices(BASES + MARKS * 2, k=rng.randrange(12))) for _ in range(1500)]
    texts = ["", "", " a  ab. b ", "xab.ab.\n\u3000", "İSTANBUL ΣΑΣ ẞ", *mixtures]
    texts += random_texts(500, seed=1)
    ours, theirs = both(node)
    assert ours(texts) == theirs(texts)
    assert ours([]) == []


@pytest.mark.parametrize("node", FORMS, ids=str)
def test_every_code_point(node):
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = [char + "\u0301" for char in chars[:0x3400]] + [
        "".join(chars[i::97]) for i in range(97)
    ]
    ours, theirs = both(node)
    assert ours(texts) == theirs(texts)


@pytest.fixture(scope="module", params=["NFC", "NFKD"])
def form(request):
    return both({"type": request.param})


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20) | st.text(BASES + MARKS)))
@settings(max_examples=150, deadline=None)
def test_property_any_text(form, texts):
    ours, theirs = form
    assert ours(texts) == theirs(texts)


def test_long_runs_take_few_rounds():
    """A starter with a thousand marks, of which one composes; Hangul letter by letter."""
    texts = ["a" + "\u0323" * 1000 + "\u0301", "\u1112\u1161\u11ab" * 5000, "\u0301\u0323" * 1000]
    ours, theirs = both({"type": "NFC"})
    assert ours(texts) == theirs(texts)


def test_tables():
    assert unicode_data.decompositions()[0x1E69] == (0x73, 0x323, 0x307)
    assert unicode_data.compositions()[0x1E63, 0x307] == 0x1E69
    assert unicode_data.compositions()[0xAC00, 0x11A8] == 0xAC01
    assert unicode_data.combining_classes()[0x345] == 240
    assert (ord("0"), ord("9")) in unicode_data.word_chars()
