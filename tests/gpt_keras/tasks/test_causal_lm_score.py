"""`CausalLM.score`: how likely completions are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras import attention, generation, scoring, tokenizers

PAIRS = [
    ("the cat", " sat"),
    ("", "a dog, a dog"),
    ("☃ 今天", "天🙂"),
    ("the cat sat on the mat, a dog", "<|endoftext|>"),
    ("a", "x"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_byte_level_bpe(["the cat sat on the mat, a dog"] * 3, 300)


@pytest.fixture
def model(tiny, tokenizer):
    keras.utils.set_random_seed(2)
    return gpt_keras.CausalLM(tiny.replace(vocab_size=300, bos_token_id=7), tokenizer)


def expected(model, prompt, completion):
    """By the logits of the whole row."""
    before, said = model.tokenizer.tokenize([prompt, completion]).to_list()
    before = before or [7]
    logits = model(np.array([before + said], np.int32))[0].numpy().astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(logits[len(before) - 1 + i, token] for i, token in enumerate(said)), len(said)


# Pieces of a few tokens give the same as all at once.
@pytest.mark.parametrize("piece", [2, 512])
def test_sums_the_tokens_of_the_completion(model, monkeypatch, piece):
    monkeypatch.setattr(attention, "QUERIES", piece)
    monkeypatch.setattr(scoring, "POSITIONS", piece)
    scores = model.score(*zip(*PAIRS, strict=True))
    for row, pair in enumerate(PAIRS):
        logprob, num_tokens = expected(model, *pair)
        assert scores.num_tokens[row] == num_tokens
        np.testing.assert_allclose(scores.logprob[row], logprob, rtol=1e-5, atol=1e-5)
        alone = model.score(*([text] for text in pair))
        np.testing.assert_allclose(alone.logprob[0], scores.logprob[row], rtol=1e-5)
    assert model.score([], []).logprob.shape == (0,)


def test_special_tokens_are_those_of_a_prompt(tiny, tokenizer):
    spec = tokenizer.spec.model
    framed = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        spec.vocab, spec.merges, bos_token_id=7, eos_token_id=9, add_bos_token=True
    )
    model = gpt_keras.CausalLM(tiny.replace(vocab_size=300), framed)
    plain = gpt_keras.CausalLM(tiny.replace(vocab_size=300, bos_token_id=7), framed)
    plain.set_weights(model.get_weights())
    bare = [model.score(["a"], ["b"], add_special_tokens=flag).logprob[0] for flag in (0, 1)]
    assert abs(bare[0] - bare[1]) > 1e-3
    begun = plain.score([""], ["b"], add_special_tokens=False)  # after the token for no text
    np.testing.assert_allclose(model.score([""], ["b"]).logprob, begun.logprob, rtol=1e-5)


def test_a_generated_answer_scores_its_logprob(model):
    prompt = model.tokenizer.tokenize(["the cat"]).to_tensor()
    options = generation.GenerationOptions.make(1, max_new_tokens=6)
    said = generation.generate_tokens(model, prompt, tf.shape(prompt)[1:], options)
    n = int(said.lengths[0])
    row = np.concatenate([prompt[0], said.tokens[0, :n]])[None]
    found = scoring.logprobs(model, row, tf.shape(row)[1:], tf.shape(prompt)[1:])
    np.testing.assert_allclose(found, said.logprob, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        (["a", "b"], ["c"], "1 completions for 2 prompts: give one for each"),
        ("a", ["c"], "expected lists of texts"),
        (["a", "b"], ["c", ""], "completion 1 is empty: there is nothing to score"),
        (["a"], ["☃" * 11], "prompt 0 and its completion have 34 tokens and the context 32"),
    ],
)
def test_refused(model, prompts, completions, message):
    with pytest.raises(ValueError, match=message):
        model.score(prompts, completions)


def test_nothing_to_begin_with(tiny, tokenizer):
    model = gpt_keras.CausalLM(tiny.replace(vocab_size=300, eos_token_ids=()), tokenizer)
    with pytest.raises(ValueError, match="prompt 1 is empty, and no token of this model begins"):
        model.score(["a", ""], ["b", "c"])
