"""Models of the Hub, from a server on loopback that answers as the Hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import keras
import pytest

import gpt_keras
from gpt_keras import checkpoint
from gpt_keras.checkpoint import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = gpt_keras.GPTConfig(
    vocab_size=31, hidden_size=12, num_layers=1, num_heads=2, intermediate_size=8,
    max_position_embeddings=16,
)  # fmt: skip
SCRIPT = """
import json, sys
import gpt_keras
from gpt_keras import checkpoint
for name, options in json.loads(sys.argv[1]):
    try:
        model = gpt_keras.CausalLM.from_pretrained(name, **options)
        print(json.dumps(sum(float(abs(w.numpy()).sum()) for w in model.weights)))
        if not options:
            print(json.dumps(checkpoint.read_config(name).vocab_size))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


class Hub(http.server.ThreadingHTTPServer):
    """One public model `org/tiny`, with a branch `v1`, and one whose owner asks for consent."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = files, []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if "/gated" in path:
            return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if "org/tiny" not in path:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        parts = path.removeprefix("/api/models").strip("/").split("/")
        if len(parts) > 3 and parts[3] not in ("main", "v1", COMMIT):
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if parts[2:3] == ["resolve"]:
            data = self.server.files.get("/".join(parts[4:]))
            if data is None:
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            tag = hashlib.sha1(data).hexdigest()
            return self._answer(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        if parts[2:3] == ["tree"]:
            listed = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in self.server.files.items()
            ]
            return self._answer(200, json.dumps(listed).encode(), {"X-Repo-Commit": COMMIT})
        listed = [{"rfilename": name} for name in self.server.files]
        model = {"id": "org/tiny", "sha": COMMIT, "siblings": listed, "private": False}
        return self._answer(200, json.dumps(model).encode(), {})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status, data, headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(3)
    model = gpt_keras.CausalLM(CONFIG)
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    model.save_pretrained(folder)
    model.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return model


@pytest.fixture
def served(model):
    others = {"pytorch_model.bin": b"code", "modeling.py": b"code", "onnx/config.json": b"{}"}
    sentences = {"modules.json": b"[]", "1_Pooling/config.json": b"{}"}
    server = Hub(model.files | others | sentences)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(home, endpoint, *calls, **environment):
    """What a process of its own prints: the library reads its environment once."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)], capture_output=True, text=True,
        check=True, cwd=home,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(home / "cache"),
            "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **environment,
        },
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_is_fetched_and_kept(model, served, tmp_path):
    endpoint = f"http://127.0.0.1:{served.server_port}"
    whole = pytest.approx(sum(float(abs(w.numpy()).sum()) for w in model.weights))
    answers = load(
        tmp_path, endpoint, ("org/tiny", {}), ("org/tiny@v1", {}), ("org/tiny", {"revision": "v1"}),
        ("org/tiny@v2", {}), ("org/none", {}), ("org/gated", {}),
        ("org/tiny@v1", {"revision": "v1"}),
    )  # fmt: skip
    assert answers[:5] == [whole, 31, whole, 31, whole]
    assert "org/tiny@v2: no such model directory or .gguf file; the Hub's has no" in answers[5]
    assert "the Hub has no such model either; for a private one set HF_TOKEN" in answers[6]
    assert "asks for consent: give it on its page, and set HF_TOKEN" in answers[7]
    assert "revision='v1' besides; give one of them" in answers[8]
    fetched = {path.rsplit("/", 1)[1] for path in served.asked if "/resolve/" in path}
    assert fetched == {*model.files, "modules.json"}  # no code, no pickle
    assert [path for path in served.asked if "/resolve/" in path and "1_Pooling" in path]

    asked = len(served.asked)
    only = {"local_files_only": True}
    offline = load(tmp_path, endpoint, ("org/tiny", only), ("org/other", only))
    offline += load(tmp_path, endpoint, ("org/tiny", {}), HF_HUB_OFFLINE="1")
    assert offline[:1] + offline[2:] == [whole, whole, 31]
    assert "is not in the Hub's cache, and the Hub cannot be asked from here" in offline[1]
    assert len(served.asked) == asked


def test_names():
    names = ("org/name", "org-1/name.2@v1.0", "org/name@refs/pr/1")
    assert [hub.is_name(name) for name in names] == [True] * 3
    paths = ("/org/name", "./org/name", "org", "a/b/c", "org/model.gguf", "~/model", "../b", "")
    assert [hub.is_name(path) for path in paths] == [False] * len(paths)


def test_a_path_with_a_slip_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        ValueError, match=r"^runs/smolm: no such model directory or .gguf file; give"
    ):
        checkpoint.read_config("runs/smolm")
    (tmp_path / "runs" / "smollm").mkdir()
    with pytest.raises(ValueError, match="runs/smollm: is here: no revision='v1'"):
        gpt_keras.CausalLM.from_pretrained("runs/smollm", revision="v1")
