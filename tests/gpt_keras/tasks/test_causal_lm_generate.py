"""`CausalLM.generate`: texts in, answers out."""

import keras
import pytest

import gpt_keras
from gpt_keras import tokenizers

PROMPTS = ["the cat", "a dog, a dog", "", "☃"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_byte_level_bpe(["the cat sat on the mat, a dog"] * 3, 300)


@pytest.fixture
def model(tiny, tokenizer):
    keras.utils.set_random_seed(2)
    config = tiny.replace(vocab_size=tokenizer.vocab_size, bos_token_id=0, eos_token_ids=())
    return gpt_keras.CausalLM(config, tokenizer)


def test_a_text_for_each_prompt_without_the_prompt(model):
    answers = model.generate(PROMPTS, max_new_tokens=6)
    assert [type(answer) for answer in answers] == [str] * 4
    assert len(set(answers)) > 1
    assert [model.generate([prompt], max_new_tokens=6)[0] for prompt in PROMPTS] == answers
    assert model.generate(PROMPTS[:1])[0].startswith(answers[0][:3])
    assert model.generate([]) == []


def test_options_for_all_or_for_each(model):
    options = {"temperature": 2.0, "seed": [1, 2, 1], "max_new_tokens": [6, 6, 3]}
    first, other, short = model.generate(["the cat"] * 3, **options)
    assert first != other
    assert first.startswith(short.rstrip("\ufffd"))
    assert model.generate(["the cat"], temperature=2.0, seed=1, max_new_tokens=6) == [first]


def test_stop_strings_end_answers(model):
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": [1, 2, 3, 4]}
    whole = model.generate(PROMPTS, **options)
    letters = [[c for c in text if c.isascii()] for text in whole]  # no half characters
    lists = [[letters[0][1], "?!"], letters[1][3:5], [], ["the cat", letters[3][-1]]]
    expected = [
        text[: min([text.find(string) for string in strings if string in text], default=None)]
        for text, strings in zip(whole, lists, strict=True)
    ]
    assert expected != whole
    assert model.generate(PROMPTS, stop=lists, **options) == expected
    assert model.generate(PROMPTS[:1], stop=lists[0], **{**options, "seed": 1}) == expected[:1]
    assert model.generate(PROMPTS, stop=["never said"], **options) == whole
    with pytest.raises(ValueError, match="stop='x': expected a list of texts"):
        model.generate(PROMPTS, stop="x")


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("the cat", {}, "prompts='the cat': expected a list of texts"),
        (["a", "☃" * 11], {}, "prompt 1 has 33 tokens and the context 32: no room for an answer"),
        (["a"], {"top_p": 0.0}, "top_p=0.0: expected above 0 and at most 1"),
        (["a"], {"top_k": [1, 2]}, "top_k has 2 values for 1 prompts: give one value for all, or"),
        (["a"], {"best_of": 2}, "best_of: no such option; there are max_new_tokens, temperature"),
    ],
)
def test_refusals(model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(prompts, **options)


def test_special_tokens_before_a_prompt(model, tokenizer):
    end = "<|endoftext|>"
    begun = gpt_keras.CausalLM(model.config, tokenizers.ByteLevelBPE.from_vocab_and_merges(
        tokenizer.spec.model.vocab, tokenizer.spec.model.merges, [end], bos_token_id=0,
        add_bos_token=True,
    ))  # fmt: skip
    begun.set_weights(model.get_weights())
    written = [end + prompt for prompt in PROMPTS]
    expected = model.generate(written, max_new_tokens=6)
    assert begun.generate(PROMPTS, max_new_tokens=6) == expected
    assert begun.generate(written, add_special_tokens=False, max_new_tokens=6) == expected
    assert model.generate(PROMPTS, max_new_tokens=6) != expected
    twice = model.generate([end + prompt for prompt in written], max_new_tokens=6)
    assert begun.generate(written, max_new_tokens=6) == twice
    with pytest.raises(ValueError, match="prompt 0 has 32 tokens and the context 32"):
        begun.generate(["☃" * 10 + "!"])


def test_without_a_beginning_a_prompt_cannot_be_empty(model):
    bare = gpt_keras.CausalLM(model.config.replace(bos_token_id=None), model.tokenizer)
    with pytest.raises(ValueError, match="prompt 1 is empty, and no token of this model begins"):
        bare.generate(["a", ""])


def test_without_tokenizer(model):
    with pytest.raises(ValueError, match=r"this model has no tokenizer: put tokenizer.json into"):
        gpt_keras.CausalLM(model.config).generate(["a"])
