"""What a served language model says and what it refuses, in a plain session."""

import concurrent.futures
import json

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import signatures
from export.server import errors, servable

pytestmark = pytest.mark.xdist_group("exported_causal_lm")  # one export for all of them

PROMPTS = [
    "The weather",
    "I am so happy about this!",
    "今天天气很好",
    "x",
    "def f(n):\n\treturn\0 🙂",
]


def run(exported, signature="generate", **inputs):
    return exported.loaded.run(signature, inputs)


def texts(answer):
    return [text.decode() for text in answer["text"]]


def test_inputs_and_defaults(causal_lm):
    defs = causal_lm.loaded.signature_defs
    assert set(defs["serving_default"].inputs) == {"prompts"}
    assert not defs["serving_default"].defaults  # REST demands every input of a signature
    assert set(defs["generate"].inputs) - {"prompts"} == set(defs["generate"].defaults)
    assert set(defs["generate_tokens"].inputs) - {"token_ids", "lengths"} == set(
        defs["generate_tokens"].defaults
    )
    defaults = {k: tf.make_ndarray(v) for k, v in defs["generate"].defaults.items()}
    assert {k: (v.dtype.name, v.tolist()) for k, v in defaults.items()} == {
        "max_new_tokens": ("int32", [64]),
        "temperature": ("float32", [0.0]),
        "top_k": ("int32", [0]),
        "top_p": ("float32", [1.0]),
        "min_p": ("float32", [0.0]),
        "repetition_penalty": ("float32", [1.0]),
        "presence_penalty": ("float32", [0.0]),
        "frequency_penalty": ("float32", [0.0]),
        "seed": ("int64", [-1]),
        "logprobs": ("int32", [0]),
        "stop": ("object", [b"[]"]),
    }


def test_inputs_and_outputs_are_batches(causal_lm):
    for name in ("serving_default", "generate", "generate_tokens"):
        signature = causal_lm.loaded.signature_defs[name]
        assert signature.method_name == signatures.PREDICT
        for key, info in [*signature.inputs.items(), *signature.outputs.items()]:
            sizes = [dim.size for dim in info.tensor_shape.dim]
            rank = {
                "token_ids": 2,
                "tokens": 2,
                "token_logprobs": 2,
                "top_logprobs": 3,
                "top_tokens": 3,
            }
            assert sizes == [-1] * rank.get(key, 1), key


def test_outputs(causal_lm):
    defs = causal_lm.loaded.signature_defs
    generate = {"text", "text_bytes", "finish_reason", "prompt_tokens", "num_tokens", "logprob"}
    of_tokens = {"token_logprobs", "top_logprobs", "top_tokens"}
    assert set(defs["generate"].outputs) == generate | of_tokens
    assert set(defs["serving_default"].outputs) == {"text", "num_tokens", "finish_reason"}
    assert set(defs["generate_tokens"].outputs) == {"tokens", "lengths"} | of_tokens


def test_says_what_the_python_model_says(causal_lm):
    expected = causal_lm.model.generate(PROMPTS)
    assert len(set(expected)) == len(PROMPTS)
    assert texts(run(causal_lm, prompts=PROMPTS)) == expected
    default = run(causal_lm, "serving_default", prompts=PROMPTS)
    assert texts(default) == expected
    full = run(causal_lm, prompts=PROMPTS)
    for name in default:
        assert default[name].tolist() == full[name].tolist()


def test_counts_and_reasons(causal_lm):
    answer = run(causal_lm, prompts=PROMPTS, max_new_tokens=[12])
    lengths = causal_lm.model.tokenizer.tokenize(PROMPTS).row_lengths().numpy()
    assert answer["prompt_tokens"].tolist() == lengths.tolist()
    reasons = answer["finish_reason"].tolist()
    assert b"stop" in reasons
    assert b"length" in reasons
    for reason, n in zip(reasons, answer["num_tokens"], strict=True):
        assert (n == 12) if reason == b"length" else (n < 12)


def test_the_context_ends_an_answer(causal_lm):
    answer = run(causal_lm, prompts=["☃" * 20, "☃" * 21])
    assert answer["finish_reason"].tolist() == [b"length"] * 2
    assert answer["prompt_tokens"].tolist() == [60, 63]
    assert answer["num_tokens"].tolist() == [4, 1]


