"""Which tokens are hidden."""

import numpy as np
import pytest

from gpt_keras import tokenizers
from gpt_keras.masking import Masking, ordinary_tokens, word_starts

V, MASK, SPECIAL = 50, 4, [0, 1, 4]
ORDINARY = np.isin(np.arange(V), SPECIAL, invert=True)
ROW = np.array([1, *np.random.default_rng(0).integers(5, V, 98), 0])


def many(masking, row=ROW, count=300):
    return [masking(row, np.random.default_rng([7, i])) for i in range(count)]


def test_shares_of_what_is_asked_for():
    masking = Masking(MASK, 0.15, ORDINARY)
    runs, seen = many(masking), np.zeros(len(ROW))
    for masked, places in runs:
        assert len(places) == 15 == masking.places(len(ROW))
        assert np.all(np.diff(places) > 0)
        others = np.delete(np.arange(len(ROW)), places)
        np.testing.assert_array_equal(masked[others], ROW[others])
        assert ORDINARY[ROW[places]].all()
        assert not np.isin(masked[places], [0, 1]).any()
        seen[places] += 1
    asked = np.concatenate([masked[places] for masked, places in runs])
    true = np.concatenate([ROW[places] for _, places in runs])
    assert np.mean(asked == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(asked == true) == pytest.approx(0.1 + 0.1 / V, abs=0.015)
    assert seen[1:-1].min() > 20  # of 45 on average


def test_the_same_of_the_same_seed_and_rows_that_have_nothing():
    masking = Masking(MASK, 0.15, ORDINARY)
    first, again = (masking(ROW, np.random.default_rng(3)) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    masked, places = masking(np.array([1, 0]), np.random.default_rng(0))
    assert (masked.tolist(), places.tolist()) == ([1, 0], [])
    assert len(masking(np.array([1, 9, 0]), np.random.default_rng(0))[1]) == 1


def test_whole_words_or_none():
    begins = np.arange(V) % 3 != 0  # every third token goes on with a word
    masking = Masking(MASK, 0.3, ORDINARY, begins)
    row = np.array([1, 6, 9, 7, 8, 12, 15, 0, 18, 5, 10, 11, 13, 14, 16, 17, 0])
    words = [{1, 2}, {3}, {4, 5, 6}, {8}, *({i} for i in range(9, 16))]
    seen = set()
    for _, places in many(masking, row):
        assert len(places) <= masking.places(len(row)) == 5
        assert len(places) >= 3
        rest = set(places)
        for i, word in enumerate(words):
            assert word <= rest or not word & rest
            seen |= {i} if word <= rest else set()
    assert seen == set(range(len(words)))


def test_words_of_tokenizers():
    bpe = tokenizers.train_byte_level_bpe(["low lower, lowest. 低"] * 9, 300, ["<e>", "<mask>"])
    starts, tokens = word_starts(bpe, 310), bpe.tokenize(["low, lower 低"])[0].numpy()
    texts = [bpe.token_bytes[int(t)].numpy() for t in tokens]
    for text, token in zip(texts, tokens, strict=True):
        assert starts[token] == (text[:1] in b" ," or text[0] == 0xE4), text
    ordinary = ordinary_tokens(bpe, 310)
    assert not ordinary[:2].any()
    assert ordinary[2 : bpe.vocab_size].all()
    assert not ordinary[bpe.vocab_size :].any()
