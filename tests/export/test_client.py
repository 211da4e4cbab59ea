"""The client in Python and on the command line, against real servers."""

import json
import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf

from export import client
from export.server import model_config, servable
from export.server.configuration import Configuration
from export.server.manager import ModelManager
from export.server.model_server import ModelServer
from export.server.options import Options

STRINGS = tf.TensorSpec([None], tf.string)
MANY, COLD = tf.constant([4]), tf.constant([0.0])
FRESH, NEVER = tf.constant([-1], tf.int64), tf.constant(["[]"])
OPTIONS = [tf.TensorSpec([None], default.dtype) for default in (MANY, COLD, FRESH, NEVER)]


def echo(texts, max_new_tokens, temperature, seed, stop):
    """Answers with what it was asked."""
    rows = tf.shape(texts)

    asked = [tf.strings.as_string(tf.broadcast_to(value, rows)) for value in (max_new_tokens, seed)]
    asked.append(tf.strings.as_string(tf.broadcast_to(temperature, rows), precision=2))
    asked = [texts, *asked, tf.broadcast_to(stop, rows)]
    return {
        "text": tf.strings.join(asked, "|"),
        "text_bytes": tf.strings.join([texts, tf.fill(rows, b"\xff")]),
        "finish_reason": tf.fill(rows, "length"),
        "prompt_tokens": tf.strings.length(texts),
        "num_tokens": tf.broadcast_to(max_new_tokens, rows),
        "logprob": tf.fill(rows, -1.5),
        "top_logprobs": tf.zeros([rows[0], 2, 3]),
    }


class Toy(tf.Module):
    @tf.function(input_signature=[STRINGS, *OPTIONS])
    def generate(self, prompts, max_new_tokens=MANY, temperature=COLD, seed=FRESH, stop=NEVER):
        return echo(prompts, max_new_tokens, temperature, seed, stop)

    @tf.function(input_signature=[STRINGS, *OPTIONS])
    def chat(self, messages, max_new_tokens=MANY, temperature=COLD, seed=FRESH, stop=NEVER):
        return echo(messages, max_new_tokens, temperature, seed, stop)

    @tf.function(input_signature=[STRINGS])
    def classify(self, texts):
        rows = tf.shape(texts)[0]
        return {
            "labels": tf.tile([["bién", "mal"]], [rows, 1]),
            "scores": tf.tile([[0.75, 0.25]], [rows, 1]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, n):
        return {"n": tf.while_loop(lambda i: i < n[0], lambda i: [i + 1], [tf.constant(0)])[0]}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    toy = Toy()
    names = ("generate", "chat", "classify", "spin")
    tf.saved_model.save(toy, str(path / "1"), {name: getattr(toy, name) for name in names})
    config = model_config.of_one_model("toy", str(path))
    manager = ModelManager(servable.load)
    manager.start()
    configuration = Configuration(manager)
    configuration.start(config)
    assert manager.wait(timeout=60)
    server = ModelServer(configuration, Options(port=0))
    yield f"127.0.0.1:{server.port}"
    server.stop()
    manager.stop()


@pytest.fixture
def toy(address):
    with client.Client(address, "toy") as made:
        yield made


def test_generate(toy):
    assert toy.generate(["ab", "é"], temperature=0.5, max_new_tokens=[1, 2], stop=["x", "\n"]) == [
        client.Generation('ab|1|-1|0.50|["x", "\\n"]', b"ab\xff", "length", 2, 1, -1.5),
        client.Generation('é|2|-1|0.50|["x", "\\n"]', "é".encode() + b"\xff", "length", 2, 2, -1.5),
    ]
    each = toy.generate(["ab", "é"], stop=[["x"], []])
    assert [one.text.split("|")[-1] for one in each] == ['["x"]', "[]"]
    (one,) = toy.generate("ab", seed=2**40)
    assert one.text == f"ab|4|{2**40}|0.00|[]"


def test_chat(toy):
    turns = [{"role": "user", "content": 'é"\n'}]
    first, second = toy.chat([turns, [*turns, {"role": "assistant", "content": ""}]])
    assert json.loads(first.text.split("|")[0]) == turns
    assert len(json.loads(second.text.split("|")[0])) == 2
    assert toy.chat(turns) == [first]


def test_classify(toy):
    found = toy.classify(["a", "b"])
    assert found == [client.Classification(("bién", "mal"), (0.75, 0.25))] * 2
    assert (found[0].label, found[0].score) == ("bién", 0.75)
    assert len(toy.classify("one text")) == 1


def test_predict_and_status(toy):
    answer = toy.predict({"prompts": ["a"]}, "generate", ["text", "top_logprobs"])
    assert answer == {"text": [b"a|4|-1|0.00|[]"], "top_logprobs": [[[0.0] * 3] * 2]}
    assert toy.predict({"n": np.array([3])}, "spin") == {"n": 3}
    assert toy.status() == [client.VersionStatus(1, "AVAILABLE", "")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.generate(["a"], top_k=1), "top_k: the model's signature 'generate' has no "
         "such input; it has max_new_tokens, prompts, seed, stop, temperature"),
        (lambda c: c.predict({}, "x"), "the model has no signature 'x'; it has chat, classify, "
         "generate, spin"),
        (lambda c: c.generate(["a"], max_new_tokens=1.5), "max_new_tokens=.*: expected int32"),
        (lambda c: c.generate(["a"], max_new_tokens=2**31), "max_new_tokens=.*: out of the range"),
        (lambda c: c.generate(["a"], max_new_tokens="many"), "max_new_tokens=.*: expected int32"),
        (lambda c: c.generate([1]), "prompts: expected strings in lists of one length, not 1"),
        (lambda c: c.predict({"prompts": [["a"], ["b", "c"]]}, "generate"), "prompts: expected"),
    ],
)  # fmt: skip
def test_requests_that_are_not_sent(toy, call, message):
    with pytest.raises(ValueError, match=message):
        call(toy)


