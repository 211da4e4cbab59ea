"""A real language model, from its published weights to a session that knows nothing of us."""

import json
import pathlib

import pytest

import gpt_keras
from export import saved_model, verification

GGUF = pathlib.Path("data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "今天天气", "Once upon a time"]


@pytest.mark.slow
@pytest.mark.skipif(not GGUF.exists(), reason="run `python -m examples.fetch_data smollm2`")
def test_smollm2_answers_from_a_saved_model(tmp_path):
    model = gpt_keras.CausalLM.from_pretrained(GGUF)
    version = saved_model.export(model, tmp_path)
    weights = sum(4 * weight.shape.num_elements() for weight in model.weights)
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    assert weights < size < 1.02 * weights
    assert (version / "saved_model.pb").stat().st_size < 10e6
    expected = model.generate(PROMPTS, max_new_tokens=24)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    del model
    with verification.load(version) as loaded:
        answer = loaded.run("generate", {"prompts": PROMPTS, "max_new_tokens": [24]})
        chat = loaded.run("chat", {"messages": [json.dumps(question)]})
    assert [text.decode() for text in answer["text"]] == expected
    assert "Paris" in chat["text"][0].decode()
    assert chat["finish_reason"][0] == b"stop"
