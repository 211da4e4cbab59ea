"""From rows of tokens to a padded batch."""

import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras import preprocessing


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