def test_server_says_no(address):
    for name, version, code, message in (
        ("none", None, "NOT_FOUND", "Servable not found for request: Latest(none)"),
        ("toy", 9, "NOT_FOUND", "Servable not found for request: Specific(toy, 9)"),
    ):
        with (
            client.Client(address, name, version) as made,
            pytest.raises(client.ServerError) as caught,
        ):
            made.generate(["a"])
        assert (caught.value.code.name, caught.value.message) == (code, message)
        assert str(caught.value) == f"{code}: {message}"


def test_deadline(toy):
    with pytest.raises(client.ServerError) as caught:
        toy.predict({"n": [2**31 - 1]}, "spin", timeout=0.3)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def command(*args, server=None):
    at = [f"--server={server}", "--model_name=toy"] if server else []
    return subprocess.run(
        [sys.executable, "-m", "export.client", *args, *at],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "out"),
    [
        (["generate", "--prompt=é", "--prompt=b"], "é|4|-1|0.00|[]\nb|4|-1|0.00|[]\n"),
        (
            ["generate", "--prompt=a", "--max_new_tokens=2", "--temperature=0.5", "--seed=7",
             "--stop=x", "--stop=y"],
            'a|2|7|0.50|["x", "y"]\n',
        ),
        (
            ["chat", "--message=hi", "--system=Be brief"],
            '[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hi"}]'
            "|4|-1|0.00|[]\n",
        ),
        (
            ["classify", "--text=a", "--text=b"],
            "bién 0.750  mal 0.250\ta\nbién 0.750  mal 0.250\tb\n",
        ),
        (["status", "--version=1"], "version 1: AVAILABLE\n"),
    ],
)  # fmt: skip
def test_commands(address, args, out):
    done = command(*args, server=address)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, "")


COMMANDS = "expected one of generate, chat, classify, regress, embed, status"


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, f"{COMMANDS}, not nothing"),
        (["sing"], 2, f"{COMMANDS}, not 'sing'"),
        (["generate"], 2, "--prompt is missing"),
        (["chat"], 2, "--message is missing"),
        (["classify", "text"], 2, "unexpected argument 'text': every option is a --flag=value"),
        (["status", "--version=x"], 2, "flag --version=x: invalid literal"),
        (["generate", "--prompt=a", "--top_k=1"], 1, "top_k: the model's signature 'generate' has"),
        (["status", "--version=9"], 1, "NOT_FOUND: Could not find version 9 of model toy"),
        (["status", "--server=127.0.0.1:1"], 1, "UNAVAILABLE: failed to connect to all addresses"),
    ],
)
def test_commands_refused(address, args, status, message):
    done = command(*args, server=None if "--server=127.0.0.1:1" in args else address)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_help():
    told = command("--help").stdout
    assert "python -m export.client generate --server=" in told
    for flag in ("server", "ca_file", "message", "max_new_tokens"):
        assert f"\n  --{flag}: " in told
