"""Exported models behind a server, asked by the client: the same answers as the Python models."""

import concurrent.futures

import grpc
import keras
import numpy as np
import pytest

import gpt_keras
from export import client, protocol, saved_model
from export.capacity import Capacity

TEXTS = ["The weather is", "今天天气", "def fibonacci(n):"]


@pytest.mark.xdist_group("exported_causal_lm")
def test_causal_lm(causal_lm, served, post):
    with served(causal_lm.saved_model_dir) as (asking, url):
        expected = causal_lm.model.generate(TEXTS, max_new_tokens=6)
        answers = asking.generate(TEXTS, max_new_tokens=6)
        assert [answer.text for answer in answers] == expected
        assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
        alone = [asking.generate([text], max_new_tokens=6)[0].text for text in TEXTS]
        assert alone == expected
        stopped = asking.generate(TEXTS, max_new_tokens=6, stop=[[expected[0][:1]], [], []])
        assert [answer.text for answer in stopped] == ["", *expected[1:]]
        assert all(answer.top_logprobs == () for answer in stopped)
        told = asking.generate(TEXTS[:2], max_new_tokens=6, logprobs=[2, 0])
        assert [len(top) for top in told[0].top_logprobs] == [2] * told[0].num_tokens
        assert told[1].top_logprobs == ()
        for one, top in zip(told[0].token_logprobs, told[0].top_logprobs, strict=True):
            assert max(top.values()) == pytest.approx(one, abs=1e-5)  # greedy
        assert sum(told[1].token_logprobs) == pytest.approx(told[1].logprob, abs=1e-4)
        turns = [{"role": "user", "content": "Naïve café?"}]
        (answer,) = asking.chat(turns, max_new_tokens=6, seed=3, temperature=1.0)
        again = asking.chat(turns, max_new_tokens=6, seed=3, temperature=1.0)[0]
        assert again.text_bytes == answer.text_bytes
        # Not to the bit: the second time most of the prompt is there already.
        assert again.token_logprobs == pytest.approx(answer.token_logprobs, abs=1e-4)
        with pytest.raises(client.ServerError) as caught:
            asking.generate(["x" * 1000])
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
        assert "1000 tokens" in caught.value.message
        with pytest.raises(client.ServerError) as caught:
            asking.predict({"prompts": [b"\xff"]}, "generate")
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
        rows = post(url, {"instances": TEXTS})["predictions"]
        assert [row.keys() for row in rows] == [{"text", "num_tokens", "finish_reason"}] * 3
        everything = {
            "prompts": TEXTS[0], "max_new_tokens": 6, "temperature": 0.0, "top_k": 0, "top_p": 1.0,
            "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "logprobs": 1,
            "frequency_penalty": 0.0, "seed": 1, "stop": "[]",
        }  # fmt: skip
        rows = [everything, {**everything, "logprobs": 0, "prompts": TEXTS[1]}]
        first, second = post(url, {"signature_name": "generate", "instances": rows})["predictions"]
        assert first["text"] == expected[0]
        assert first["top_logprobs"][0][0] == pytest.approx(first["token_logprobs"][0], abs=1e-5)
        assert second["top_logprobs"][0] == [-np.inf]  # as the stock server writes it


@pytest.mark.parametrize(
    ("batching", "experts"),
    [
        ("continuous", {
            "model_type": "mixtral", "num_experts": 5, "experts_per_token": 2,
            "normalize_experts": True, "sliding_window": 9,
        }),
        ("none", {
            "model_type": "qwen3_moe", "num_experts": 7, "experts_per_token": 3, "qk_norm": "head",
        }),
    ],
)  # fmt: skip
def test_mixtures_of_experts(tokenizer, served, tmp_path, batching, experts):
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, bos_token_id=0, hidden_size=24, num_layers=2, num_heads=4,
        num_kv_heads=2, intermediate_size=16, max_position_embeddings=64, initializer_range=0.3,
        tie_embeddings=False, **experts,
    )  # fmt: skip
    keras.utils.set_random_seed(8)
    model = gpt_keras.CausalLM(config, tokenizer)
    # Texts of which many tokens go to the same few experts, and none is dropped for that.
    texts = [*TEXTS, "a a a a a a a a", TEXTS[0], "The"]
    expected = model.generate(texts, max_new_tokens=9)
    assert [model.generate([text], max_new_tokens=9)[0] for text in texts] == expected
    capacity = Capacity.of(config, slots=4, tokens=160, block=8)
    saved_model_dir = saved_model.export(
        model,
        tmp_path / "m",
        with_warmup=False,
        with_verification=False,
        capacity=capacity if batching == "continuous" else None,
    )
    with served(saved_model_dir) as (asking, _):
        assert [answer.text for answer in asking.generate(texts, max_new_tokens=9)] == expected
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            alone = pool.map(lambda text: asking.generate([text], max_new_tokens=9)[0].text, texts)
        assert list(alone) == expected


@pytest.mark.xdist_group("exported_embedder")
def test_embedder(embedder, served, post):
    expected = embedder.model.embed(TEXTS).numpy()
    with served(embedder.saved_model_dir) as (asking, url):
        np.testing.assert_allclose(asking.embed(TEXTS), expected, atol=1e-5)
        assert asking.embed("one text").shape == (1, 24)
        rows = post(url, {"instances": TEXTS})["predictions"]
        np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.xdist_group("exported_classifier")
def test_classifier(classifier, served, post):
    with served(classifier.saved_model_dir) as (asking, url):
        found = asking.classify(TEXTS)
        labels, scores = classifier.model.classify_texts(TEXTS)
        assert [list(row.labels) for row in found] == [
            [label.decode() for label in row] for row in labels.numpy().tolist()
        ]
        assert found[0].scores == pytest.approx(scores[0].numpy().tolist(), abs=1e-5)
        rows = post(url, {"instances": TEXTS})["predictions"]
        assert [row["labels"][0] for row in rows] == [row.label for row in found]
        url = url.replace(":predict", ":classify")
        body = {"signature_name": "classify_examples", "examples": [{"text": TEXTS[0]}]}
        (pairs,) = post(url, body)["results"]
        assert pairs[0][0] == found[0].label
        assert pairs[0][1] == pytest.approx(found[0].score, abs=1e-5)


@pytest.mark.xdist_group("exported_regressor")
def test_regressor(regressor, served, post):
    texts = [*TEXTS, "", "🙂" * 90]
    expected = regressor.model.regress_texts(texts).numpy().tolist()
    request = protocol.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "regress_examples"
    for text in texts:
        record = request.input.example_list.examples.add()
        record.features.feature["text"].bytes_list.value.append(text.encode())
    with served(regressor.saved_model_dir) as (asking, url):
        assert asking.regress(texts) == pytest.approx(expected, abs=1e-5)
        answer = asking._predictions.Regress(request, timeout=60)
        values = [entry.value for entry in answer.result.regressions]
        assert values == pytest.approx(expected, abs=1e-5)
        assert post(url, {"instances": texts})["predictions"] == pytest.approx(expected, abs=1e-5)
        body = {"signature_name": "regress_examples", "examples": [{"text": t} for t in texts]}
        found = post(url.replace(":predict", ":regress"), body)["results"]
        assert found == pytest.approx(expected, abs=1e-5)
