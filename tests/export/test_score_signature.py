"""The signature `score` in a plain session."""

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import signatures

pytestmark = pytest.mark.xdist_group("exported_causal_lm")  # one export for all of them

PAIRS = [
    ("The weather", " is nice today"),
    ("", "I am so happy about this!"),
    ("今天", "天气很好 🙂"),
    ("x", "y"),
    ("☃" * 20, "☃x"),  # fills the context
]


def run(exported, pairs):
    prompts, completions = zip(*pairs, strict=True) if pairs else ((), ())
    return exported.loaded.run("score", {"prompts": prompts, "completions": completions})


def test_says_what_the_python_model_says(causal_lm):
    expected = causal_lm.model.score(*zip(*PAIRS, strict=True))
    assert len({*expected.logprob.tolist()}) == len(PAIRS)
    assert expected.num_tokens[-1] == 4
    answer = run(causal_lm, PAIRS)
    assert set(answer) == {"logprob", "num_tokens"}
    np.testing.assert_allclose(answer["logprob"], expected.logprob, rtol=1e-4)
    assert answer["num_tokens"].tolist() == expected.num_tokens.tolist()


def test_a_row_does_not_depend_on_its_neighbours(causal_lm):
    together = run(causal_lm, PAIRS)["logprob"]
    for row, pair in enumerate(PAIRS):
        np.testing.assert_allclose(run(causal_lm, [pair])["logprob"], together[row], rtol=1e-4)
    assert run(causal_lm, [])["logprob"].shape == (0,)


def test_scores_what_was_generated(causal_lm):
    """The log-probability that `generate` tells of its answers, those that are tokenized again."""
    prompts = [text for text, _ in PAIRS if text] + ["I am", "def", "is", "The capital"]
    options = {"prompts": prompts, "max_new_tokens": [1]}
    said = causal_lm.loaded.run("generate", options)
    tokens = causal_lm.model.tokenizer.tokenize(said["text"])
    same = (tokens.row_lengths().numpy() == 1) & (said["text"] == said["text_bytes"])
    same &= said["num_tokens"] == 1
    assert same.sum() >= 2
    pairs = [(prompts[i], said["text"][i]) for i in np.flatnonzero(same)]
    np.testing.assert_allclose(run(causal_lm, pairs)["logprob"], said["logprob"][same], rtol=1e-4)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", "b"), ("a", "")], "completions of row 1 is empty: there is nothing to score"),
        ([("☃" * 20, "☃☃")], "completions of row 0 and its prompt have 66 tokens and the context"),
        ([(b"\xff", "b")], "prompts of row 0 is not valid UTF-8"),
        ([("a", "b"), ("a", b"\xff")], "completions of row 1 is not valid UTF-8"),
    ],
)
def test_bad_texts_are_named(causal_lm, pairs, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(causal_lm, pairs)
    assert message in error.value.message


def test_one_completion_a_prompt(causal_lm):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        causal_lm.loaded.run("score", {"prompts": ["a", "b"], "completions": ["c"]})
    assert "completions has 1 values and the request 2 rows" in error.value.message


def test_nothing_to_begin_with(causal_lm):
    config = causal_lm.model.config.replace(bos_token_id=None, eos_token_ids=())
    bare = gpt_keras.CausalLM(config, causal_lm.model.tokenizer)
    score = signatures.of(bare)["score"].function
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        score(prompts=tf.constant(["a", ""]), completions=tf.constant(["b", "b"]))
    assert "prompts of row 1 is empty, and no token of" in error.value.message
