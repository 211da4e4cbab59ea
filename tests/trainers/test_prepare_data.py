import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers as hf

from trainers import args, data, prepare_data, shards
from trainers.chunks import read_texts
from trainers.data_flags import data_flags, train_data_flags
from trainers.preparation import Preparation
from trainers.records import find_files

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "über", "日本", "42", "\n\n", "x" * 40]


def make_text(rng, words):
    return " ".join(rng.choice(WORDS, words))


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of files in several forms, with copies within and between them, and empty texts."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    documents = [make_text(rng, rng.integers(1, 60)) for _ in range(300)]
    write_jsonl(folder / "a.jsonl", [*documents[:150], documents[3], "", documents[7]])
    rows = [f'"{text}"' for text in [*documents[150:], documents[9], documents[200]]]
    (folder / "b.csv").write_text("\n".join(["body", *rows]))
    write_jsonl(folder / "c.jsonl", documents[:5])  # copies alone
    return folder


def command(texts, model_dir, folder, **values):
    values = {
        "train_data": texts, "tokenizer": model_dir, "output_dir": folder,
        "text_column": "body", "num_processes": 1, "shard_tokens": 3000, **values,
    }  # fmt: skip
    return ["prepare_data", *(f"--{name}={value}" for name, value in values.items())]


def run(arguments):
    return args.exit_status(prepare_data.main, prepare_data.FLAGS, arguments)


@pytest.fixture(scope="module")
def prepared(texts, model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "out"
    assert run(command(texts, model_dir, path)) == 0
    return shards.open_folder(path)


def documents_of(folder, split):
    return [
        part.tolist()
        for shard in folder.shards(split)
        for part in np.split(shard.tokens, shard.offsets[1:-1])
    ]


def test_shards_hold_what_the_reference_makes_of_the_texts(prepared, texts, model_dir):
    flags = args.parse(
        (train_data_flags, data_flags),
        ["x", "--text_column=body", f"--train_data={texts}"],
    )
    records = data.load_records("causal_lm", flags.train_data, flags)
    reference = hf.Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    once = list({record["text"]: record for record in records if record["text"]}.values())
    train, held_out = data.hold_out("causal_lm", once, 0.1)
    for split, expected in (("train", train), ("eval", held_out)):
        ids = [[*reference.encode(record["text"]).ids, 0] for record in expected]
        assert documents_of(prepared, split) == ids
        entry = prepared.manifest["splits"][split]
        lengths = [len(document) for document in ids]
        assert entry["lengths"]["mean"] == pytest.approx(np.mean(lengths))
        assert (entry["documents"], entry["tokens"]) == (len(ids), sum(lengths))
        # The end of the text stands for no bytes, and nothing predicts the first token.
        first = [len(reference.decode([document[0]]).encode()) for document in ids if document]
        sizes = [len(record["text"].encode()) for record in expected]
        if all("\ufffd" not in reference.decode([document[0]]) for document in ids):
            assert entry["target_bytes"] == sum(sizes) - sum(first)
    counts = prepared.manifest["documents"]
    assert counts["read"] == len(records)
    # The empty text is no duplicate.
    assert counts["duplicate"] == len(records) - len(once) - 1
    assert counts["empty"] == 1
    assert len(prepared.shards("train")) > 0


def test_a_finished_folder_is_left_as_it_is(prepared, texts, model_dir, capsys):
    manifest = os.path.join(prepared.path, shards.MANIFEST)
    before = os.stat(manifest).st_mtime_ns
    assert run(command(texts, model_dir, prepared.path, num_processes=2)) == 0
    assert "prepared already" in capsys.readouterr().out
    assert run(command(texts, model_dir, prepared.path, shard_tokens=9)) == 2
    assert "--shard_tokens=9 differs from 3000, with which" in capsys.readouterr().err
    assert os.stat(manifest).st_mtime_ns == before


def test_misuse(texts, model_dir, prepared, tmp_path, capsys):
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "numbers.jsonl").write_text('{"body": "a"}\n{"body": 7}\n')
    cases = [
        ({"train_data": ""}, 2, "--train_data is missing"),
        ({"output_dir": ""}, 2, "--output_dir is missing"),
        ({"output_dir": tmp_path}, 2, "is not an empty folder, and holds no shards"),
        ({"output_dir": texts / "out"}, 2, "whose files are to be read; name another"),
        ({"train_data": tmp_path / "no.txt"}, 1, "no such file"),
        ({"tokenizer": tmp_path}, 1, "tokenizer.json: No such file"),
        ({"train_data": tmp_path / "blank.txt"}, 1, "1 files, and no text in any"),
        ({"train_data": prepared.path}, 2, "holds shards, which are for --train_data of"),
        ({"train_data": tmp_path / "blank.txt", "tokenizer": ""}, 1, "no text to train a token"),
        ({"train_data": tmp_path / "numbers.jsonl"}, 1, "numbers.jsonl:2: text must be a string"),
        ({"text_column": "text"}, 1, "a.jsonl:1: no column 'text'"),
    ]
    for number, (changes, status, message) in enumerate(cases):
        assert run(command(texts, model_dir, tmp_path / f"out{number}", **changes)) == status
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1


