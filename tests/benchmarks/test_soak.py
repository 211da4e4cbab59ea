"""The soak as a user runs it, and that it finds what it is there to find."""

import dataclasses
import json
import subprocess
import sys
import time

import grpc
import pytest
import tensorflow as tf

import gpt_keras
from benchmarks import soak
from export.client import Generation, ServerError
from gpt_keras import generation

pytestmark = pytest.mark.xdist_group("benchmarks")


def run(versions, output, *args):
    command = [
        sys.executable, "-m", "benchmarks.soak", f"--model_base_path={versions}", "--minutes=0.1",
        "--warmup_minutes=0.05", "--prompt_words=1-4", "--answer_tokens=2-20", "--texts=6",
        "--clients=4", "--longest_deadline=0.05", f"--output={output}", *args,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_program(exported, tmp_path):
    versions, model = exported
    result = run(versions, tmp_path / "soak.json", f"--model={model}", "--max_growth=0.5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("all is well\n")
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["problems"] == []
    assert report["slots_in_use"] == 0
    found = {(entry["kind"], entry["code"]): entry["requests"] for entry in report["counts"]}
    for kind in soak.KINDS:
        for code in soak.FATES[kind] - {"OK"} or {"OK"}:
            assert found.get((kind, code)), (kind, code)
    assert report["stats"]["tokens"] >= report["stats"]["steps"] > 0


@pytest.fixture(scope="module")
def model(exported):
    return gpt_keras.CausalLM.from_pretrained(exported[1])


def test_answers_that_are_as_good(model):
    prompt = model.tokenizer.tokenize(["the water"]).to_tensor()
    options = generation.GenerationOptions.make(1, max_new_tokens=6)
    generated = generation.generate_tokens(model, prompt, tf.shape(prompt)[1:], options)
    said = model.decode_answers(generated).numpy()[0]
    answer = Generation(said.decode(errors="replace"), said, "length", prompt.shape[1], 6, 0.0)
    assert soak.is_as_good(model, "the water", 6, answer)
    for wrong in (
        dataclasses.replace(answer, text_bytes=answer.text_bytes + b"x"),
        dataclasses.replace(answer, text_bytes=answer.text_bytes[:-1]),
        dataclasses.replace(answer, num_tokens=5),
    ):
        assert not soak.is_as_good(model, "the water", 6, wrong)


class Forgetful:
    """A client of a server that says something else each time, and takes everything."""

    def __init__(self):
        self.asked = 0

    def generate(self, prompts, **_):
        self.asked += 1
        said = f"{self.asked}".encode()
        return [Generation(said.decode(), said, "length", 1, 1, 0.0) for _ in prompts]


class Refusing:
    """A client of a server that has no room."""

    def generate(self, prompts, **_):
        raise ServerError(grpc.StatusCode.INVALID_ARGUMENT, "no room for 30 s")


def test_what_is_not_as_it_should_be_is_found(monkeypatch):
    kinds = [kind for kind in soak.KINDS if kind != "cancel"]
    monkeypatch.setattr(soak, "KINDS", dict.fromkeys(kinds, 1))
    text = soak.Text("a", 1, Generation("0", b"0", "length", 1, 1, 0.0))
    found = {}
    for client in (Forgetful(), Refusing()):
        findings = soak.Findings()
        visitor = soak.Visitor(client, None, [text], findings, 0.01, seed=1)
        visitor.run(time.monotonic() + 0.2)
        found[type(client)] = {line.split(": ")[0] for line in findings.odd}, findings.differing
    assert found[Forgetful][0] == {"too long", "bad option"}
    assert len(found[Forgetful][1]) > 10
    assert found[Refusing] == ({"good", "deadline"}, set())
    assert len(soak.wrong(found[Forgetful][1], None)) == len(found[Forgetful][1])
