"""Requests that share a table: same answers as alone, whatever befalls their neighbours."""

import concurrent.futures
import random
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

import gpt_keras
from export import batching, saved_model, signatures, slots, step, stock_ops, verification
from export.capacity import Capacity
from gpt_keras import generation

pytestmark = pytest.mark.xdist_group("batching")  # one session for most of them
SLOTS, CONTEXT, BLOCK = 4, 96, 8
LIMITS = {"max_new_tokens": [24]}


def make_model(seed=11, **changes):
    fields = {
        "vocab_size": 97, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
        "intermediate_size": 40, "max_position_embeddings": CONTEXT, "initializer_range": 0.3,
        "eos_token_ids": (7,), "bos_token_id": 0, **changes,
    }  # fmt: skip
    keras.utils.set_random_seed(seed)
    return gpt_keras.CausalLM(gpt_keras.GPTConfig(**fields))


class Server:
    """A model without tokenizer in a session: `generate_tokens` and `stats`."""

    def __init__(self, model, path, **sizes):
        sizes = {"slots": SLOTS, "tokens": 256, "block": BLOCK, **sizes}
        capacity = Capacity.of(model.config, **sizes)
        self.model, self.capacity, self.path = model, capacity, path
        batcher = batching.Batcher(model, capacity)
        entries = signatures.causal_lm(model, batcher=batcher)
        entries = {name: entries[name] for name in ("generate_tokens", "stats")}
        saved_model.write(model, entries, path, batcher)

    def alone(self, prompts, **options):
        """What the Python model says to each prompt by itself."""
        return [self._alone(prompt, options, row) for row, prompt in enumerate(prompts)]

    def _alone(self, prompt, options, row):
        own = {k: v[row] if len(v) > 1 else v[0] for k, v in options.items()}
        chosen = generation.GenerationOptions.make(1, **own)
        said = generation.generate_tokens(
            self.model, tf.constant([prompt]), tf.constant([len(prompt)]), chosen
        )
        return said.tokens[0, : said.lengths[0]].numpy().tolist()


def ask(loaded, prompts, **options):
    """Answers of a loaded model to lists of token ids."""
    longest = max(map(len, prompts))
    ids = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
    inputs = {"token_ids": ids, "lengths": [len(p) for p in prompts], **options}
    said = loaded.run("generate_tokens", inputs)
    return [row[:n].tolist() for row, n in zip(said["tokens"], said["lengths"], strict=True)]


def stats(loaded):
    return {name: int(value[0]) for name, value in loaded.run("stats", {}).items()}


def random_prompts(n, seed=0, longest=60):
    rng = np.random.default_rng(seed)
    return [rng.integers(8, 97, rng.integers(1, longest)).tolist() for _ in range(n)]


