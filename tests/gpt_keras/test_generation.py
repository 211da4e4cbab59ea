"""Generation against the plainest possible loop: the whole text anew for every token."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from gpt_keras import generation, preprocessing
from gpt_keras.generated import likeliest
from gpt_keras.generation import GenerationOptions, generate_tokens

ROOT = Path(__file__).resolve().parents[2]
SMOLLM2 = ROOT / "data" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm2 = pytest.mark.skipif(
    not SMOLLM2.exists(), reason=f"no {SMOLLM2}: run `python -m examples.fetch_data smollm2`"
)
# One of each kind that attention and positions come in, see `tests/golden/families.py`.
FAMILIES = [
    "llama_dynamic", "llama_yarn", "mistral", "qwen2_some_windows", "qwen3", "smollm3_windows",
    "olmo2", "phi3_longrope_partial", "starcoder2", "gpt_neox", "gemma2", "gemma3_text",
    "mixtral", "qwen3_moe",
]  # fmt: skip
EOS = 5
CONTEXT = 120


def tiny(**changes):
    tf.keras.utils.set_random_seed(1)
    config = gpt_keras.GPTConfig(
        vocab_size=97, hidden_size=24, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=10,
        intermediate_size=50, initializer_range=0.3, max_position_embeddings=CONTEXT,
        eos_token_ids=(EOS,),
    ).replace(**changes)  # fmt: skip
    return gpt_keras.CausalLM(config)


LEARNED = {
    "rotary": None, "norm": "layer", "gated": False, "activation": "gelu_tanh",
    "qkv_bias": True, "mlp_bias": True,
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        {}, LEARNED, {"num_kv_heads": 6, "tie_embeddings": False},
        {"sliding_window": 4}, {"sliding_window": 50},
    ],
)  # fmt: skip
def model(request):
    return tiny(**request.param)


@pytest.fixture(scope="module")
def generate(model):
    @tf.function(reduce_retracing=True)
    def run(token_ids, lengths, **options):
        options = GenerationOptions.make(tf.shape(lengths)[0], **options)
        return generate_tokens(model, token_ids, lengths, options)

    return run


PROMPTS = np.random.default_rng(0).integers(6, 97, (5, 9)).astype("int32")
LENGTHS = np.array([9, 3, 1, 7, 5], "int32")


def reference(model, prompt, limit, eos=EOS):
    """Greedy tokens, whether EOS ended them, and the sum of their log-probabilities."""
    text, answer, logprob = list(prompt), [], 0.0
    while len(answer) < limit and len(text) < CONTEXT:
        logits = model(np.array([text]))[0, -1].numpy().astype("float64")
        token = int(logits.argmax())
        if token == eos:
            return answer, True, logprob
        logprob += logits[token] - np.logaddexp.reduce(logits)
        answer.append(token)
        text.append(token)
    return answer, False, logprob


def test_rows_of_different_lengths_and_limits_equal_the_full_forward(model, generate):
    # Limits beyond a chunk, within one, beyond the context, and none at all.
    limits = np.array([80, generation.CHUNK, 3, 200, 0], "int32")
    result = generate(PROMPTS, LENGTHS, max_new_tokens=limits, temperature=0.0)
    for row, (prompt, length, limit) in enumerate(zip(PROMPTS, LENGTHS, limits, strict=True)):
        answer, stopped, logprob = reference(model, prompt[:length], limit)
        got = result.tokens.numpy()[row]
        assert list(got[: len(answer)]) == answer
        assert not got[len(answer) :].any()
        assert result.lengths.numpy()[row] == len(answer)
        assert result.stopped.numpy()[row] == stopped
        assert result.logprob.numpy()[row] == pytest.approx(logprob, abs=2e-3)


@pytest.mark.parametrize("case", FAMILIES)
def test_families_equal_the_full_forward(case, tmp_path, write_family, monkeypatch):
    """Prompts in passes of 4 tokens, answers beyond a chunk; the whole text gives the same."""
    monkeypatch.setattr(generation, "PREFILL", 4)
    monkeypatch.setattr(generation, "CHUNK", 6)
    model = gpt_keras.CausalLM.from_pretrained(write_family(case, tmp_path)[0])
    model.config = model.config.replace(max_position_embeddings=64, eos_token_ids=())
    prompts, limit = PROMPTS % 83, np.array([11, 8, 11, 3, 2], "int32")
    options = GenerationOptions.make(5, limit, logprobs=np.full(5, 1))
    result = tf.function(generate_tokens)(model, prompts, LENGTHS, options)
    for row, (length, n) in enumerate(zip(LENGTHS, limit, strict=True)):
        answer = result.tokens.numpy()[row, :n]
        text = np.concatenate([prompts[row, :length], answer])[None]
        logits = model(text)[0, length - 1 : -1].numpy().astype("float64")
        assert result.lengths.numpy()[row] == n
        logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        got = result.token_logprobs.numpy()[row, :n]
        np.testing.assert_allclose(got, logprobs[np.arange(n), answer], atol=2e-4)
        np.testing.assert_allclose(got, logprobs.max(axis=-1), atol=2e-4)


def test_caches_small_large_and_in_between(model, monkeypatch):
    """The answers do not depend on where the one product takes over from the other."""
    options = GenerationOptions.make(5, generation.CHUNK + 9)
    config, results = model.config, []
    one_chunk = len(PROMPTS) * config.num_kv_heads * config.head_dim * (9 + generation.CHUNK)
    for small in (0, one_chunk - 1, one_chunk):
        monkeypatch.setattr(generation, "SMALL", small)
        results.append(generate_tokens(model, PROMPTS, LENGTHS, options))
    for result in results[1:]:
        np.testing.assert_array_equal(result.tokens, results[0].tokens)
        np.testing.assert_allclose(result.logprob, results[0].logprob, atol=1e-3)


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_a_prompt_in_several_passes(model, monkeypatch, tokens):
    whole = generate_tokens(model, PROMPTS, LENGTHS, GenerationOptions.make(5, 12))
    monkeypatch.setattr(generation, "PREFILL", tokens)
    parts = generate_tokens(model, PROMPTS, LENGTHS, GenerationOptions.make(5, 12))
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_allclose(parts.logprob, whole.logprob, atol=1e-3)


def test_a_sampled_row_is_the_same_alone_and_among_others(generate):
    options = {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.95}
    seeds = np.arange(5)
    together = generate(PROMPTS, LENGTHS, seed=seeds, **options)
    for row in range(5):
        # A neighbour that wants other candidates, and another place in the batch.
        pair = [0 if row else 1, row]
        other = generate(
            PROMPTS[pair], LENGTHS[pair], seed=seeds[pair], max_new_tokens=20,
            temperature=np.array([0.0, 0.9], "float32"), top_k=np.array([3, 0]), top_p=0.95,
        )  # fmt: skip
        length = together.lengths.numpy()[row]
        assert other.lengths.numpy()[1] == length
        np.testing.assert_array_equal(
            together.tokens.numpy()[row, :length], other.tokens.numpy()[1, :length]
        )


def test_penalties_act_on_prompt_and_answer(model, generate):
    """The plainest loop again, with penalties by their definition; greedy rows."""
    options = {
        "repetition_penalty": np.array([1.5, 1.0, 1.2, 1.0, 0.7], "float32"),
        "presence_penalty": np.array([0.0, 2.0, -0.5, 0.0, 0.0], "float32"),
        "frequency_penalty": np.array([0.0, 0.0, 1.0, 0.0, -0.3], "float32"),
    }
    result = generate(PROMPTS, LENGTHS, max_new_tokens=12, **options)
    plain = generate(PROMPTS, LENGTHS, max_new_tokens=12)
    for row, length in enumerate(LENGTHS):
        r, p, f = (values[row] for values in options.values())
        answer = result.tokens.numpy()[row, : result.lengths[row]].tolist()
        text, logprob = [*PROMPTS[row, :length].tolist(), *answer], 0.0
        every = model(np.array([text]))[0].numpy().astype("float64")
        for n, token in enumerate(answer, length):
            logits = every[n - 1]
            changed = logits.copy()
            seen, counts = np.unique(text[:n]), np.bincount(text[length:n], minlength=97)
            changed[seen] = np.where(logits[seen] < 0, logits[seen] * r, logits[seen] / r)
            changed -= p * (counts > 0) + f * counts
            assert changed.max() - changed[token] < 1e-3
            logprob += logits[token] - np.logaddexp.reduce(logits)
        assert result.logprob.numpy()[row] == pytest.approx(logprob, abs=2e-3)
    rows = [
        [r.tokens.numpy()[i, : r.lengths[i]].tolist() for i in range(5)] for r in (result, plain)
    ]
    assert rows[0] != rows[1]
    assert rows[0][3] == rows[1][3]


def test_logprobs_are_those_of_the_model(model, generate):
    asked = np.array([2, 0, 5, 1, 97], "int32")  # the vocabulary has 97
    result = generate(
        PROMPTS, LENGTHS, max_new_tokens=12, logprobs=asked, temperature=1.5, top_k=3, seed=3,
        frequency_penalty=1.0,
    )  # fmt: skip
    assert result.top_tokens.shape[2] == 97
    for row, length in enumerate(LENGTHS):
        n = int(result.lengths[row])
        tokens = result.tokens.numpy()[row, :n]
        text = np.concatenate([PROMPTS[row, :length], tokens])
        logits = model(text[None])[0, length - 1 : length - 1 + n]
        logprobs = tf.nn.log_softmax(logits).numpy()
        chosen = logprobs[np.arange(n), tokens]
        got = result.token_logprobs.numpy()[row]
        np.testing.assert_allclose(got[:n], chosen, atol=1e-3)
        assert not got[n:].any()
        top, ids = result.top_logprobs.numpy()[row], result.top_tokens.numpy()[row]
        k = asked[row]
        np.testing.assert_allclose(top[:n, :k], -np.sort(-logprobs)[:, :k], atol=1e-3)
        np.testing.assert_allclose(
            np.take_along_axis(logprobs, ids[:n, :k], axis=1), top[:n, :k], atol=1e-3
        )
        assert (top[n:] == -np.inf).all()
        assert (top[:, k:] == -np.inf).all()
        assert (ids[n:] == -1).all()
        assert (ids[:, k:] == -1).all()


def test_more_logprobs_than_tokens_there_are():
    logprobs, tokens = likeliest(tf.constant([[1.0, 3.0, 2.0]]), tf.constant(5))
    assert tokens.numpy().tolist() == [[1, 2, 0, -1, -1]]
    assert np.exp(logprobs.numpy()).sum() == pytest.approx(1)
    assert (logprobs.numpy()[:, 3:] == -np.inf).all()


def test_seeds_decide_and_negative_ones_are_fresh(generate):
    options = {"max_new_tokens": 24, "temperature": 2.0}
    same = np.repeat(PROMPTS[:1], 4, axis=0), np.repeat(LENGTHS[:1], 4)
    fixed = generate(*same, seed=np.array([7, 7, 8, 9]), **options).tokens.numpy()
    np.testing.assert_array_equal(fixed[0], fixed[1])
    assert (fixed[0] != fixed[2]).any()
    assert (fixed[2] != fixed[3]).any()
    fresh = generate(*same, seed=-1, **options).tokens.numpy()
    assert len({row.tobytes() for row in fresh}) == 4


def test_a_batch_without_rows(generate):
    result = generate(PROMPTS[:0], LENGTHS[:0], max_new_tokens=4)
    assert result.tokens.shape == (0, 0)


def test_ends_as_soon_as_all_rows_have_ended():
    prompts, lengths = np.repeat(PROMPTS[:1], 2, axis=0), np.repeat(LENGTHS[:1], 2)
    answer, _, _ = reference(tiny(), PROMPTS[0], 8, eos=None)
    model = tiny(eos_token_ids=(answer[3],))
    passes = []
    decode = model.backbone.decode
    model.backbone.decode = lambda *inputs: passes.append(1) or decode(*inputs)
    options = GenerationOptions.make(2, max_new_tokens=100)
    result = generate_tokens(model, prompts, lengths, options)
    expected = answer.index(answer[3])
    assert result.stopped.numpy().all()
    assert list(result.lengths.numpy()) == [expected, expected]
    assert len(passes) == 1 + expected + 1  # the prompt, the answer's tokens, the stop token


@needs_smollm2
def test_smollm2_continues_as_transformers_does():
    """20 texts, 32 greedy tokens: the same, or the two best logits were a tie where they part."""
    rows = json.loads((ROOT / "tests/golden/generation_smollm2.json").read_text("utf-8"))["rows"]
    assert len(rows) == 20
    model = gpt_keras.CausalLM.from_pretrained(SMOLLM2, with_tokenizer=False)
    batch = preprocessing.pad(tf.ragged.constant([row["token_ids"] for row in rows], tf.int32), 0)
    options = GenerationOptions.make(20, max_new_tokens=32)
    result = tf.function(generate_tokens)(model, *batch, options)
    stops = model.config.eos_token_ids
    for row, tokens, length in zip(
        rows, result.tokens.numpy(), result.lengths.numpy(), strict=True
    ):
        expected = [token for token in row["ids"] if token not in stops]
        got = list(tokens[:length])
        if got != expected:
            parted = next(
                (
                    i
                    for i, pair in enumerate(zip(got, expected, strict=False))
                    if len(set(pair)) > 1
                ),
                min(len(got), len(expected)),
            )
            assert row["margins"][parted] < 1e-3, row["text"]