def test_text_is_utf8_whatever_was_cut(causal_lm):
    answer = run(causal_lm, prompts=PROMPTS, temperature=[2.0], seed=[7])
    invalid = 0
    for text, raw in zip(answer["text"], answer["text_bytes"], strict=True):
        assert text.decode() == raw.decode(errors="replace")
        invalid += text != raw
    assert invalid


def test_logprob_is_that_of_the_model(causal_lm):
    prompt = causal_lm.model.tokenizer.tokenize(["The weather"]).to_list()[0]
    options = {"max_new_tokens": [5], "temperature": [1.5], "seed": [5]}
    said = run(causal_lm, "generate_tokens", token_ids=[prompt], lengths=[len(prompt)], **options)
    tokens = said["tokens"][0, : said["lengths"][0]]
    logits = causal_lm.model(np.concatenate([prompt, tokens])[None].astype("int32"))[0]
    chosen = tf.nn.log_softmax(logits)[len(prompt) - 1 : -1].numpy()
    logprob = run(causal_lm, prompts=["The weather"], **options)["logprob"][0]
    assert len(tokens) == 5
    assert logprob == pytest.approx(chosen[np.arange(5), tokens].sum(), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": [1.3], "top_k": [40], "top_p": [0.9]}])
def test_a_row_does_not_depend_on_its_neighbours(causal_lm, options):
    seeds = list(range(len(PROMPTS)))
    together = texts(run(causal_lm, prompts=PROMPTS, seed=seeds, **options))
    assert len(set(together)) == len(PROMPTS)
    for prompt, seed, expected in zip(PROMPTS, seeds, together, strict=True):
        assert texts(run(causal_lm, prompts=[prompt], seed=[seed], **options)) == [expected]
    backwards = run(causal_lm, prompts=PROMPTS[::-1], seed=seeds[::-1], **options)
    assert texts(backwards) == together[::-1]


def test_options_are_those_of_the_row(causal_lm):
    per_row = {
        "max_new_tokens": [4, 9, 3, 1],
        "temperature": [0.0, 1.5, 1.5, 0.7],
        "top_k": [0, 3, 0, 1],
        "top_p": [1.0, 0.9, 0.3, 1.0],
        "min_p": [0.0, 0.05, 0.5, 1.0],
        "repetition_penalty": [1.3, 1.0, 0.7, 1.0],
        "presence_penalty": [0.0, 1.5, 0.0, -1.0],
        "frequency_penalty": [0.5, 0.0, 0.0, -2.0],
        "seed": [1, 2, 3, 4],
    }
    together = texts(run(causal_lm, prompts=["The weather"] * 4, **per_row))
    for row in range(4):
        own = {name: values[row : row + 1] for name, values in per_row.items()}
        assert texts(run(causal_lm, prompts=["The weather"], **own)) == [together[row]]


def test_one_value_holds_for_all_rows(causal_lm):
    prompts, options = ["The weather", "I am"], {"temperature": [1.5], "seed": [9]}
    for_all = run(causal_lm, prompts=prompts, **options)
    each = run(causal_lm, prompts=prompts, **{k: v * 2 for k, v in options.items()})
    assert texts(for_all) == texts(each)


def test_seeds(causal_lm):
    prompts = ["The weather"] * 6
    fresh = [texts(run(causal_lm, prompts=prompts, temperature=[3.0])) for _ in range(2)]
    assert len({*fresh[0], *fresh[1]}) == 12  # without a seed each row draws anew
    fixed = [texts(run(causal_lm, prompts=prompts, temperature=[3.0], seed=[4])) for _ in range(2)]
    assert len({*fixed[0], *fixed[1]}) == 1


def test_an_empty_prompt_begins_with_the_first_token_of_texts(causal_lm):
    empty = run(causal_lm, prompts=["", "The weather"])
    bos = run(causal_lm, prompts=["<|endoftext|>"])
    assert texts(empty)[0] == texts(bos)[0]
    assert empty["prompt_tokens"][0] == 1


@pytest.mark.parametrize("signature", ["serving_default", "generate"])
def test_no_rows(causal_lm, signature):
    answer = run(causal_lm, signature, prompts=[])
    for name, value in answer.items():
        assert value.shape == (0,) * value.ndim, name


def at_once(calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("seed", range(3))
def test_stop_strings_end_answers_where_a_plain_loop_finds_them(causal_lm, seed):
    """Also for requests that run at once, whose texts go on while others look at theirs."""
    rng = np.random.default_rng(seed)
    tokenizer, prompts = causal_lm.model.tokenizer, ["The weather", "I am", "今天天气", "x"] * 2
    options = {"temperature": [1.0], "max_new_tokens": [30]}
    seeds = rng.integers(0, 1000, len(prompts)).tolist()
    whole = run(causal_lm, prompts=prompts, seed=seeds, **options)
    tokens = tokenizer.tokenize(prompts)
    said = run(
        causal_lm, "generate_tokens", token_ids=tokens.to_tensor().numpy(),
        lengths=tokens.row_lengths().numpy(), seed=seeds, **options,
    )  # fmt: skip
    stops, expected = [], []
    for row, text in enumerate(whole["text_bytes"]):
        text, n = text.decode(errors="ignore"), whole["num_tokens"][row]
        starts = rng.integers(0, len(text), rng.integers(0, 3))
        stops.append([text[i : i + rng.integers(1, 6)] for i in starts])
        answer, reason = whole["text_bytes"][row], whole["finish_reason"][row]
        for i in range(1, n + 1):
            ids = [said["tokens"][row, :i].tolist()]
            (so_far,) = tokenizer.detokenize(ids, skip_special_tokens=True).numpy()
            places = [so_far.find(s.encode()) for s in stops[row] if s.encode() in so_far]
            if places:
                answer, n, reason = so_far[: min(places)], i, b"stop"
                break
        logprob = whole["token_logprobs"][row, :n].sum()
        expected.append((answer, n, reason, pytest.approx(logprob, abs=1e-4)))

    def rows(answer):
        names = ("text_bytes", "num_tokens", "finish_reason", "logprob")
        return list(zip(*(answer[name].tolist() for name in names), strict=True))

    texts = [json.dumps(strings) for strings in stops]
    assert rows(run(causal_lm, prompts=prompts, seed=seeds, stop=texts, **options)) == expected
    singly = at_once(
        [
            lambda i=i: rows(run(causal_lm, prompts=[prompts[i]], seed=seeds[i : i + 1],
                                 stop=texts[i : i + 1], **options))[0]
            for i in range(len(prompts))
        ]
    )  # fmt: skip
    assert singly == expected
    assert {reason for _, _, reason, _ in expected} == {b"stop", b"length"}


def test_a_stop_string_saves_the_steps_after_it(causal_lm):
    options = {"max_new_tokens": [50], "prompts": ["今天天气很好"]}
    (text,), (whole,) = (run(causal_lm, **options)[name] for name in ("text", "num_tokens"))
    before = run(causal_lm, "stats")["tokens"][0]
    answer = run(causal_lm, stop=[json.dumps([text.decode()[0]])], **options)
    computed = run(causal_lm, "stats")["tokens"][0] - before
    assert answer["text"].tolist() == [b""]
    assert answer["num_tokens"][0] <= computed <= answer["num_tokens"][0] + 2 < whole


@pytest.mark.parametrize("signature", ["generate", "generate_tokens"])
@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (["[]", '["a]'], "stop of row 1, byte 4: expected more of a string"),
        (["END"], "stop of row 0, byte 0: expected `[`, found `END`"),
        (["[1]"], "stop of row 0, byte 1: expected"),
        (["[]", '["a", ""]'], "stop of row 1 has a string of 0 bytes: expected at most 16 strings"),
        ([json.dumps(["é" * 129])], "stop of row 0 has a string of 258 bytes: expected at most 16"),
        (["[]", json.dumps(["a"] * 17)], "stop of row 1 has 17 strings: expected at most 16 strin"),
        (["[]"] * 3, "stop has 3 values and the request 2 rows: give one value for all rows"),
    ],
)
def test_bad_stop_strings_are_named(causal_lm, signature, stop, message):
    inputs = {"prompts": ["a", "b"]}
    if signature == "generate_tokens":
        inputs = {"token_ids": [[4], [5]], "lengths": [1, 1]}
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(causal_lm, signature, stop=stop, **inputs)
    assert message in error.value.message


