"""Where in a text tokens stand, against Hugging Face's and SentencePiece's."""

import base64
import copy
import io
import json

import pytest
import sentencepiece
import tensorflow as tf
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from export import stock_ops
from gpt_keras import tokenizers
from gpt_keras.tokenizers import sentence_piece, utf8

CHINESE = "这本书很好看，作者的文笔也不错。我喜欢！"
TEXTS = [
    "", " ", "  ", "Hello world", " two  blanks ", "\ttab\nand line\n", CHINESE, "é",
    "naïve CAFÉ 🙂👍🏽!", "e\u0301x\u0323\u0307 \u1e69 İ ẞ ﬁ ½",
    "각 한국어 \u1100\u1161\u11a8", "☃☃ ab☃cd",
    "x\0y\ufffdz\u200d", "[CLS] hi [SEP]x", "a <extra>  b", "<|endoftext|> then", "▁x ▁", "ab.cab.",
    "don't we'll", "a" * 101,
]  # fmt: skip
BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
BERT = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
    "strip_accents": None, "lowercase": True,
}  # fmt: skip
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def added(fields, **options):
    """The fields with an added token of these options."""
    token = {
        "id": len(fields["model"]["vocab"]),
        "content": "<extra>",
        "special": False,
        "single_word": False,
    }
    token |= {"lstrip": False, "rstrip": False, "normalized": False, **options}
    return {"added_tokens": [*fields["added_tokens"], token]}


def sequence(*nodes):
    return {"type": "Sequence", "normalizers": [*nodes]}


def load(fields):
    """(our tokenizer, the reference)."""
    text = json.dumps(fields)
    return tokenizers.from_text(text), hf.Tokenizer.from_str(text)


def check(ours, reference, texts, allow_special=True):
    """Equal to the reference, in bytes and in characters."""
    reference.encode_special_tokens = not allow_special
    got = ours.tokenize_with_offsets(texts, allow_special=allow_special)
    assert [x.dtype for x in got] == [tf.int32] * 3
    rows = [x.to_list() for x in got]
    chars = [utf8.char_positions(tf.constant(texts), x) for x in got[1:]]
    back = [utf8.byte_positions(tf.constant(texts), x).to_list() for x in chars]
    assert back == rows[1:]
    chars = [x.to_list() for x in chars]
    expected = reference.encode_batch(texts, add_special_tokens=False)
    for text, ids, begins, ends, wanted in zip(texts, rows[0], *chars, expected, strict=True):
        assert ids == wanted.ids, repr(text)
        assert [*zip(begins, ends, strict=True)] == wanted.offsets, (repr(text), wanted.tokens)


@pytest.fixture(scope="module")
def word_piece(english):
    """Fields of a `tokenizer.json` of BERT's kind."""
    model = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    model.normalizer = hf.normalizers.BertNormalizer()
    model.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    model.decoder = hf.decoders.WordPiece()
    trainer = hf.trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], limit_alphabet=90,
        show_progress=False,
    )  # fmt: skip
    model.train_from_iterator([*english[:2], *[CHINESE] * 9], trainer)
    return json.loads(model.to_str())


@pytest.fixture(scope="module")
def word_piece_pair(word_piece):
    return load(word_piece)


