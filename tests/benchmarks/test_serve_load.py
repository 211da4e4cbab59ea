"""Load on a server: what is sent, what is counted, and the program as a user runs it."""

import json
import subprocess
import sys

import grpc
import pytest

from benchmarks import load, serve_load
from export import cli
from export.client import Generation, ServerError

MIX = load.Mix(load.Range(2, 6), load.Range(3, 9), 0.5, seed=1)


class Instant:
    """A client of a server that answers at once, and refuses each third request."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, max_new_tokens, temperature):
        self.asked.append((*prompts, max_new_tokens))
        if len(self.asked) % 3 == 0:
            raise ServerError(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
        return [Generation("", b"", "length", 1, max_new_tokens, 0.0)]


def test_requests_depend_on_seed_and_number_alone():
    requests = [MIX.request(n) for n in range(200)]
    assert requests == [MIX.request(n) for n in range(200)]
    assert {len(prompt.split()) for prompt, _, _ in requests} == {2, 3, 4, 5, 6}
    assert {tokens for _, tokens, first in requests if not first} == set(range(3, 10))
    assert {tokens for _, tokens, first in requests if first} == {1}
    assert 60 < sum(first for _, _, first in requests) < 140
    other = load.Mix(MIX.prompt_words, MIX.answer_tokens, 0.5, seed=2)
    assert other.request(0) != MIX.request(0)


@pytest.mark.parametrize("text", ["0", "5-4", "x", "", "-3", "1-2-3", "1.5"])
def test_ranges_that_make_no_sense(text):
    with pytest.raises(cli.UsageError, match=rf"^--prompt_words={text}: expected a number above"):
        load.Range.parse("prompt_words", text)


def test_clients_ask_one_after_the_other():
    client = Instant()
    records = load.drive(client, MIX, clients=2, rate=None, seconds=0.2)
    assert len(records) == len(client.asked) > 10
    assert {r.code for r in records} == {"OK", "RESOURCE_EXHAUSTED"}
    expected = {MIX.request(n)[:2] for n in range(len(records))}
    assert set(client.asked) == expected


def test_requests_arrive_at_a_rate():
    records = load.drive(Instant(), MIX, clients=None, rate=400, seconds=0.5)
    assert 140 < len(records) < 260
    assert all(0 <= r.due < 0.5 for r in records)
    assert all(r.end >= r.due for r in records)


def test_figures():
    records = [
        load.Record(0.5, 0.9, "OK", False, 100),  # before the warm-up was over
        load.Record(0.9, 1.9, "OK", False, 5),  # nine tenths of it count
        load.Record(1.0, 2.0, "OK", False, 10),
        load.Record(1.0, 3.0, "OK", False, 20),
        load.Record(1.2, 1.3, "OK", True, 1),
        load.Record(1.3, 1.4, "UNAVAILABLE", False, 0),
        load.Record(2.5, 7.5, "OK", False, 50),  # half of it counts
        load.Record(5.5, 6.0, "OK", False, 50),
    ]
    tenth = dict.fromkeys(["p50", "p95", "p99"], pytest.approx(0.1))
    assert load.figures(records, 1, 5) == {
        "requests_per_s": pytest.approx((0.9 + 1 + 1 + 1 + 0.5) / 4),
        "tokens_per_s": pytest.approx((4.5 + 10 + 20 + 1 + 25) / 4),
        "latency_s": {"p50": 2.0, "p95": pytest.approx(4.7), "p99": pytest.approx(4.94)},
        "first_token_s": tenth,
        "token_s": tenth,
        "requests": 5,
        "errors": {"UNAVAILABLE": 1},
    }
    assert load.figures([], 0, 1)["latency_s"] is None


def test_summary_and_ratios():
    rounds = [
        {"tokens_per_s": t, "latency_s": {"p50": t}, "token_s": None, "errors": {"X": 1}}
        for t in (10.0, 40.0, 30.0)
    ]
    halves = [{"tokens_per_s": t} for t in (5.0, 10.0, 15.0)]
    assert serve_load.summary(rounds) == {
        "tokens_per_s": 30.0, "latency_s": {"p50": 30.0}, "token_s": None, "errors": {"X": 3},
    }  # fmt: skip
    compared = serve_load.ratios({"8 clients": {"a": rounds, "b": halves}})
    assert compared == {"8 clients": {"a / b": 2.0}}


class Counting(Instant):
    """One that shares its steps, too."""

    def predict(self, inputs, signature):
        return {"steps": [len(self.asked)], "tokens": [4 * len(self.asked)]}


class Alone(Instant):
    """And one that does not."""

    def predict(self, inputs, signature):
        raise ValueError("the model has no signature 'stats'")


def test_models_are_measured_in_turn(tmp_path):
    clients = {"a": Counting(), "b": Alone()}
    found = serve_load.measure(clients, MIX, (2, None), 0.1, 0.2)
    assert found["a"][0]["texts_per_step"] == 4
    assert "texts_per_step" not in found["b"][0]
    results = {"2 clients": {name: [figures] for name, (figures, _) in found.items()}}
    lines = serve_load.table(results).splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["a", "b"]
    assert "RESOURCE_EXHAUSTED" in lines[1]
    records = {"2 clients": {name: of_it for name, (_, of_it) in found.items()}}
    serve_load.picture(tmp_path / "picture.png", records, results)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def run(*args):
    command = [sys.executable, "-m", "benchmarks.serve_load", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.xdist_group("benchmarks")
def test_the_program(exported, tmp_path):
    output = tmp_path / "bench" / "load.json"
    result = run(
        f"--compare=a={exported[0]}", "--clients=1,3", "--rounds=2", "--seconds=1",
        "--warmup=0.5", "--prompt_words=1-4", "--answer_tokens=2-6", "--first_token_share=0.3",
        f"--output={output}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(output.read_text())
    assert list(report["median"]) == ["1 client", "3 clients"]
    for by_name in report["median"].values():
        figures = by_name["a"]
        assert figures["errors"] == {}
        assert figures["requests_per_s"] > 0
        assert figures["texts_per_step"] > 0
        assert figures["latency_s"]["p50"] > figures["token_s"]["p50"] > 0
        assert figures["first_token_s"]["p50"] > 0
    assert len(report["rounds"]["3 clients"]["a"]) == 2
    assert output.with_suffix(".png").exists()


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "expected one of --server, --model_base_path and --compare"),
        (["--compare=a"], 2, "'a': expected NAME=models/NAME"),
        (["--server=x:1", "--clients=0"], 2, "--clients=0: expected numbers above 0"),
        (["--server=127.0.0.1:1", "--timeout=1"], 1, "error: UNAVAILABLE"),
        (["--model_base_path=/nowhere"], 1, "/nowhere: the server did not start; it said: error"),
    ],
)
def test_what_goes_wrong(args, status, message):
    result = run(*args)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