def test_logprobs(causal_lm):
    prompt = causal_lm.model.tokenizer.tokenize(["The weather"]).to_list()[0]
    options = {"max_new_tokens": [6], "logprobs": [2, 4], "repetition_penalty": [1.3]}
    answer = run(causal_lm, prompts=["The weather", "x"], **options)
    inputs = {"token_ids": [prompt] * 2, "lengths": [len(prompt)] * 2}
    tokens = run(causal_lm, "generate_tokens", **inputs, **options)["tokens"][0]
    n = answer["num_tokens"][0]
    logits = causal_lm.model(np.concatenate([prompt, tokens[:n]])[None].astype("int32"))[0]
    logprobs = tf.nn.log_softmax(logits).numpy()[len(prompt) - 1 : -1]
    chosen = logprobs[np.arange(n), tokens[:n]]
    np.testing.assert_allclose(answer["token_logprobs"][0, :n], chosen, atol=1e-4)
    top = answer["top_logprobs"][0]
    assert top.shape[1] == 4
    np.testing.assert_allclose(top[:n, :2], -np.sort(-logprobs)[:, :2], atol=1e-4)
    assert answer["top_tokens"][0, :n, 0].tolist() == logprobs.argmax(axis=1).tolist()
    assert (top[:, 2:] == -np.inf).all()
    assert (answer["top_tokens"][0, :, 2:] == -1).all()
    assert (answer["top_tokens"][1, : answer["num_tokens"][1]] >= 0).all()