@pytest.fixture(scope="module")
def chars(english):
    """Fields of a `tokenizer.json` of BPE of characters, with bytes for the others."""
    model = hf.Tokenizer(hf.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    model.normalizer = hf.normalizers.Replace(" ", "▁")
    trainer = hf.trainers.BpeTrainer(
        vocab_size=900, show_progress=False, limit_alphabet=90,
        special_tokens=["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )  # fmt: skip
    # By lines: the trainer takes each text for one word, and a long one takes it a long time.
    lines = [line for text in english[:2] for line in text.splitlines(keepends=True)]
    model.train_from_iterator([*lines, *[CHINESE] * 9], trainer)
    fields = json.loads(model.to_str())
    fields["added_tokens"] = [t for t in fields["added_tokens"] if "0x" not in t["content"]]
    fields["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}],
    }
    return fields


@pytest.mark.parametrize(
    ("trim", "prefix"), [(None, False), (False, True), (True, False), (True, True)]
)
def test_byte_level(fields, random_texts, trim, prefix):
    post = None if trim is None else BYTE_LEVEL | {"trim_offsets": trim}
    post = post and post | {"add_prefix_space": prefix}
    changes = {
        "pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": prefix}, "post_processor": post
    }  # fmt: skip
    texts = [*TEXTS, *random_texts(300, seed=1, extra=["  ", "<|im_start|>"])]
    check(*load(fields | changes), texts)


NORMALIZERS = [
    {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "_"}, {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"String": "ab."}, "content": "\\xyz"},
    {"type": "Replace", "pattern": {"String": "e"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "é"},
    sequence({"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "NFC"}),
]  # fmt: skip


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=str)
def test_normalizers(fields, random_texts, normalizer):
    check(*load(fields | {"normalizer": normalizer}), [*TEXTS, *random_texts(300, seed=2)])


@pytest.mark.parametrize(
    "options",
    [{"lstrip": True, "rstrip": True}, {"lstrip": True}, {"rstrip": True}, {"single_word": True},
     {"normalized": True}, {"normalized": True, "lstrip": True, "rstrip": True}],
    ids=str,
)  # fmt: skip
def test_added_tokens(fields, random_texts, options):
    texts = [*TEXTS, *random_texts(200, seed=3, extra=["<extra>", "<Extra>", "<|im_start|>", " "])]
    changes = added(fields, **options) | {
        "normalizer": sequence({"type": "NFD"}, {"type": "Lowercase"})
    }
    both = load(fields | changes)
    check(*both, texts)
    check(*both, texts, allow_special=False)


@pytest.mark.parametrize(("lower", "accents"), [(False, None), (True, None), (False, True)])
def test_word_piece(word_piece, random_texts, english, lower, accents):
    changes = {"normalizer": BERT | {"lowercase": lower, "strip_accents": accents}}
    texts = [*TEXTS, english[3][:5000], *random_texts(300, seed=4, extra=["[SEP]", "the"])]
    check(*load(word_piece | changes), texts)


@pytest.mark.parametrize(
    ("scheme", "fallback", "fuse"),
    [("always", True, True), ("first", False, True), ("never", False, False)],
)
def test_metaspace(chars, random_texts, english, scheme, fallback, fuse):
    changed = copy.deepcopy(chars) | {"normalizer": None}
    changed["model"] |= {"byte_fallback": fallback, "fuse_unk": fuse}
    changed["pre_tokenizer"] = METASPACE | {"prepend_scheme": scheme}
    texts = [*TEXTS, english[3][:5000], *random_texts(300, seed=5, extra=["<s>", "the", "▁"])]
    check(*load(changed), texts)


def test_a_blank_before_the_text_and_one_word(chars, random_texts):
    """As the converter of SentencePiece models writes it."""
    prefix = {"type": "Prepend", "prepend": "▁"}
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    changes = {"normalizer": sequence(prefix, marks), "pre_tokenizer": None}
    check(*load(chars | changes), [*TEXTS, *random_texts(300, seed=6, extra=["<s>", "the "])])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text(word_piece_pair, texts):
    check(*word_piece_pair, texts)


@pytest.fixture(scope="module")
def unigram(english):
    """Fields of a `tokenizer.json` with a unigram model and the table of SentencePiece."""
    model = hf.Tokenizer(hf.models.Unigram())
    model.pre_tokenizer = hf.pre_tokenizers.Metaspace()
    model.decoder = hf.decoders.Metaspace()
    trainer = hf.trainers.UnigramTrainer(
        vocab_size=500, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "</s>"]
    )
    model.train_from_iterator([*english[:2], *[CHINESE] * 9], trainer)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(english[1].split("\n")), model_writer=written, vocab_size=200,
        model_type="unigram", normalization_rule_name="nmt_nfkc", hard_vocab_limit=False,
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    table = sentence_piece.parse(written.getvalue(), "here").normalizer_spec.precompiled_charsmap
    node = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    return json.loads(model.to_str()) | {"normalizer": node}


@pytest.mark.parametrize("fallback", [False, True])
def test_unigram(unigram, random_texts, english, fallback):
    changed = copy.deepcopy(unigram)
    if fallback:
        changed["model"]["byte_fallback"] = True
        changed["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    texts = [*TEXTS, english[3][:5000], *random_texts(200, seed=7, extra=["</s>", "the ", "▁"])]
    # The reference loses its place behind a character that vanishes, or that follows what does.
    normalize = hf.Tokenizer.from_str(json.dumps(unigram)).normalizer.normalize_str
    texts = [t for t in texts if all(normalize(char) for char in t)]
    assert len(texts) > 50
    check(*load(changed), texts)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentence_piece(english, kind):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*english[1].split("\n"), *[CHINESE] * 9]), model_writer=written,
        vocab_size=700, model_type=kind, normalization_rule_name="nmt_nfkc", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    ours = sentence_piece.from_bytes(written.getvalue())
    assert isinstance(ours, tokenizers.SentencePiece)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids, starts, ends = (x.to_list() for x in ours.tokenize_with_offsets(TEXTS))
    for row, text in enumerate(TEXTS):
        pieces = theirs.encode(text, return_type="proto").pieces
        if ids[row] != [piece.id for piece in pieces]:
            continue  # of equally likely ways to cut a text
        wanted = [(piece.begin, piece.end) for piece in pieces]
        assert [*zip(starts[row], ends[row], strict=True)] == wanted, (text, pieces)


def test_what_is_not_utf8_counts_as_one_character(fields):
    ours = tokenizers.from_text(json.dumps(fields))
    texts = [b"ab\xff\xe4\xb8 c", "中".encode(), b"\xf0\x9f"]
    ids, starts, ends = ours.tokenize_with_offsets(texts)
    assert ids.to_list() == ours.tokenize(texts).to_list()
    for row, text in enumerate(texts):
        covered = {*range(len(text))}
        for start, end in zip(starts[row].numpy(), ends[row].numpy(), strict=True):
            assert 0 <= start < end <= len(text)
            covered -= {*range(start, end)}
        assert not covered
    assert utf8.boundaries(tf.constant(texts)).to_list()[0] == [0, 1, 2, 3, 5, 6, 7]


def test_merges_of_the_unknown_token_are_refused(chars):
    changed = copy.deepcopy(chars)
    changed["model"] |= {"byte_fallback": False}
    changed["model"]["vocab"] |= {"<unk><unk>": 5000}
    changed["model"]["merges"] += [["<unk>", "<unk>"]]
    with pytest.raises(ValueError, match="offsets with merges of the unknown token '<unk>'"):
        tokenizers.from_text(json.dumps(changed)).tokenize_with_offsets(["x"])


class Served(tf.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, texts):
        _, starts, ends = self.tokenizer.tokenize_with_offsets(texts)
        return {"starts": starts.values, "ends": ends.values}


@pytest.mark.parametrize("kind", ["byte_level", "word_piece", "chars"])
def test_in_a_saved_model(request, tmp_path, kind):
    fields = request.getfixturevalue("fields" if kind == "byte_level" else kind)
    served = Served(load(fields)[0])
    tf.saved_model.save(served, str(tmp_path), signatures=served.serve)
    assert stock_ops.check(stock_ops.read(tmp_path)) == []
    got = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](tf.constant(TEXTS))
    _, starts, ends = served.tokenizer.tokenize_with_offsets(TEXTS)
    assert got["starts"].numpy().tolist() == starts.values.numpy().tolist()
    assert got["ends"].numpy().tolist() == ends.values.numpy().tolist()
