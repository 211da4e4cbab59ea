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

    @tf.function(input_signature=[STRINGS, STRINGS])
    def score(self, prompts, completions):
        sizes = [tf.strings.length(texts) for texts in (prompts, completions)]
        return {"logprob": -tf.cast(tf.add(*sizes), tf.float32) / 4, "num_tokens": sizes[1]}

    @tf.function(input_signature=[STRINGS, STRINGS])
    def answer(self, questions, contexts):
        there = tf.strings.length(questions) > 1
        end = tf.where(there, tf.strings.length(contexts, "UTF8_CHAR"), -1)
        return {
            "text": tf.where(there, contexts, ""),
            "start": tf.where(there, 0, -1),
            "end": end,
            "score": tf.where(there, 0.75, 0.5),
        }

    @tf.function(input_signature=[STRINGS, STRINGS])
    def classify_topics(self, texts, pairs):
        """Several labels a text, of which those that the pair says are right."""
        return {**self.classify(texts), "num_labels": tf.strings.to_number(pairs, tf.int32)}

    @tf.function(input_signature=[STRINGS])
    def regress(self, texts):
        return {"value": tf.cast(tf.strings.length(texts), tf.float32) / 4}

    @tf.function(input_signature=[STRINGS])
    def embed(self, texts):
        return {"embedding": tf.stack([self.regress(texts)["value"]] * 2, axis=1)}

    @tf.function(input_signature=[STRINGS, STRINGS])
    def rank(self, queries, documents):
        return {"score": self.regress(queries)["value"] - self.regress(documents)["value"]}

    @tf.function(input_signature=[STRINGS])
    def fill_mask(self, texts):
        """Two fillings of a text that begins with a mask, _."""
        there = tf.strings.regex_full_match(texts, "_.*")
        tokens = tf.where(there[:, None], [["é", "b"]], "")
        return {
            "tokens": tokens,
            "scores": tf.where(there[:, None], [[0.75, 0.25]], 0.0),
            "texts": tf.strings.join([tokens, tf.tile(texts[:, None], [1, 2])]),
            "num_masks": tf.cast(there, tf.int32),
        }

    @tf.function(input_signature=[STRINGS])
    def tag(self, texts):
        """Each word is a span."""
        words = tf.strings.split(texts)
        starts = tf.ragged.map_flat_values(lambda x: tf.range(tf.size(x)), words)
        found = {
            "labels": tf.strings.upper(words, "utf-8"), "texts": words, "starts": starts,
            "ends": starts + 2, "byte_starts": starts, "byte_ends": starts + 3,
            "scores": tf.cast(starts, tf.float32) / 4,
        }  # fmt: skip
        dense = {
            name: value.to_tensor("" if value.dtype == tf.string else -1)
            for name, value in found.items()
        }
        return {**dense, "num_spans": tf.cast(words.row_lengths(), tf.int32)}

    @tf.function(input_signature=[STRINGS, STRINGS])
    def relations(self, texts, entities):
        """One of each text that is not empty, with the entities as they came."""
        there = texts != ""
        one = tf.ones_like(texts, tf.int32)[:, None]
        return {
            "heads": one - 1, "tails": one, "labels": entities[:, None],
            "scores": tf.cast(one, tf.float32) / 2, "head_texts": texts[:, None],
            "tail_texts": texts[:, None], "num_relations": tf.cast(there, tf.int32),
        }  # fmt: skip

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, n):
        return {"n": tf.while_loop(lambda i: i < n[0], lambda i: [i + 1], [tf.constant(0)])[0]}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    toy = Toy()
    names = (
        "generate", "chat", "score", "classify", "classify_topics", "regress", "embed", "rank",
        "fill_mask", "tag", "relations", "answer", "spin",
    )  # fmt: skip
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


def test_score(toy):
    scores = toy.score(["a", "ab"], ["b", "cde"])
    assert scores == [client.Score(-0.5, 1), client.Score(-1.25, 3)]
    assert toy.score("ab", "cde") == scores[1:]


def test_answer(toy):
    found = toy.answer(["who?", "?"], ["é!", "b"])
    assert found == [client.Answer("é!", 0, 2, 0.75), client.Answer("", -1, -1, 0.5)]
    assert toy.answer("who?", "é!") == found[:1]


def test_signatures_of_texts(toy):
    of_topics = toy.classify(["a", "b"], ["1", "2"], task="topics")
    assert of_topics == [client.Classification(("bién", "mal"), (0.75, 0.25), n) for n in (1, 2)]
    assert toy.regress(["a", "abcd"]) == [0.25, 1.0]
    np.testing.assert_array_equal(toy.embed(["a", "abcd"]), np.float32([[0.25] * 2, [1] * 2]))
    assert toy.rank(["abcd", "a"], ["a", "a"]) == [0.75, 0.0]
    assert toy.fill_mask(["_!", "none"]) == [
        [client.Filling("é", 0.75, "é_!"), client.Filling("b", 0.25, "b_!")],
        [],
    ]
    spans = [client.Span("É", "é", 0, 2, 0.0), client.Span("B", "b", 1, 3, 0.25)]
    assert toy.tag(["é b", ""]) == [spans, []]
    assert toy.tag("") == [[]]


