"""Exit status and the one line that a user sees."""

import subprocess
import sys

import pytest

PROGRAM = """
from absl import flags
from export import cli

def main():
    match flags.FLAGS.how:
        case "done": print("done")
        case "failed": raise ValueError("the disk is full")
        case "unreadable": open("/no/such/file")
        case "misused": raise cli.UsageError("--how=misused: give another")

flags.DEFINE_enum("how", "done", ["done", "failed", "unreadable", "misused"], "What to do.")
cli.run(main)
"""


def run(*args):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--how=done"], 0, ""),
        (["--how=failed"], 1, "error: the disk is full\n"),
        (["--how=unreadable"], 1, "error: [Errno 2] No such file or directory: '/no/such/file'\n"),
        (["--how=misused"], 2, "error: --how=misused: give another\n"),
        (["--nonsense"], 2, "error: Unknown command line flag 'nonsense' (--help lists the flags)"),
        (["--how=x"], 2, "error: flag --how=x: value should be one of"),
        (["extra"], 2, "error: unexpected argument 'extra': every option is a --flag=value\n"),
    ],
)
def test_exit_status_and_message(args, status, message):
    result = run(*args)
    assert result.returncode == status
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == bool(message)
    assert (result.stdout == "done\n") == (status == 0)
