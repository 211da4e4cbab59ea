"""WordPiece, against Hugging Face's."""

import copy
import json

import pytest
import tensorflow as tf
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_keras import tokenizers

CHINESE = "这本书很好看，作者的文笔也不错。我喜欢！"
TEXTS = [
    "", " ", "Hello world", "don't stop . ! isn't it ?", CHINESE, "é e\u0301 İ ẞ Σ", "a" * 101,
    "a" * 100, "☃", "ab☃cd", "x\0y\ufffdz\u200d", "[CLS] hi [SEP]", "naïve CAFÉ", "tab\tand\u3000x",
    "$5.00 ~ `x` ‘y’", "<extra> [MASK]  [mask]",
]  # fmt: skip
SEQUENCE = {
    "type": "Sequence",
    "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}],
}


def bert(clean=True, chinese=True, accents=None, lower=True):
    return {
        "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese,
        "strip_accents": accents, "lowercase": lower,
    }  # fmt: skip


@pytest.fixture(scope="module")
def base(english):
    """Fields of a `tokenizer.json` with 900 tokens."""
    model = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    model.normalizer = hf.normalizers.BertNormalizer()
    model.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    model.decoder = hf.decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = hf.trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=special, limit_alphabet=150, show_progress=False
    )
    model.train_from_iterator([*english[:3], *[CHINESE] * 9], trainer)
    model.add_tokens([hf.AddedToken("<Extra>", normalized=True)])
    return json.loads(model.to_str())


def load(base, **changes):
    text = json.dumps(copy.deepcopy(base) | changes)
    return tokenizers.from_text(text), hf.Tokenizer.from_str(text)


def check_texts(ours, reference, ids):
    for skip in (False, True):
        got = ours.detokenize(ids, skip_special_tokens=skip).numpy()
        expected = reference.decode_batch(ids.to_list(), skip_special_tokens=skip)
        assert [text.decode() for text in got] == expected


@pytest.mark.parametrize(
    "normalizer",
    [bert(), bert(lower=False), bert(accents=True, lower=False), bert(accents=False),
     bert(clean=False, chinese=False), SEQUENCE, None],
    ids=str,
)  # fmt: skip
def test_ids_and_texts(base, normalizer, random_texts, check_ids, english):
    ours, reference = load(base, normalizer=normalizer)
    assert isinstance(ours, tokenizers.WordPiece)
    texts = [*TEXTS, english[4][:20000], *random_texts(800, seed=1, extra=["[SEP]", "the", "'s"])]
    ids = check_ids(ours, reference, texts)
    check_texts(ours, reference, ids)
    check_ids(ours, reference, texts, allow_special=False)


def test_without_added_tokens_in_normalized_texts(base, check_ids):
    """As BERT's own files are: nothing looks at what the normalizer gives but the pre-tokenizer."""
    added = [token for token in base["added_tokens"] if not token["normalized"]]
    assert len(added) < len(base["added_tokens"])
    check_ids(*load(base, added_tokens=added), TEXTS)


def test_every_code_point(base, check_ids):
    """Which are white space, punctuation, control characters, Chinese or accents."""
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"a{c}b" for c in chars[i : i + 3000]) for i in range(0, 0x40000, 3000)]
    check_ids(*load(base), [*texts, "a".join(chars[0xE0000:0xE0800])])


@pytest.mark.parametrize("cleanup", [False, True])
def test_decoders(base, cleanup, check_ids):
    ours, reference = load(base, decoder=base["decoder"] | {"cleanup": cleanup})
    texts = ["don't do not , i'm . 's ! n't x", "the.the", "##the the"]
    ids = check_ids(ours, reference, texts)
    check_texts(ours, reference, ids)
    ids = tf.range(ours.vocab_size)[:, tf.newaxis]
    check_texts(ours, reference, tf.RaggedTensor.from_tensor(ids))
    check_texts(ours, reference, tf.RaggedTensor.from_tensor(tf.repeat(ids, 2, axis=1)))


def test_white_space_alone(base, check_ids):
    check_ids(*load(base, pre_tokenizer={"type": "WhitespaceSplit"}), TEXTS)


def test_what_goes_on_after_a_text(base):
    ours, _ = load(base)
    ids = ours.tokenize("the the")
    assert ours.detokenize(ids).numpy().tolist() == [b"the the"]
    assert ours.detokenize(ids, continues=True).numpy().tolist() == [b" the the"]


@pytest.fixture(scope="module")
def loaded(base):
    return load(base)


ALPHABET = st.characters(codec="utf-8") | st.sampled_from(" .'ethS\n书这🙂\u0301\0É")


@given(texts=st.lists(st.text(ALPHABET, max_size=30), max_size=8))
@settings(max_examples=100, deadline=None)
def test_property_any_text(loaded, texts):
    ours, reference = loaded
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    assert ours.tokenize(texts).to_list() == expected


def test_saved_model(loaded, check_served):
    check_served(loaded[0], TEXTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder": None}, "decoder {}: unsupported; supported is WordPiece with the prefix '##'"),
        ({"decoder": {"type": "WordPiece", "prefix": "@@", "cleanup": True}}, "decoder .*@@"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "unsupported pre-tokenizer .*Whitespace"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(base, change, words):
    with pytest.raises(ValueError, match=f"^here: .*{words}"):
        tokenizers.from_text(json.dumps(base | change), where="here")


def test_another_class(base):
    words = "WordPieceModel, where ByteLevelBPE has BPEModel: use gpt_keras.tokenizers.load"
    with pytest.raises(ValueError, match=f"^here: {words}"):
        tokenizers.ByteLevelBPE(json.dumps(base), where="here")