def test_entities_of_relations(toy):
    """They are what `tag` gives, pairs of numbers, or JSON as it is."""
    spans = toy.tag(["é b", ""])
    found = [client.Relation(0, 1, "[[0, 2], [1, 3]]", 0.5, "é b", "é b")]
    assert toy.relations(["é b", ""], spans) == [found, []]
    for one in ([(0, 2), [1, 3]], "[[0, 2], [1, 3]]"):
        assert toy.relations("é b", [one]) == [found]
    assert toy.relations("é b", "[[0, 2], [1, 3]]") == [found]


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
        (lambda c: c.predict({}, "x"), "the model has no signature 'x'; it has answer, chat, "
         "classify, classify_topics, embed, fill_mask, generate, rank, regress, relations, score, "
         "spin, tag"),
        (lambda c: c.tag("a", task="x"), "the model has no signature 'tag_x'; it has answer"),
        (lambda c: c.classify("a", "b"), "pairs: the model's signature 'classify' has no such"),
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
        (["score", "--prompt=a", "--completion=b", "--completion=cde"],
         "-0.5000\t1\tb\n-1.0000\t3\tcde\n"),
        (
            ["answer", "--question=who", "--question=?", "--context=é"],
            "é\t0.750\twho\n(no answer)\t0.500\t?\n",
        ),
        (
            ["classify", "--task=topics", "--text=a", "--text=b", "--pair=1"],
            "bién 0.750  (mal 0.250)\ta\nbién 0.750  (mal 0.250)\tb\n",
        ),
        (["regress", "--text=a", "--text=ab"], "0.2500\ta\n0.5000\tab\n"),
        (
            ["classify", "--task=topics", "--text=a", "--pair=1", "--pair=2"],
            "bién 0.750  (mal 0.250)\ta\t1\nbién 0.750  mal 0.250\ta\t2\n",
        ),
        (["embed", "--text=a"], "0.25 0.25\n"),
        (
            ["rank", "--query=abcd", "--document=a", "--document=ab"],
            "0.7500\ta\n0.5000\tab\n",
        ),
        (["fill_mask", "--text=_!", "--text=x"], "é 0.750  b 0.250\t_!\n(none)\tx\n"),
        (["tag", "--text=é b", "--text="], "É é 0-2 0.000  B b 1-3 0.250\té b\n(none)\t\n"),
        (
            ["relations", "--text=Ada", "--text=", "--entities=[[0, 1]]"],
            "Ada [[0, 1]] Ada 0.500\tAda\n(none)\t\n",
        ),
        (["status", "--version=1"], "version 1: AVAILABLE\n"),
    ],
)  # fmt: skip
def test_commands(address, args, out):
    done = command(*args, server=address)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, "")


COMMANDS = (
    "expected one of generate, chat, score, classify, regress, embed, rank, fill_mask, tag, "
    "relations, answer, status"
)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, f"{COMMANDS}, not nothing"),
        (["sing"], 2, f"{COMMANDS}, not 'sing'"),
        (["generate"], 2, "--prompt is missing"),
        (["chat"], 2, "--message is missing"),
        (["score", "--prompt=a"], 2, "--completion is missing"),
        (
            ["score", "--prompt=a", "--prompt=b", *["--completion=c"] * 3],
            2,
            "2 --prompt for 3 rows: give one for all or one for each",
        ),
        (["rank", "--query=a"], 2, "--document is missing"),
        (["relations", "--text=a"], 2, "--entities is missing"),
        (["tag", "--text=a", "--task=x"], 1, "the model has no signature 'tag_x'; it has answer,"),
        (["classify", "--text=a", "--pair=b"], 1, "pairs: the model's signature 'classify' has no"),
        (["classify", "text"], 2, "unexpected argument 'text': every option is a --flag=value"),
        (["status", "--version=x"], 2, "flag --version=x: invalid literal"),
        (["generate", "--prompt=a", "--top_k=1"], 1, "top_k: the model's signature 'generate' has"),
        (["status", "--version=9"], 1, "NOT_FOUND: Could not find version 9 of model toy"),
        (
            ["classify", "--task=topics", "--text=a", "--pair=x"],
            1,
            "INVALID_ARGUMENT: StringToNumberOp could not correctly convert string: x",
        ),
        (["status", "--server=127.0.0.1:1"], 1, "UNAVAILABLE: failed to connect to all addresses"),
    ],
)
def test_commands_refused(address, args, status, message):
    done = command(*args, server=None if "--server=127.0.0.1:1" in args else address)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert "[[" not in done.stderr  # which node it was


def test_help():
    told = command("--help").stdout
    assert "python -m export.client generate --server=" in told
    assert "python -m export.client relations --server=" in told
    for flag in ("server", "ca_file", "message", "max_new_tokens", "task", "text", "entities"):
        assert f"\n  --{flag}: " in told
