"""Merges in rounds, against merging one pair after the other."""

import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras.tokenizers.merges import Merges

BYTES = "abc"


def random_merges(rng, count):
    """(vocab, merges): random pairs of tokens so far, in a random order of ranks now and then.

    Then a pair may have a better rank than the one that makes its parts, and several pairs may make
    the same token.
    """
    tokens, merges = list(BYTES), []
    for _ in range(count):
        pair = (rng.choice(tokens), rng.choice(tokens))
        if pair not in merges and len("".join(pair)) < 9:
            merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
    if rng.random() < 0.5:
        rng.shuffle(merges)
    rng.shuffle(tokens)
    return {token: i for i, token in enumerate(tokens)}, merges


def merge(merges, vocab, words):
    symbols = tf.constant([vocab[c] for word in words for c in word], tf.int32)
    owners = np.repeat(np.arange(len(words)), [len(word) for word in words])
    symbols, owners = tf.function(merges)(symbols, tf.constant(owners, tf.int64))
    rows = [[] for _ in words]
    for symbol, owner in zip(symbols.numpy().tolist(), owners.numpy(), strict=True):
        rows[owner].append(symbol)
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_random_merges(seed):
    rng = random.Random(seed)
    vocab, merges = random_merges(rng, rng.randrange(2, 40))
    reference = hf.models.BPE(vocab, merges)
    words = ["".join(rng.choices(BYTES, k=rng.randrange(1, 40))) for _ in range(300)]
    words += ["a" * n for n in range(1, 20)] + ["ab" * 7, "aab" * 7, "aba" * 50]
    ours = Merges(
        [(vocab[left], vocab[right]) for left, right in merges],
        [vocab[left + right] for left, right in merges],
        len(vocab),
    )
    rows = merge(ours, vocab, words)
    for word, row in zip(words, rows, strict=True):
        assert row == [token.id for token in reference.tokenize(word)], (word, merges)


def test_one_rank_at_a_time_would_take_thousands_of_rounds():
    """A long word of one letter, and one of many."""
    rounds = []

    class Counting(Merges):
        def _round(self, *state):
            tf.py_function(lambda: rounds.append(1), [], [])
            return super()._round(*state)

    rng = random.Random(0)
    letters = [chr(97 + i) for i in range(26)]
    tokens, merges = list(letters), []
    while len(tokens) < 3000:
        pair = (rng.choice(tokens), rng.choice(tokens[: 26 + len(tokens) // 4]))
        if "".join(pair) not in tokens:
            merges.append(pair)
            tokens.append("".join(pair))
    vocab = {token: i for i, token in enumerate(tokens)}
    ours = Counting(
        [(vocab[a], vocab[b]) for a, b in merges], [vocab[a + b] for a, b in merges], len(vocab)
    )
    words = ["a" * 10000, "".join(rng.choices(letters, k=20000))]
    rows = merge(ours, vocab, words)
    reference = hf.models.BPE(vocab, merges)
    assert rows == [[token.id for token in reference.tokenize(word)] for word in words]
    assert len(rounds) < 100


def test_nothing_to_merge():
    ours = Merges([], [], 3)
    assert merge(ours, {"a": 0, "b": 2}, ["ab", "b"]) == [[0, 2], [2]]
    ours = Merges([(0, 1)], [2], 3)
    assert merge(ours, {"a": 0}, []) == []
