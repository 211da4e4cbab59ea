"""From rows of tokens to a padded batch."""

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers as hf

import gpt_keras
from gpt_keras import preprocessing, tokenizers

SENTENCES = [
    "The cat sat on the mat",
    "",
    "a",
    "naïve 🙂 cats " * 5,
    "今天天气很好。",
    "the mat. " * 3,
]


def test_pad():
    batch = preprocessing.pad(tf.ragged.constant([[1, 2, 3], [], [4]], tf.int32), 9)
    assert batch.token_ids.numpy().tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert batch.lengths.numpy().tolist() == [3, 1, 1]
    assert batch.lengths.dtype == tf.int32
    assert batch.padding_mask.numpy().tolist() == [
        [True, True, True], [True, False, False], [True, False, False],
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [0, 2])
def test_without_tokens_there_is_a_column(rows):
    empty = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), [0] * rows)
    batch = preprocessing.pad(empty, 9)
    assert batch.token_ids.shape == (rows, 1)
    assert batch.lengths.numpy().tolist() == [1] * rows


@pytest.mark.parametrize(
    ("tokens", "filler", "can_be_empty"),
    [
        ({"bos_token_id": 1, "eos_token_ids": (2, 3), "pad_token_id": 4}, 1, True),
        ({"eos_token_ids": (2, 3), "pad_token_id": 4}, 2, True),
        ({"pad_token_id": 4}, 4, False),
        ({}, 0, False),
    ],
)
def test_filler(tiny, tokens, filler, can_be_empty):
    fields = {"bos_token_id": None, "eos_token_ids": (), "pad_token_id": None, **tokens}
    config = tiny.replace(**fields)
    assert isinstance(config, gpt_keras.GPTConfig)
    assert preprocessing.filler(config) == filler
    assert preprocessing.can_be_empty(config) is can_be_empty


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(ours, Hugging Face's) of a tokenizer that puts BERT's special tokens around texts."""
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["[CLS]", "[SEP]"],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(SENTENCES * 3, trainer)
    theirs.post_processor = hf.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    path = tmp_path_factory.mktemp("tokenizer")
    theirs.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({}))
    return tokenizers.load(path), theirs


@pytest.mark.parametrize("max_length", [4, 5, 9, 12, 13, 100])
def test_encode_is_hugging_faces(both, max_length):
    ours, theirs = both
    theirs.enable_truncation(max_length, strategy="longest_first")
    found = preprocessing.encode(SENTENCES, ours, max_length, 7, with_offsets=True)
    expected = [theirs.encode(text) for text in SENTENCES]
    assert found.tokens.to_list() == [one.ids for one in expected]
    assert found.types.to_list() == [one.type_ids for one in expected]
    assert found.truncated.numpy().tolist() == [bool(one.overflowing) for one in expected]
    check_offsets(found.offsets, expected, SENTENCES)
    pairs = list(itertools.product(SENTENCES, SENTENCES))
    first, second = zip(*pairs, strict=True)
    found = preprocessing.encode(first, ours, max_length, 7, second, with_offsets=True)
    expected = [theirs.encode(*pair) for pair in pairs]
    assert found.tokens.to_list() == [one.ids for one in expected]
    assert found.types.to_list() == [one.type_ids for one in expected]
    check_offsets(found.offsets, expected, first, second)
    theirs.no_truncation()
    lengths = np.array([len(theirs.encode(*pair)) for pair in pairs])
    assert found.truncated.numpy().tolist() == (lengths > max_length).tolist()


def check_offsets(offsets, expected, *texts):
    """Equal to the reference's, which are in characters."""
    rows = zip(*(column.to_list() for column in offsets), expected, *texts, strict=True)
    for starts, ends, text_ids, one, *given in rows:
        assert text_ids == [-1 if i is None else i for i in one.sequence_ids]
        wanted = [
            tuple(len(given[max(i, 0)][:place].encode()) for place in pair)
            for pair, i in zip(one.offsets, text_ids, strict=True)
        ]
        assert [*zip(starts, ends, strict=True)] == wanted


def test_encode_in_pieces_is_encode(both, monkeypatch):
    ours, _ = both
    monkeypatch.setattr(preprocessing, "CHUNK_BYTES", 30)
    for pairs in (None, SENTENCES[::-1]):
        expected = preprocessing.encode(SENTENCES, ours, 9, 7, pairs, with_offsets=True)
        found = preprocessing.encode_all(SENTENCES, ours, 9, 7, pairs, with_offsets=True)
        for name in preprocessing.Offsets._fields:
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected.offsets, name).values
            )
        np.testing.assert_array_equal(found.values, expected.tokens.values)
        np.testing.assert_array_equal(found.types, expected.types.values)
        np.testing.assert_array_equal(found.row_splits, expected.tokens.row_splits)
        assert found.num_truncated == expected.truncated.numpy().sum()
    assert preprocessing.encode_all(SENTENCES, ours, 9, 7).starts is None
    nothing = preprocessing.encode_all([], ours, 9, 7)
    assert (len(nothing.values), nothing.row_splits.tolist()) == (0, [0])


def test_no_room_for_a_text(both):
    with pytest.raises(ValueError, match="--max_length=2: the tokenizer adds 2 special tokens"):
        preprocessing.encode(["a"], both[0], 2, 7)


def test_an_empty_text_without_special_tokens_is_a_filler():
    plain = tokenizers.train_byte_level_bpe(["the cat sat"] * 3, 270)
    found = preprocessing.encode(["the cat", ""], plain, 9, 7)
    assert found.tokens.to_list() == [plain.tokenize(["the cat"]).to_list()[0], [7]]
    assert found.types.to_list()[1] == [0]
