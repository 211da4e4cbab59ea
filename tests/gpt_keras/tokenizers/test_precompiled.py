"""SentencePiece's table of characters, against the reference's normalizer `Precompiled`."""

import base64
import io
import random

import pytest
import sentencepiece
import tensorflow as tf
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from gpt_keras.tokenizers import normalizer, precompiled, unicode_data

# Letters that become something, alone or with marks; what goes with what is before it, or after
# it; pictures; what parts.
BASES = "aeoAＡｅ½①ﬁΩ™©☺😀👍가\u1100\u1161ｶ\u0958\u0600\u110bd1 \u0e33"
MARKS = "\u0301\u0308\u0323\u0344\u200d\ufe0f\u20e3\uff9e\u0903\u0e33\u3099\U0001f3fd\U0001e944"
PARTS = "\r\n\t\x00\u200b\u00ad\u2028\ufeff"
# Of Indic scripts: consonants, some of which become something, and what links them to the next.
CONSONANTS = "\u0915\u0958\u095f\u09a1\u09dc\u0a95\u0b5c\u0c15\u0d15\u1780\u1b13\U00011103"
LINKERS = "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u17d2\u1b44\U00011133"


def table(rule):
    """The table of one of SentencePiece's rules."""
    data = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc abd", "bcd"] * 9), model_writer=data, vocab_size=10,
        model_type="unigram", normalization_rule_name=rule, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(data.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


@pytest.fixture(scope="module", params=["nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
def both(request):
    """(our function, the reference's), list of str -> list of str."""
    data = table(request.param)
    node = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
    ours = normalizer.from_json(node, "here").of_texts
    ours = tf.function(ours, [tf.TensorSpec([None], tf.string)], autograph=False)
    theirs = hf.normalizers.Precompiled(data).normalize_str

    def of_ours(texts):
        return [text.decode() for text in ours(tf.constant(texts, tf.string)).numpy()]

    return of_ours, lambda texts: [theirs(text) for text in texts]


def check(both, texts):
    ours, theirs = both[0](texts), both[1](texts)
    for text, found, expected in zip(texts, ours, theirs, strict=True):
        assert found == expected, ascii(text)


def test_every_code_point(both):
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    check(both, ["".join(chars[i::97]) for i in range(97)])
    check(both, [char + "\u0301x" for char in chars[:0x3400]])
    check(both, ["e" + char for char in chars[:0x3400]])


def test_clusters(both):
    rng = random.Random(3)
    chars = BASES * 2 + MARKS * 4 + PARTS
    texts = ["".join(rng.choices(chars, k=rng.randrange(12))) for _ in range(6000)]
    check(both, ["", *texts])
    assert both[0]([]) == []


def test_conjuncts(both):
    rng = random.Random(4)
    pools = (CONSONANTS, LINKERS, "\u0301\u0308", "\u0301\u093c\u200d\u200c\u0903", "a\n\u0600☺")
    weights = (2, 1, 1, 1, 1)
    texts = [
        "".join(map(rng.choice, rng.choices(pools, weights, k=rng.randrange(12))))
        for _ in range(8000)
    ]
    check(both, texts)
    assert both[0](["\u0915\u094d\u0958\u0301"]) == ["\u0915\u094d\u0915\u093c\u0301"]


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=20) | st.text(BASES + MARKS)))
@settings(max_examples=60, deadline=None)
def test_property_any_text(both, texts):
    check(both, texts)


def test_classes():
    classes = unicode_data.clusters()
    expected = {
        "\u0301": precompiled.EXTEND, "\u200d": precompiled.JOINER, "\u0903": precompiled.SPACING,
        "\n": precompiled.CONTROL, "\u0600": precompiled.PREPEND, "\u263a": precompiled.PICTURE,
        "\U0001f3fd": precompiled.EXTEND, "\u0915": precompiled.CONSONANT,
        "\u094d": precompiled.LINKER, "\u200c": precompiled.NON_JOINER,
    }  # fmt: skip
    assert {char: classes[ord(char)] for char in expected} == expected
    assert ord("a") not in classes


@pytest.mark.parametrize("key", ["\u1100", "한", "©"])
def test_keys_whose_clusters_are_not_told_apart_are_refused(key):
    with pytest.raises(ValueError, match=r"^here: normalizer Precompiled with the key"):
        precompiled.Precompiled({key: "x"}, "here")


def test_an_empty_table_and_a_damaged_one():
    def step(data):
        text = base64.b64encode(data).decode()
        return normalizer.from_json({"type": "Precompiled", "precompiled_charsmap": text}, "here")

    assert step(b"").of_texts(tf.constant(["é"])).numpy().tolist() == ["é".encode()]
    with pytest.raises(ValueError, match=r"^here: normalizer Precompiled: damaged table"):
        step(b"\x04\0\0\0")