def test_a_dry_run_writes_nothing_and_finds_a_wrong_column(texts, model_dir, tmp_path, capsys):
    arguments = command(texts, model_dir, tmp_path / "out", dry_run=True)
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert "files:     3, 0.1 MB as they lie" in printed
    assert f"tokenizer: {model_dir}, 294 tokens" in printed
    assert run([*arguments, "--text_column=text"]) == 1
    assert "a.jsonl:1: no column 'text'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_does_not_bind_the_next(texts, model_dir, tmp_path):
    assert run(command(texts, "", tmp_path / "out", vocab_size=300, text_column="text")) == 1
    assert run(command(tmp_path / "no.txt", model_dir, tmp_path / "out")) == 1
    assert run(command(texts, model_dir, tmp_path / "out")) == 0
    shards.open_folder(tmp_path / "out").check_tokenizer(str(model_dir))


def test_a_tokenizer_is_trained_on_what_is_not_held_out(texts, tmp_path):
    arguments = command(texts, "", tmp_path / "out", vocab_size=290)
    flags = args.parse(prepare_data.FLAGS, arguments)
    paths = find_files(flags.train_data)
    with Preparation(flags.output_dir, prepare_data.settings(flags), []) as preparation:
        path = prepare_data.tokenizer_directory(preparation, paths, flags)
        digest = shards.tokenizer_digest(path)
        assert prepare_data.tokenizer_directory(preparation, [], flags) == path  # not anew
    assert hf.Tokenizer.from_file(os.path.join(path, "tokenizer.json")).get_vocab_size() == 290
    assert shards.tokenizer_digest(path) == digest
    taught = list(prepare_data._first_texts(paths, flags))
    held_out = [text for p in paths for text in read_texts(p, flags) if text not in taught]
    assert 0.02 < len(held_out) / len(taught) < 0.3


def start(arguments, log):
    with open(log, "ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "trainers.prepare_data", *arguments[1:]],
            stdout=stream, stderr=stream,
        )  # fmt: skip


def wait_for(what, process, log):
    deadline = time.monotonic() + 300
    while not what():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.001)


def workers(process):
    """Process ids of those that tokenize."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children, encoding="ascii") as file:
        pids = [int(pid) for pid in file.read().split()]
    return [pid for pid in pids if "spawn_main" in read(f"/proc/{pid}/cmdline")]


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid):
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] in ([], ["Z"])


def test_killed_and_run_again_gives_the_same_bytes(model_dir, tmp_path):
    rng = np.random.default_rng(1)
    texts = [make_text(rng, 2000) for _ in range(380)]  # more than 5 MB
    write_jsonl(tmp_path / "a.jsonl", texts[:250])
    write_jsonl(tmp_path / "b.jsonl", [*texts[200:], texts[2]])
    inputs, log = f"{tmp_path / 'a.jsonl'},{tmp_path / 'b.jsonl'}", tmp_path / "log.txt"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    partial = tmp_path / "killed.partial"
    arguments = command(inputs, model_dir, killed, shard_tokens=1)

    process = start(arguments, log)
    wait_for((partial / "journal-00001.json").exists, process, log)
    children = workers(process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not all(map(is_gone, children)):  # none waits for ever for its parent
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not killed.exists()
    # The file of a shard that was being written.
    (partial / "train-00005.tokens.npy").write_bytes(b"torn")

    assert run(arguments) == 0
    assert run(command(inputs, model_dir, whole, shard_tokens=1, num_processes=2)) == 0
    assert not partial.exists()
    files = [
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (whole, killed)
    ]
    assert files[0] == files[1]
    manifest = shards.open_folder(killed).manifest
    assert manifest["documents"] == {"read": 431, "duplicate": 51, "empty": 0}
    assert len(manifest["splits"]["train"]["shards"]) == 6
