"""The import command: exit status, and one line for what went wrong."""

import os

import pytest

from gpt_keras import import_checkpoint


def run(*arguments):
    return import_checkpoint.main(["import_checkpoint", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--source is missing"),
        (["--source=a.gguf"], "--output_dir is missing"),
        (
            ["--source=a.gguf", "--output_dir=b", "--dtype=int8"],
            "one of <float32|bfloat16|float16>",
        ),
        (["--sorce=a.gguf"], "Did you mean: source"),
        (["a.gguf", "--source=a.gguf", "--output_dir=b"], "'a.gguf' is one too many"),
    ],
)
def test_misuse(arguments, words, capsys):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_failure(tmp_path, capsys):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\x00\x00\x00")
    for source, words in [
        (tmp_path / "none.gguf", "none.gguf: no such model directory"),
        (tmp_path, "is a directory, but no KerasHub preset"),
        (bad, "bad.gguf: truncated or damaged"),
    ]:
        assert run(f"--source={source}", f"--output_dir={tmp_path / 'out'}") == 1
        error = capsys.readouterr().err
        assert error.startswith("import_checkpoint: error: ")
        assert words in error
        assert error.count("\n") == 1
    assert run(f"--source={bad}", f"--output_dir={tmp_path}") == 1  # holds the file itself
    assert "holds bad.gguf" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["bad.gguf"]


def test_help(capsys):
    assert run("--help") == 0
    assert "--output_dir" in capsys.readouterr().out
