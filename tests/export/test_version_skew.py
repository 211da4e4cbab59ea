"""What this TensorFlow exports, in the TensorFlow of the server it is for: the same answers.

`make test-skew` makes the other environment and names its Python in OTHER_PYTHON.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import gpt_keras
from export import saved_model
from export.capacity import Capacity

pytestmark = [
    pytest.mark.skew,
    pytest.mark.skipif("OTHER_PYTHON" not in os.environ, reason="run `make test-skew`"),
]

GGUF = pathlib.Path("data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
PROMPTS = ["The weather is nice", "I am so", "今天天气"]
CHAT = [json.dumps([{"role": "user", "content": "What is the capital of France?"}])]
SAMPLED = {"temperature": [0.8], "top_p": [0.9], "top_k": [40], "seed": [7]}
LANGUAGE = [
    ["serving_default", {"prompts": PROMPTS[:1]}],
    ["generate", {"prompts": PROMPTS, "max_new_tokens": [20]}],
    ["generate", {"prompts": PROMPTS, "max_new_tokens": [3, 20, 40], **SAMPLED}],
    ["chat", {"messages": CHAT, "max_new_tokens": [16]}],
]


LONG = ["generate", {"prompts": PROMPTS * 2, "max_new_tokens": [40]}, 0]


def answers(python, directory, rounds):
    """(version of TensorFlow, what it answers): see plain_tensorflow.py."""
    program = pathlib.Path(__file__).with_name("plain_tensorflow.py")
    done = subprocess.run(
        [python, str(program), str(directory)], input=json.dumps(rounds), text=True,
        capture_output=True, check=False, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    return result["tensorflow"], result["answers"]


def compare(directory, requests):
    """Both give the same answers, to one request after the other."""
    rounds = [[[*request, 0]] for request in requests]
    ours, expected = answers(sys.executable, directory, rounds)
    theirs, found = answers(os.environ["OTHER_PYTHON"], directory, rounds)
    assert theirs.split(".")[:2] != ours.split(".")[:2]
    for request, (before,), (after,) in zip(requests, expected, found, strict=True):
        same(request, before, after)


def same(request, before, after):
    """Two answers to a request are the same, numbers but for rounding."""
    assert before.keys() == after.keys()
    for name, values in before.items():
        if np.ravel(values).dtype.kind == "f":
            np.testing.assert_allclose(after[name], values, atol=1e-3)
        else:
            assert after[name] == values, (request, name)


def compare_at_once(directory, requests):
    """The other answers requests that share their steps as this one answers each alone.

    Beside them there are requests whose deadline stops them on the way, again and again.
    """
    alone = [[[*request, 0]] for request in requests]
    _, expected = answers(sys.executable, directory, alone)
    # Stopped before its turn, while it waits, and in the midst of a step of others.
    stopped = [[*LONG[:2], milliseconds] for milliseconds in (1, 7, 20, 45)]
    together = [[*request, 0] for request in requests]
    rounds = [[LONG], *[together + stopped] * 5, together, [["stats", {}, 0]]]
    _, found = answers(os.environ["OTHER_PYTHON"], directory, rounds)
    _, *shared, last, (counters,) = found
    outcomes = [after for round_ in shared for after in round_[len(requests) :]]
    assert "DeadlineExceededError" in outcomes
    for answered in (*shared, last):
        for request, (before,), after in zip(requests, expected, answered, strict=False):
            same(request, before, after)
    assert counters["tokens"][0] > counters["steps"][0]


def test_language_model(causal_lm):
    compare(causal_lm.saved_model_dir, LANGUAGE)


def test_requests_at_once(causal_lm):
    compare_at_once(causal_lm.saved_model_dir, LANGUAGE)


def test_classifier(classifier):
    compare(classifier.saved_model_dir, [["classify", {"texts": PROMPTS}]])


@pytest.mark.skipif(not GGUF.exists(), reason="run `python -m examples.fetch_data smollm2`")
@pytest.mark.parametrize(
    ("kernels", "continuous"), [("plain", False), ("panels", True), ("slabs", True)]
)
def test_smollm2(tmp_path, kernels, continuous):
    model = gpt_keras.CausalLM.from_pretrained(GGUF)
    capacity = Capacity.of(model.config) if continuous else None
    quick = {"with_warmup": False, "with_verification": False}
    directory = saved_model.export(model, tmp_path, kernels=kernels, capacity=capacity, **quick)
    compare(directory, LANGUAGE)
    if capacity:
        compare_at_once(directory, LANGUAGE)
