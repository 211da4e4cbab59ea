"""Each task on whole texts behind a server: what it says of real texts is what Python says."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import saved_model
from gpt_keras import tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.tasks import MultiTask

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [(ROOT / name).read_text() for name in ("README.md", "README.zh.md")]
LINES = [line for page in PAGES for line in page.splitlines() if line.strip()]
TEXTS = [*LINES[:: len(LINES) // 96][:96], "", "🙂 x\0y 👩‍👩‍👧", " \n ", PAGES[1][:3000]]

LABELS = ["négatif", "neutral", "positive"]
SPANS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
# What a model calls its tasks, as in config.json, which is also what its signatures end with.
TASKS = {
    "classification": {"task": "classification", "id2label": LABELS},
    "topics": {
        "task": "classification", "id2label": LABELS, "pooling": "mean",
        "problem_type": "multi_label_classification",
    },
    "entails": {"task": "classification", "id2label": LABELS, "pairs": True, "temperature": 2.0},
    "regression": {"task": "regression", "id2label": ["LABEL_0"]},
    "token_classification": {"task": "token_classification", "id2label": SPANS},
    "chars": {
        "task": "token_classification", "id2label": SPANS, "crf": True, "word_separator": ""
    },
    "relation_extraction": {"task": "relation_extraction", "id2label": ["none", "knows", "likes"]},
    "extractive_qa": {"task": "extractive_qa", "window_length": 40, "doc_stride": 16},
    "embedding": {"task": "embedding", "normalize": True},
    "masked_lm": {"task": "masked_lm"},
}  # fmt: skip
BODIES = {
    "encoder": {"model_type": "bert", "activation": "gelu", "token_types": 2}
    | FAMILIES["bert"].fixed,
    "decoder": {"bos_token_id": 0},
}
NAMES = (
    "classify", "classify_topics", "classify_entails", "regress", "tag", "tag_chars", "relations",
    "answer", "embed", "rank", "fill_mask",
)  # fmt: skip


@pytest.fixture(scope="module", params=BODIES)
def body(request, tiny, served, tmp_path_factory):
    """A model of all tasks that the body can learn, the client of a server of it, and its URL."""
    special = ("<|endoftext|>", "<mask>")
    tokenizer = tokenizers.train_byte_level_bpe(PAGES, 600, special, mask_token="<mask>")
    tasks = {k: v for k, v in TASKS.items() if request.param == "encoder" or k != "masked_lm"}
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, task_params=tasks, **{**tiny, **BODIES[request.param]}
    )
    keras.utils.set_random_seed(7)
    model = MultiTask(config, tokenizer)
    for weight in model.tasks["chars"].crf.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    path = tmp_path_factory.mktemp(request.param)
    path = saved_model.export(model, path, with_warmup=False, with_verification=False)
    with served(path) as (asking, url):
        yield model, asking, url


def request_of(name, texts):
    """Inputs of a signature, made of texts; of two inputs the second are those that follow."""
    following = texts[1:] + texts[:1]
    others = {
        "classify_entails": {"texts": texts, "pairs": following},
        "relations": {"texts": texts, "entities": list(map(words_of, texts))},
        "answer": {"questions": [text[:30] for text in following], "contexts": texts},
        "rank": {"queries": texts, "documents": following},
        "fill_mask": {"texts": [text.replace(" ", " <mask> ", 2) for text in texts]},
    }
    return others.get(name, {"texts": texts})


def words_of(text):
    """The first two words of a text and the last one, as places in JSON."""
    places = [list(found.span()) for found in re.finditer(r"\w+", text)]
    return str(places[:2] + places[-1:] if len(places) > 2 else [])


@pytest.mark.xdist_group("every_task")
@pytest.mark.parametrize("name", NAMES)
def test_served_answers_are_those_of_the_python_task(body, post, name):
    model, asking, url = body
    functions = model.signatures()
    if name == "fill_mask" and model.config.causal:
        assert set(functions) == {*NAMES} - {name}
        return
    given = request_of(name, TEXTS)
    expected = functions[name].function(**{k: tf.constant(v) for k, v in given.items()})
    over_rest = post(url, {"signature_name": name, "inputs": given})["outputs"]
    for answer in (asking.predict(given, name), named(over_rest, expected)):
        assert set(answer) == set(expected)
        for key, value in expected.items():
            value = value.numpy()
            assert len(value) == len(TEXTS) == 100
            if value.dtype.kind == "f":
                np.testing.assert_allclose(np.array(answer[key]), value, rtol=1e-4, atol=1e-5)
                assert np.ptp(value) > 0.01
            else:
                assert as_text(answer[key]) == as_text(value.tolist()), key
                assert len(np.unique(value)) > 1


def named(outputs, expected):
    """REST leaves out the name of an only output."""
    return outputs if isinstance(outputs, dict) else dict.fromkeys(expected, outputs)


def as_text(value):
    """Nested lists of which strings are what JSON makes of them."""
    if isinstance(value, list):
        return list(map(as_text, value))
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.xdist_group("exported_causal_lm")
def test_scores_are_those_of_the_python_model(causal_lm):
    prompts = [text[:7] for text in TEXTS]
    completions = [text[7:14] or "🙂" for text in TEXTS]
    expected = causal_lm.model.score(prompts, completions)
    found = causal_lm.loaded.run("score", {"prompts": prompts, "completions": completions})
    np.testing.assert_allclose(found["logprob"], expected.logprob, rtol=1e-4)
    assert found["num_tokens"].tolist() == expected.num_tokens.tolist()
    assert np.ptp(expected.logprob) > 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="of row 0 and its prompt have"):
        causal_lm.loaded.run("score", {"prompts": TEXTS[-1:], "completions": ["x"]})
