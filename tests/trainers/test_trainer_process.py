import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from trainers.args import UsageError
from trainers.trainer_process import Share, Trainer, TrainerProcess, shares, with_trainer_flags


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_command_line_is_cut_at_its_dashes():
    argv = ["tune", "--trials=3", "--", "trainers.finetune", "--model=a", "--", "x"]
    assert with_trainer_flags(argv) == [
        "tune", "--trials=3", "--trainer=trainers.finetune", "--trainer=--model=a", "--trainer=--",
        "--trainer=x",
    ]  # fmt: skip
    assert with_trainer_flags(["tune", "--trials=3"]) == ["tune", "--trials=3"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "write trainers.finetune or trainers.pretrain and its flags at the end"),
        (["trainers.evaluate"], "not 'trainers.evaluate'"),
        (["trainers.finetune", "--modle=x"], "Unknown command line flag 'modle'"),
        (["trainers.finetune", "--num_epochs=0"], "num_epochs"),
        (["trainers.pretrain", "--output_dir=x"], "--output_dir: leave it out"),
        (["trainers.pretrain", "--help"], "python -m trainers.pretrain --help"),
    ],
)  # fmt: skip
def test_a_trainer_is_checked_before_it_starts(texts, message):
    with pytest.raises(UsageError) as error:
        Trainer.parse(texts)
    assert message in str(error.value)


def test_what_it_prints_and_how_it_ends(tmp_path):
    folder = str(tmp_path / "runs" / "a")
    process = TrainerProcess(python("import sys; print(1); sys.exit('trouble')"), folder)
    assert process.wait() == process.poll() == 1
    assert process.last_line() == "trouble"
    assert open(process.log).read() == "1\ntrouble\n"  # noqa: SIM115
    assert not os.path.exists(folder)  # it is the run's to make


def test_evaluations_are_read_as_they_come(tmp_path):
    process = TrainerProcess(python(""), str(tmp_path / "a"))
    process.wait()
    assert process.evaluations() == []
    path = tmp_path / "a" / "metrics.jsonl"
    path.parent.mkdir()
    with open(path, "w") as file:
        file.write('{"step": 0, "eval_loss": 9}\n{"step": 1, "loss": 8}\n{"step": 1, "eval_lo')
        file.flush()
        assert process.evaluations() == []
        file.write('ss": 7}\n')
        file.flush()
        assert process.evaluations() == [{"step": 1, "eval_loss": 7}]
    # A run that resumes drops the lines of steps that it will do again.
    (tmp_path / "new").write_text('{"step": 1, "eval_loss": 7}\n{"step": 2, "eval_loss": 6}\n')
    os.replace(tmp_path / "new", path)
    assert [line["eval_loss"] for line in process.evaluations()] == [7, 6]


@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_ends_it_and_what_it_started(tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr("trainers.trainer_process.GRACE_SECONDS", 1.0 if stubborn else 20.0)
    process = TrainerProcess(
        python(f"""
            import signal, subprocess, sys, time
            if {stubborn}:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "60"])
            print(child.pid, flush=True)
            time.sleep(60)
        """),
        str(tmp_path / "a"),
    )
    wait_for(lambda: process.last_line().isdigit())
    process.stop()
    assert process.poll() == -(signal.SIGKILL if stubborn else signal.SIGTERM)
    wait_for(lambda: not os.path.exists(f"/proc/{process.last_line()}/cmdline")
             or not open(f"/proc/{process.last_line()}/cmdline").read())  # fmt: skip  # noqa: SIM115


def test_it_dies_with_what_started_it(tmp_path):
    starter = subprocess.Popen(
        python(f"""
            import sys, time
            from trainers.trainer_process import TrainerProcess
            sleep = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
            process = TrainerProcess(sleep, {str(tmp_path / "a")!r})
            while process.last_line() != "1":
                time.sleep(0.02)
            print(process.pid, flush=True)
            time.sleep(60)
        """),
        stdout=subprocess.PIPE, text=True, cwd=os.getcwd(),
    )  # fmt: skip
    with starter:
        pid = int(starter.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        starter.kill()
        starter.wait()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_shares_do_not_overlap(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 5, 6})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shares(1, 4) == [Share()]
    first, second = shares(2, 0)
    assert (first.cores, second.cores) == ({0, 4, 6}, {2, 5})
    assert [dict(share.environment) for share in shares(3, 2)] == [
        {"CUDA_VISIBLE_DEVICES": name, "TF_FORCE_GPU_ALLOW_GROWTH": "true"} for name in "010"
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in shares(2, 2)] == ["3", "7"]
    assert shares(9, 0)[8].cores == frozenset()  # more processes than cores: as it comes


def test_a_share_is_what_the_process_gets(tmp_path):
    core = min(os.sched_getaffinity(0))
    code = "import os, time; time.sleep(0.3); print(os.sched_getaffinity(0), os.environ['X'])"
    process = TrainerProcess(
        python(code), str(tmp_path / "a"), Share(frozenset([core]), {"X": "y"})
    )
    process.wait()
    assert process.last_line() == f"{{{core}}} y"