BAD_OPTIONS = [
    ("max_new_tokens", [3, 0], "max_new_tokens of row 1 is 0: expected at least 1 and at most 64"),
    ("max_new_tokens", [65], "max_new_tokens of row 0 is 65: expected at least 1 and at most 64"),
    ("temperature", [-0.5], "temperature of row 0 is -0.5: expected at least 0 and at most 100"),
    ("temperature", [np.nan], "temperature of row 0 is nan: expected at least 0 and at most 100"),
    ("temperature", [1, np.inf], "temperature of row 1 is inf: expected at least 0 and at most"),
    ("top_k", [-1], "top_k of row 0 is -1: expected at least 0"),
    ("top_p", [1, 0], "top_p of row 1 is 0: expected above 0 and at most 1 (1 is off)"),
    ("min_p", [1.5], "min_p of row 0 is 1.5: expected at least 0 and at most 1 (0 is off)"),
    ("top_p", [1.25], "top_p of row 0 is 1.25: expected above 0 and at most 1 (1 is off)"),
    ("repetition_penalty", [1, 0], "repetition_penalty of row 1 is 0: expected at least 0.01 and"),
    ("presence_penalty", [2.5], "presence_penalty of row 0 is 2.5: expected at least -2 and at m"),
    ("frequency_penalty", [-3], "frequency_penalty of row 0 is -3: expected at least -2 and at m"),
    ("logprobs", [0, 21], "logprobs of row 1 is 21: expected at least 0 and at most 20 (0 is off)"),
    ("seed", [1, 2, 3], "seed has 3 values and the request 2 rows: give one value for all rows"),
    ("top_k", [], "top_k has 0 values and the request 2 rows: give one value for all rows"),
]


@pytest.mark.parametrize(("name", "values", "message"), BAD_OPTIONS)
@pytest.mark.parametrize("signature", ["generate", "generate_tokens"])
def test_a_bad_option_is_named(causal_lm, signature, name, values, message):
    inputs = {"prompts": ["a", "b"]}
    if signature == "generate_tokens":
        inputs = {"token_ids": [[4], [5]], "lengths": [1, 1]}
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(causal_lm, signature, **inputs, **{name: values})
    assert message in error.value.message


BAD_PROMPTS = [
    (["ok", b"caf\xe9"], "prompts of row 1 is not valid UTF-8"),
    ([b"\xed\xa0\x80"], "prompts of row 0 is not valid UTF-8"),
    (["ok", "☃" * 22], "prompts of row 1 has 66 tokens and the context 64: no room for an answer"),
]


