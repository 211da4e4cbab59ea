import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.features import LanguageFeatures
from trainers.packing import PACKINGS, pack

SEQUENCES = st.lists(st.integers(2, 50), min_size=1, max_size=40)


def features(lengths, seed=0):
    """Every token is another; which are targets is random, but for the first of a sequence."""
    splits = np.cumsum([0, *lengths])
    targets = np.random.default_rng(seed).random(splits[-1]) < 0.7
    targets[splits[:-1]] = False
    return LanguageFeatures(np.arange(splits[-1], dtype=np.int32), splits, targets, 0)


def fill(rows):
    """token_ids, segment_ids and loss_mask, each (R, T); padding is -1."""
    shape = (rows.num_rows, rows.length)
    arrays = np.full(shape, -1), np.zeros(shape, int), np.zeros(shape)
    for row in range(rows.num_rows):
        rows.fill(row, *(array[row] for array in arrays))
    return arrays


@pytest.mark.parametrize("packing", PACKINGS)
@given(lengths=SEQUENCES, length=st.integers(2, 24))
def test_no_token_is_lost_mixed_or_predicted_twice(packing, lengths, length):
    data = features(lengths)
    rows = pack(data, length, packing)
    token_ids, segment_ids, loss_mask = fill(rows)

    # Each token is there; those at a cut twice, once to be predicted and once to predict from.
    assert set(token_ids[segment_ids > 0]) == set(data.values)
    assert (token_ids[segment_ids == 0] == -1).all()
    assert rows.num_tokens == (segment_ids > 0).sum()
    # Each target is predicted once, nothing else ever.
    assert sorted(token_ids[loss_mask > 0]) == data.values[data.is_target].tolist()

    sequence_of = np.repeat(np.arange(len(lengths)), lengths)
    for ids, segments, mask in zip(token_ids, segment_ids, loss_mask, strict=True):
        real = segments > 0
        # Segments are 1, 2, ... from the left, padding comes last.
        assert (np.diff(segments[real]) >= 0).all()
        assert set(segments[real]) == set(range(1, segments.max() + 1))
        assert real[: real.sum()].all()
        for segment in range(1, segments.max() + 1):
            piece = ids[segments == segment]
            assert (np.diff(piece) == 1).all()  # a stretch without gaps ...
            assert len(set(sequence_of[piece])) == 1  # ... of one sequence
            assert mask[segments == segment][0] == 0


@given(lengths=SEQUENCES, length=st.integers(2, 24))
def test_concat_pads_the_last_row_alone(lengths, length):
    rows = pack(features(lengths), length, "concat")
    _, segment_ids, _ = fill(rows)
    # One place may stay empty: a piece of one token would have nothing to predict.
    assert ((segment_ids[:-1] == 0).sum(axis=1) <= 1).all()


@given(lengths=SEQUENCES, length=st.integers(2, 24))
def test_best_fit_keeps_whole_what_fits_and_opens_no_needless_row(lengths, length):
    data = features(lengths)
    rows = pack(data, length, "best_fit")
    starts = dict(rows.pieces.tolist())
    for start, size in zip(data.row_splits, lengths, strict=False):
        if size <= length:
            assert starts[start] == size
    # No row was opened for a piece that an earlier row has room for.
    room = length - np.add.reduceat(rows.pieces[:, 1], rows.row_splits[:-1])
    first = rows.pieces[rows.row_splits[:-1], 1]
    for row in range(rows.num_rows):
        assert (room[:row] < first[row]).all()


def test_rows_of_an_example():
    rows = pack(features([3, 2, 9, 4]), 6, "concat")
    token_ids, segment_ids, _ = fill(rows)
    assert token_ids.tolist() == [
        [0, 1, 2, 3, 4, -1],
        [5, 6, 7, 8, 9, 10],
        [10, 11, 12, 13, 14, 15],
        [15, 16, 17, -1, -1, -1],
    ]
    assert segment_ids[0].tolist() == [1, 1, 1, 2, 2, 0]
    rows = pack(features([3, 2, 9, 4]), 6, "best_fit")
    assert fill(rows)[0].tolist() == [
        [5, 6, 7, 8, 9, 10],
        [10, 11, 12, 13, -1, -1],
        [14, 15, 16, 17, 3, 4],
        [0, 1, 2, -1, -1, -1],
    ]


def test_auto_cuts_texts_but_no_answers():
    answers = features([3, 2, 9, 4])  # some of their tokens are no targets
    firsts = np.isin(np.arange(18), answers.row_splits)
    texts = dataclasses.replace(answers, is_target=~firsts)
    for data, packing in ((answers, "best_fit"), (texts, "concat")):
        auto, chosen = fill(pack(data, 6)), fill(pack(data, 6, packing))
        np.testing.assert_array_equal(auto[0], chosen[0])
    assert pack(texts, 6).num_rows != pack(texts, 6, "none").num_rows


def test_bad_arguments():
    with pytest.raises(ValueError, match="packing='tight': give one of auto, concat, "):
        pack(features([3]), 8, "tight")
    with pytest.raises(ValueError, match="max_length=1: rows need 2 tokens"):
        pack(features([3]), 1)
