"""Where words are cut between characters that no token holds side by side."""

import itertools

import numpy as np

from gpt_keras.tokenizers.byte_fallback import BYTE_TOKENS
from gpt_keras.tokenizers.char_encoder import CharEncoder
from gpt_keras.tokenizers.tokenizer_json import BPEModel


def test_joined_are_the_pairs_of_tokens_and_hardly_any_other():
    rng = np.random.default_rng(0)
    chars = [chr(code) for code in (*range(97, 123), *range(0x4E00, 0x4E00 + 274))]
    merges = [tuple(chars[i] for i in pair) for pair in rng.integers(0, 300, (4000, 2))]
    merges = list(dict.fromkeys(merges))
    tokens = [*BYTE_TOKENS, *chars, *map("".join, merges)]
    model = BPEModel({token: i for i, token in enumerate(tokens)}, merges, byte_fallback=True)
    encoder = CharEncoder(model, "here")
    pairs = list(itertools.product(chars, chars))
    text = np.array([ord(char) for pair in pairs for char in pair], np.int32)
    joined = encoder.is_joined(text).numpy()[1::2]
    known = set(merges)
    within = np.array([pair in known for pair in pairs])
    assert joined[within].all()
    assert joined[~within].mean() < 0.01  # of those that share a place with two
