"""Stop strings against the plainest loop: the whole text anew after every token."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import stop_strings, tokenizers
from gpt_keras.stop_strings import NEVER, StopStrings

CORPUS = ["the cat sat on the mat, a dog\n\n今天天气很好。 Naïve café 🙂🙂"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_byte_level_bpe(CORPUS, 330, ("<|end|>",))


@pytest.fixture(scope="module")
def functions(tokenizer):
    """`follow_all` and `cut`, each as one graph."""
    ids, vector = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
    strings, tails = tf.TensorSpec([None, None], tf.string), tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[strings, tails, vector, ids, vector, vector], autograph=False)
    def follow_all(strings, *state):
        return StopStrings(strings, tokenizer).follow_all(*state)

    @tf.function(input_signature=[strings, tails, ids, vector], autograph=False)
    def cut(strings, *answers):
        return StopStrings(strings, tokenizer).cut(*answers)

    return follow_all, cut


def text_of(tokenizer, tokens):
    return tokenizer.detokenize([tokens], skip_special_tokens=True).numpy()[0]


def naive(tokenizer, tokens, strings):
    """Number of tokens and text of an answer."""
    for n in range(1, len(tokens) + 1):
        text = text_of(tokenizer, tokens[:n])
        places = [text.find(string) for string in strings if string in text]
        if places:
            return n, text[: min(places)]
    return None, text_of(tokenizer, tokens)


def random_answers(tokenizer, rng, rows, width):
    """Tokens (rows, width), some of texts of the corpus and some of no text at all."""
    known = tokenizer.tokenize([CORPUS[0] * 3]).to_list()[0]
    starts = rng.integers(0, len(known) - width, rows)
    tokens = np.array([known[start : start + width] for start in starts], "int32")
    other = rng.integers(0, tokenizer.vocab_size, tokens.shape)
    return np.where(rng.random(tokens.shape) < 0.3, other, tokens).astype("int32")


def random_strings(rng, text):
    """A few strings, most of them somewhere in the text, wherever its tokens end."""
    strings = []
    for _ in range(rng.integers(0, 4)):
        start, size = rng.integers(0, len(text)), rng.integers(1, 12)
        strings.append(text[start : start + size] if rng.random() < 0.8 else b"\n\n")
    return strings


@pytest.mark.parametrize("seed", range(12))
def test_found_where_the_plainest_loop_finds_them(tokenizer, functions, seed):
    follow_all, cut = functions
    rng = np.random.default_rng(seed)
    rows, width = 8, 20
    tokens = random_answers(tokenizer, rng, rows, width)
    limits = rng.integers(0, width + 1, rows)
    texts = [text_of(tokenizer, list(row)) for row in tokens]
    lists = [random_strings(rng, text) for text in texts]
    most = max(map(len, lists))
    strings = np.array([s + [b""] * (most - len(s)) for s in lists], object).reshape(rows, most)
    tail, count, start = tf.fill([rows], ""), tf.fill([rows], NEVER), np.zeros(rows, "int32")
    while (start < limits).any():  # some tokens at a time, as many as it happens
        end = np.minimum(start + rng.integers(0, 4, rows), limits).astype("int32")
        tail, count = follow_all(strings, tail, count, tokens, start, end)
        start = end
    lengths = np.minimum(count, limits).astype("int32")
    answers = [text_of(tokenizer, list(row[:n])) for row, n in zip(tokens, lengths, strict=True)]
    answers = cut(strings, answers, tokens, lengths).numpy()
    for row in range(rows):
        n, text = naive(tokenizer, tokens[row, : limits[row]].tolist(), lists[row])
        assert count[row] == (NEVER if n is None else n)
        assert answers[row] == text


def test_a_string_of_the_longest_size_over_many_tokens(tokenizer, functions):
    follow_all, _ = functions
    tokens = tokenizer.tokenize(["☃" * 200]).to_tensor().numpy()  # a byte each
    string = ("☃" * 90).encode()[1 : 1 + stop_strings.LONGEST]
    ends = np.array([tokens.shape[1]], "int32")
    _, count = follow_all([[string]], [b""], [NEVER], tokens, np.zeros(1, "int32"), ends)
    assert count[0] == 1 + stop_strings.LONGEST


def test_special_tokens_are_no_text(tokenizer, functions):
    follow_all, _ = functions
    a, end = tokenizer.token_to_id("a"), tokenizer.special_tokens["<|end|>"]
    tokens, strings = np.array([[a, end, a]], "int32"), [["<|end|>", "aa"]]
    _, count = follow_all(strings, [b""], [NEVER], tokens, [0], [3])
    assert count[0] == 3


def test_lists_of_strings():
    assert stop_strings.checked(["é"], 2).tolist() == [["é".encode()]] * 2
    assert stop_strings.checked([["a", "b"], [], ["\n"]], 3).tolist() == [
        [b"a", b"b"], [b"", b""], [b"\n", b""],
    ]  # fmt: skip
    assert stop_strings.checked([], 2).shape == (2, 0)
    assert stop_strings.checked([], 0).shape == (0, 0)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("ab", "stop='ab': expected a list of texts, or one such list for each prompt"),
        ([1], "expected a list of texts, or one such list"),
        (["a", ["b"]], "expected a list of texts, or one such list"),
        ([["a"]], "expected 2 lists, one for each prompt, or one list of texts for all"),
        ([""], "expected at most 16 strings of 1 to 256 bytes"),
        (["é" * 129], "expected at most 16 strings of 1 to 256 bytes"),
        ([["a"] * 17, []], "expected at most 16 strings of 1 to 256 bytes"),
    ],
)
def test_what_is_no_list_of_strings(stop, message):
    with pytest.raises(ValueError, match=message):
        stop_strings.checked(stop, 2)