@pytest.mark.parametrize(("prompts", "message"), BAD_PROMPTS)
@pytest.mark.parametrize("signature", ["generate", "serving_default"])
def test_a_bad_prompt_is_named(causal_lm, signature, prompts, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(causal_lm, signature, prompts=prompts)
    assert message in error.value.message


def test_generate_tokens(causal_lm):
    tokens = causal_lm.model.tokenizer.tokenize(PROMPTS)
    lengths = tokens.row_lengths().numpy()
    padding = np.where(np.arange(lengths.max()) < lengths[:, None], 0, 10**6)
    token_ids = tokens.to_tensor().numpy() + padding  # padding is nobody's business
    said = run(causal_lm, "generate_tokens", token_ids=token_ids, lengths=lengths)
    rows = [list(row[:n]) for row, n in zip(said["tokens"], said["lengths"], strict=True)]
    text = causal_lm.model.tokenizer.detokenize(rows, skip_special_tokens=True).numpy()
    assert [t.decode(errors="replace") for t in text] == causal_lm.model.generate(PROMPTS)
    nothing = run(causal_lm, "generate_tokens", token_ids=np.zeros([0, 0]), lengths=[])
    assert nothing["tokens"].shape == (0, 0)


@pytest.mark.parametrize(
    ("token_ids", "lengths", "message"),
    [
        ([[1, 2], [3, 4]], [2], "lengths has 1 values and the request 2 rows: give one value a"),
        ([[1, 2], [3, 4]], [2, 3], "lengths of row 1 is 3: expected at most the tokens given"),
        ([[1, 2], [3, 4]], [0, 2], "lengths of row 0 is 0: expected at least 1"),
        ([[1, 2], [3, -4]], [2, 2], "token_ids of row 1 is -4: expected at least 0"),
        (
            [[1, 99999], [3, 4]],
            [2, 2],
            "token_ids of row 0 is 99999: expected below the vocabulary size",
        ),
        ([[5] * 64], [64], "token_ids of row 0 has 64 tokens and the context 64: no room"),
    ],
)
def test_bad_tokens_are_named(causal_lm, token_ids, lengths, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(causal_lm, "generate_tokens", token_ids=token_ids, lengths=lengths)
    assert message in error.value.message


def test_without_a_beginning_a_prompt_cannot_be_empty(causal_lm):
    config = causal_lm.model.config.replace(bos_token_id=None, eos_token_ids=())
    bare = gpt_keras.CausalLM(config, causal_lm.model.tokenizer)
    serving_default = signatures.of(bare)["serving_default"].function
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        serving_default(prompts=tf.constant(["a", ""]))
    message = "prompts of row 1 is empty, and no token of this model begins a text"
    assert message in error.value.message


@pytest.fixture(scope="module")
def served(causal_lm):
    loaded = servable.load("m", 1, str(causal_lm.saved_model_dir))
    yield loaded
    loaded.close()


@pytest.mark.parametrize(
    ("signature", "changed", "message"),
    [
        ("generate", {"prompts": b"The weather"}, "prompts has 0 dimensions: expected 1"),
        ("serving_default", {"prompts": [[b"The weather"]]}, "prompts has 2 dimensions: expected"),
        ("chat", {"messages": [[b"[]"]]}, "messages"),  # or the parser's own words
        ("generate", {"temperature": [[0.5]]}, "temperature has 2 dimensions: expected 1"),
        ("generate_tokens", {"token_ids": [3]}, "token_ids has 1 dimensions: expected 2"),
    ],
)
def test_a_wrong_number_of_dimensions_is_named(served, signature, changed, message):
    # The server's way: `Session.run` of Python would refuse it before the graph sees it.
    spec = served.signatures[signature]
    good = {"prompts": [b"The"], "messages": [b"[]"], "token_ids": [[3]], "lengths": [1]}
    given = {**spec.defaults, **{k: v for k, v in good.items() if k in spec.inputs}, **changed}
    feed = {
        spec.inputs[k].name: np.asarray(
            v, object if isinstance(v, bytes) or k in ("prompts", "messages")
            else tf.as_dtype(spec.inputs[k].dtype).as_numpy_dtype
        )
        for k, v in given.items()
    }  # fmt: skip
    with pytest.raises(errors.ServingError) as error:
        served.run(feed, [info.name for info in spec.outputs.values()])
    assert error.value.code.name == "INVALID_ARGUMENT"
    assert message in error.value.message