def check(server, prompt, answer, expected, n):
    """An answer is what the model says alone, or as good to within rounding."""
    assert answer == expected or verification.is_greedy(server.model, prompt, answer, n)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(make_model(), tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def loaded(server):
    with verification.load(server.path) as loaded:
        yield loaded


def at_once(calls):
    """Results of functions that run in a thread each."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.result(timeout=120) for future in futures]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sliding_window": 10},
        {"rotary": None, "norm": "layer", "gated": False, "qkv_bias": True},
    ],
    ids=["llama", "window", "gpt2"],
)
def test_rows_of_one_request(tmp_path, changes):
    server = Server(make_model(**changes), tmp_path)
    prompts = [*random_prompts(9), [5], random_prompts(1, 3)[0][:1] * (CONTEXT - 1)]
    options = {"max_new_tokens": [24, 1, 3, 24, 9, 24, 24, 2, 24, 24, 24]}
    expected = server.alone(prompts, **options)
    with verification.load(server.path) as loaded:
        answers = ask(loaded, prompts, **options)
        assert stats(loaded)["slots_in_use"] == 0
    limits = [
        min(n, CONTEXT - len(p)) for n, p in zip(options["max_new_tokens"], prompts, strict=True)
    ]
    for prompt, answer, alone, n in zip(prompts, answers, expected, limits, strict=True):
        check(server, prompt, answer, alone, n)


def test_requests_at_once_share_their_steps(server, loaded):
    prompts = random_prompts(8)
    expected = server.alone(prompts, **LIMITS)
    ask(loaded, prompts[:1])  # the first run prepares the graph
    before = stats(loaded)
    answers = at_once([lambda p=p: ask(loaded, [p], **LIMITS)[0] for p in prompts])
    for prompt, answer, alone in zip(prompts, answers, expected, strict=True):
        check(server, prompt, answer, alone, LIMITS["max_new_tokens"][0])
    after = stats(loaded)
    tokens = sum(map(len, answers))
    assert tokens <= after["tokens"] - before["tokens"] <= tokens + len(prompts)  # stop tokens
    read = [after[name] - before[name] for name in ("prompt_tokens", "shared_tokens")]
    assert sum(read) == sum(map(len, prompts))
    assert after["steps"] - before["steps"] < tokens  # 4 slots: about a quarter
    assert after["slots_in_use"] == 0


def test_a_beginning_that_is_there_is_not_computed_again(server, loaded):
    (prompt,) = [p for p in random_prompts(9, seed=12) if 40 < len(p) < 50][:1]

    def computed(prompt, **options):
        """The answer, and how many tokens of the prompt were computed."""
        before = stats(loaded)
        (answer,) = ask(loaded, [prompt], **options)
        (alone,) = server.alone([prompt], **options)
        check(server, prompt, answer, alone, options["max_new_tokens"][0])
        after = stats(loaded)
        shared = after["shared_tokens"] - before["shared_tokens"]
        assert after["prompt_tokens"] - before["prompt_tokens"] == len(prompt) - shared
        return answer, len(prompt) - shared

    answer, n = computed(prompt, max_new_tokens=[20])
    assert n == len(prompt)
    _, n = computed([*prompt, *answer, 50, 51], max_new_tokens=[9])  # a conversation goes on
    assert 2 < n <= 3 + BLOCK
    assert computed(prompt, max_new_tokens=[20]) == (answer, (len(prompt) - 1) % BLOCK + 1)
    other = [*prompt[:20], 60, 61]
    assert computed(other, max_new_tokens=[20])[1] == len(other) - 20 // BLOCK * BLOCK
    ask(loaded, random_prompts(30, seed=13), max_new_tokens=[30])  # the room is needed
    again, n = computed(prompt, max_new_tokens=[20])
    assert (again, n) == (answer, len(prompt))


def test_beginnings_are_shared_with_texts_in_work(server, loaded):
    (beginning,) = [p for p in random_prompts(9, seed=14) if 40 < len(p) < 50][:1]
    prompts = [[*beginning, i, i + 1, i + 2] for i in range(10, 22)]
    expected = server.alone(prompts, **LIMITS)
    before = stats(loaded)
    answers = at_once([lambda p=p: ask(loaded, [p], **LIMITS)[0] for p in prompts])
    for prompt, answer, alone in zip(prompts, answers, expected, strict=True):
        check(server, prompt, answer, alone, LIMITS["max_new_tokens"][0])
    shared = stats(loaded)["shared_tokens"] - before["shared_tokens"]
    whole = len(beginning) // BLOCK * BLOCK
    assert shared >= (len(prompts) - SLOTS) * whole


@pytest.mark.parametrize(
    ("scaling", "shares"),
    [
        ({"rope_type": "linear", "factor": 2.0}, True),
        ({"rope_type": "dynamic", "factor": 3.0}, False),
        (
            {
                "rope_type": "longrope", "original_max_position_embeddings": 40,
                "short_factor": (1.0, 1.1, 1.2), "long_factor": (1.0, 2.5, 4.0),
            },
            False,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_keys_that_depend_on_the_texts_length_are_not_shared(tmp_path, scaling, shares):
    rotary = gpt_keras.RotaryConfig(scaling=tuple(sorted(scaling.items())))
    server = Server(make_model(rotary=rotary), tmp_path)
    (beginning,) = random_prompts(1, seed=3, longest=2)
    beginning = [*beginning, *range(20, 44)]
    prompts = [beginning, [*beginning, 9], [*beginning, 50, 51], [*beginning, 60]]
    options = {"max_new_tokens": [6, 60, 12, 30]}  # as long as 31, 86, 39 and 56 tokens
    expected = server.alone(prompts, **options)
    with verification.load(server.path) as loaded:
        one_by_one = [
            ask(loaded, [prompt], max_new_tokens=[n])[0]
            for prompt, n in zip(prompts, options["max_new_tokens"], strict=True)
        ]
        together = ask(loaded, prompts, **options)
        told = stats(loaded)
    for i, (prompt, n) in enumerate(zip(prompts, options["max_new_tokens"], strict=True)):
        check(server, prompt, one_by_one[i], expected[i], n)
        check(server, prompt, together[i], expected[i], n)
    assert (told["shared_tokens"] > 0) == shares
    assert told["prompt_tokens"] + told["shared_tokens"] == 2 * sum(map(len, prompts))


def test_draws_depend_on_seed_and_step_alone(server, loaded):
    prompts = random_prompts(6, seed=4)
    options = {"temperature": [1.2], "top_p": [0.9], "seed": list(range(6)), "max_new_tokens": [20]}
    expected = server.alone(prompts, **options)
    together = ask(loaded, prompts, **options)
    own = [{**options, "seed": [seed]} for seed in range(6)]
    singly = at_once(
        [lambda p=p, o=o: ask(loaded, [p], **o)[0] for p, o in zip(prompts, own, strict=True)]
    )
    assert together == expected
    assert singly == expected


def test_penalties_are_those_of_the_row(server, loaded):
    prompts = random_prompts(5, seed=7, longest=30)
    options = {
        "repetition_penalty": [1.0, 1.4, 1.0, 0.8, 1.2], "temperature": [0.0, 0.0, 1.0, 0.0, 1.0],
        "presence_penalty": [0.0, 0.0, 1.5, -2.0, 0.5], "seed": [1, 2, 3, 4, 5],
        "frequency_penalty": [0.0, 0.3, 0.0, -1.0, 0.5], "max_new_tokens": [24],
    }  # fmt: skip
    expected = server.alone(prompts, **options)
    assert expected != server.alone(prompts, **LIMITS)
    assert ask(loaded, prompts, **options) == expected
    rows = [{k: v[i : i + 1] or v for k, v in options.items()} for i in range(5)]
    calls = [lambda p=p, o=o: ask(loaded, [p], **o)[0] for p, o in zip(prompts, rows, strict=True)]
    assert at_once(calls) == expected


def test_logprobs_beside_requests_that_ask_for_none(server, loaded):
    prompts = random_prompts(6, seed=8, longest=30)
    asked = [3, 0, 20, 0, 1, 7]
    names = ("token_logprobs", "top_logprobs", "top_tokens")

    def said(i):
        inputs = {"token_ids": [prompts[i]], "lengths": [len(prompts[i])]}
        return loaded.run("generate_tokens", {**inputs, "logprobs": [asked[i]], **LIMITS})

    answers = at_once([lambda i=i: said(i) for i in range(6)])
    for i, answer in enumerate(answers):
        options = generation.GenerationOptions.make(1, max_new_tokens=24, logprobs=asked[i])
        expected = generation.generate_tokens(
            server.model, tf.constant([prompts[i]]), tf.constant([len(prompts[i])]), options
        )
        assert answer["top_tokens"].shape[2] == asked[i]
        assert answer["tokens"].tolist() == expected.tokens.numpy().tolist()
        for name in names:
            np.testing.assert_allclose(answer[name], getattr(expected, name), atol=1e-4)


def test_requests_that_are_stopped_leave_the_others_alone(server, loaded):
    prompts = random_prompts(6, seed=5, longest=30)
    expected = server.alone(prompts, **LIMITS)
    ask(loaded, prompts[:1])
    until, stopped, answered = time.monotonic() + 90, [0], [0]

    def enough():
        return (stopped[0] >= 60 and answered[0] >= 30) or time.monotonic() > until

    def good(i):
        while not enough():
            (answer,) = ask(loaded, [prompts[i]], **LIMITS)
            check(server, prompts[i], answer, expected[i], LIMITS["max_new_tokens"][0])
            answered[0] += 1

    def killed(i):
        rng = random.Random(i)
        while not enough():
            prompt = rng.choice(prompts)[: rng.randint(0, 20)] + [rng.randint(8, 96)] * 8
            inputs = {"token_ids": [prompt], "lengths": [len(prompt)], "max_new_tokens": [60]}
            try:
                loaded.run("generate_tokens", inputs, timeout_ms=rng.randint(1, 40))
            except tf.errors.DeadlineExceededError:
                stopped[0] += 1

    at_once([lambda i=i: good(i) for i in range(3)] + [lambda i=i: killed(i) for i in range(3)])
    assert stopped[0] >= 60
    assert answered[0] >= 30
    slots_back(loaded)


def test_a_text_whose_lease_has_ended_writes_no_more(tmp_path, monkeypatch):
    """Its prompt waits behind a long one, so it has all its credit when its blocks are gone."""
    monkeypatch.setattr(slots, "LEASE_MS", 60)
    monkeypatch.setattr(slots, "LEASE_ROUNDS", 1)
    monkeypatch.setattr(step, "CHUNK", step.BESIDE)
    rng, context = np.random.default_rng(1), 8192
    model = make_model(eos_token_ids=(), max_position_embeddings=context)
    server = Server(model, tmp_path, slots=8, tokens=9600, context=context)
    stopped, alive = 0, 0
    for _ in range(3):
        long = rng.integers(8, 97, 8000).tolist()
        dead = long[:16] + rng.integers(8, 97, 23).tolist()
        new = rng.integers(8, 97, 44).tolist()
        with verification.load(server.path) as loaded:
            ask(loaded, [[9]], max_new_tokens=[2])
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                other = pool.submit(ask, loaded, [long], max_new_tokens=[4])
                time.sleep(0.06)
                inputs = {"token_ids": [dead], "lengths": [len(dead)], "max_new_tokens": [40]}
                try:
                    loaded.run("generate_tokens", inputs, timeout_ms=40)
                except tf.errors.DeadlineExceededError:
                    stopped += 1
                time.sleep(0.12)
                alive += not other.done()
                (answer,) = ask(loaded, [new], max_new_tokens=[24])
                other.result(timeout=60)
        check(server, new, answer, server.alone([new], max_new_tokens=[24])[0], 24)
    assert stopped
    assert alive


def slots_back(loaded):
    """Every slot can be had, once the leases of whoever was stopped have ended."""
    until = time.monotonic() + 30
    while stats(loaded)["slots_in_use"]:
        assert time.monotonic() < until
        ask(loaded, random_prompts(32, seed=9, longest=20), max_new_tokens=[60])


def test_whoever_waits_too_long_is_told(tmp_path):
    server = Server(make_model(eos_token_ids=()), tmp_path, slots=1, wait=0.2)
    with verification.load(server.path) as loaded:
        ask(loaded, [[9]], max_new_tokens=[2])
        until, refusals = time.monotonic() + 3, []

        def client():
            while time.monotonic() < until:
                try:
                    ask(loaded, [[9]] * 8, max_new_tokens=[95])
                except tf.errors.InvalidArgumentError as error:
                    refusals.append(error.message)

        at_once([client] * 3)
        assert refusals
        assert all("no room for 0.2 s: other requests hold the 1 slots" in r for r in refusals)
        assert stats(loaded)["slots_in_use"] == 0


def test_whoever_waits_longest_is_first(tmp_path):
    # Each takes longer than a busy machine lets a thread of the test wait.
    model = make_model(eos_token_ids=(), max_position_embeddings=1024)
    server = Server(model, tmp_path, slots=1, tokens=1024)
    order, lengths = [], [900, 500, 600, 800, 500, 700, 550, 500]
    with verification.load(server.path) as loaded:
        ask(loaded, [[9]] * 2, max_new_tokens=[2])  # the first to wait waits for the door's making

        def call(i):
            time.sleep(0.1 * i)
            ask(loaded, [[9 + i]], max_new_tokens=[lengths[i]])
            order.append(i)

        at_once([lambda i=i: call(i) for i in range(len(lengths))])
    assert order == sorted(order)


def test_rows_that_wait_lose_no_time_to_those_before_them(tmp_path):
    """Requests of several rows go to the door again and again."""
    server = Server(make_model(eos_token_ids=()), tmp_path, slots=2)
    prompts = [[[9 + 3 * i + j] for j in range(3)] for i in range(8)]
    with verification.load(server.path) as loaded:
        ask(loaded, [[9]] * 3, max_new_tokens=[2])
        begin = time.monotonic()
        answers = at_once([lambda p=p: ask(loaded, p, max_new_tokens=[20]) for p in prompts])
        seconds = time.monotonic() - begin
    for some, texts in zip(prompts, answers, strict=True):
        for prompt, answer, alone in zip(
            some, texts, server.alone(some, max_new_tokens=[20]), strict=True
        ):
            check(server, prompt, answer, alone, 20)
    assert seconds < 5  # 240 steps; each time that nobody could be let in cost half a second


def test_those_who_wait_do_not_hold_up_those_who_run(tmp_path):
    server = Server(make_model(eos_token_ids=()), tmp_path, slots=2)
    with verification.load(server.path) as loaded:
        ask(loaded, [[9]], max_new_tokens=[2])
        before = stats(loaded)
        at_once([lambda i=i: ask(loaded, [[9 + i]], max_new_tokens=[30]) for i in range(40)])
        after = stats(loaded)
    steps, visits = (after[name] - before[name] for name in ("steps", "visits"))
    assert steps >= 40 * 30 / 2
    assert visits < 4 * steps  # each step the owners of two slots come by, and one who waits


def test_models_and_versions_do_not_share(server, loaded, tmp_path):
    other = Server(make_model(seed=12), tmp_path)
    prompts = random_prompts(4, seed=6)
    with verification.load(other.path) as second, verification.load(server.path) as third:
        calls = [(s, at) for s, at in ((server, loaded), (other, second), (server, third))]
        answers = at_once([lambda at=at: ask(at, prompts, **LIMITS) for _, at in calls])
    for (each, _), texts in zip(calls, answers, strict=True):
        for prompt, answer, alone in zip(
            prompts, texts, each.alone(prompts, **LIMITS), strict=True
        ):
            check(each, prompt, answer, alone, LIMITS["max_new_tokens"][0])
    prompt = prompts[0]  # after the others were unloaded
    (answer,) = ask(loaded, [prompt], **LIMITS)
    check(server, prompt, answer, *server.alone([prompt], **LIMITS), LIMITS["max_new_tokens"][0])


def test_functions_of_branches_are_optimized_once(server):
    """A copy for each place that calls them would make a model ready a third later."""
    meta_graph = stock_ops.read(server.path).meta_graphs[0]
    tokens = meta_graph.signature_def["generate_tokens"].outputs["tokens"].name
    meta_graph.collection_def["train_op"].node_list.value.append(tokens)  # what Grappler keeps
    optimized = tf_optimizer.OptimizeGraph(tf.compat.v1.ConfigProto(), meta_graph)
    names = {f.signature.name for f in optimized.library.function}
    assert len([name for name in names if re.fullmatch(r"__inference__compute_\d+", name)]) == 3
    assert [name for name in names if re.match(r"__inference__compute_\d+_", name)] == []


def test_works_in_eager_tensorflow_too(server):
    restored = tf.saved_model.load(str(server.path))
    prompt = random_prompts(1, seed=8)[0]
    options = generation.GenerationOptions.make(1, max_new_tokens=24)
    inputs = {"token_ids": tf.constant([prompt]), "lengths": tf.constant([len(prompt)])}
    said = restored.signatures["generate_tokens"](**inputs, **options._asdict())
    answer = said["tokens"][0, : said["lengths"][0]].numpy().tolist()
    check(server, prompt, answer, *server.alone([prompt], **LIMITS), 24)


def test_a_former_tenants_nan_does_no_harm(tmp_path):
    """A prompt with a poisoned token leaves NaN in the blocks that the next text gets."""
    model = make_model(eos_token_ids=())
    table = model.backbone.embedding.table
    values = table.numpy()
    values[:, 96] = np.nan
    table.assign(values)
    server = Server(model, tmp_path, slots=1, tokens=CONTEXT)
    with verification.load(server.path) as loaded:
        ask(loaded, [[96] * 60], max_new_tokens=[30])
        (answer,) = ask(loaded, [[9, 10]], max_new_tokens=[30])
        assert answer == ask(loaded, [[9, 10]], max_new_tokens=[30])[0]
        assert answer
    with verification.load(server.path) as fresh:
        assert ask(fresh, [[9, 10]], max_new_tokens=[30]) == [answer]


def test_the_memory_is_not_on_disk(tmp_path):
    server = Server(make_model(), tmp_path, tokens=1 << 16)
    size = sum(f.stat().st_size for f in (tmp_path / "variables").iterdir())
    weights = sum(4 * w.shape.num_elements() for w in server.model.weights)
    assert size < weights + 30_000  # a pool of 6 MB would show


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"slots": 0}, "--max_slots=0: expected at least 1"),
        ({"block": 0}, "--block_size=0: expected at least 1"),
        ({"wait": 0}, "--max_wait=0: expected more than 0 seconds"),
        ({"context": 1}, "--max_context=1: expected 2 to the model's 96"),
        ({"context": 97}, "--max_context=97: expected 2 to the model's 96"),
        ({"tokens": 95}, "--cache_tokens=95: expected at least --max_context=96"),
    ],
)
def test_sizes_that_make_no_sense(sizes, message):
    with pytest.raises(ValueError, match=message):
        Capacity.of(make_model().config, **sizes)


def test_default_sizes():
    config = make_model().config
    assert Capacity.of(config) == Capacity(16, 96, 4096, 16, 30.0)
    long = config.replace(max_position_embeddings=131072)
    assert Capacity.of(long).context == 8192
    assert Capacity.of(config, tokens=100, block=8).blocks == 13
