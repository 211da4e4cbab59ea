import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from trainers import args, launch
from trainers.launch import Workers
from trainers.trainer_process import Share

INDEX = "import json, os, sys, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "


@pytest.fixture
def workers():
    """Function that starts processes of a small script, which knows its number `i`."""
    return lambda script, count=2: Workers(
        [sys.executable, "-c", INDEX + script], [Share()] * count
    )


def test_lines_come_out_whole_behind_their_number(workers, capsys):
    script = "[print('x' * 200, flush=True) for _ in range(50)]; print('é', i, file=sys.stderr)"
    assert workers(script, 3).wait() == 0
    lines = capsys.readouterr().out.splitlines()
    for i in range(3):
        mine = [line.removeprefix(f"[worker {i}] ") for line in lines if line[8] == str(i)]
        assert mine == ["x" * 200] * 50 + [f"é {i}"]


def test_all_know_the_same_cluster(workers, capsys):
    assert workers("print(os.environ['TF_CONFIG'].split('task')[0])").wait() == 0
    clusters = {line.split("] ", 1)[1] for line in capsys.readouterr().out.splitlines()}
    (cluster,) = clusters
    assert len(set(re.findall(r"127\.0\.0\.1:\d+", cluster))) == 2


def test_one_that_fails_ends_all(workers, capsys):
    begin = time.monotonic()
    assert workers("sys.exit(7) if i == 1 else time.sleep(60)", 3).wait() == 7
    assert time.monotonic() - begin < 10
    assert capsys.readouterr().err == "trainers.launch: worker 1 ended with status 7\n"


def test_one_that_does_not_heed_is_killed(workers, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
    script = "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(1 - i); "
    begin = time.monotonic()
    assert workers(script + "sys.exit(1) if i else time.sleep(60)").wait() == 1
    assert time.monotonic() - begin < 10


def test_done_before_the_others_is_no_failure(workers):
    assert workers("time.sleep(0.5 * i)").wait() == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_are_passed_on(workers, name, capsys):
    number = signal.Signals[name]
    script = (
        f"import signal; signal.signal({number:d}, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    started, before = workers(script), signal.getsignal(number)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
    timer.start()
    assert started.wait() == 75
    assert signal.getsignal(number) is before


def test_one_that_has_stopped_leaves_the_others_time_to_save(workers, capsys):
    script = "i or (time.sleep(1), print('saved')); sys.exit(75)"
    assert workers(script).wait() == 75
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("[worker 0] saved\n", "")


def test_they_die_with_the_launcher(tmp_path):
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from trainers.launch import Workers\nfrom trainers.trainer_process import Share\n"
        "command = [sys.executable, '-c', 'import os, time; print(os.getpid()); time.sleep(60)']\n"
        "Workers(command, [Share()] * 2).wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(process.stdout.readline().split("] ")[1]) for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_is_pinned_to_its_cores(capsys):
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", "import os, time; time.sleep(0.3); "
               "print(os.sched_getaffinity(0))"]  # fmt: skip
    assert Workers(command, [Share(frozenset([core]))]).wait() == 0
    assert capsys.readouterr().out == f"[worker 0] {{{core}}}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "write trainers.finetune or trainers.pretrain and its flags at the end"),
        (["trainers.tune"], "not 'trainers.tune'"),
        (["trainers.finetune", "--strategy=mirrored"], "--strategy: leave it out"),
        (["trainers.finetune", "--learning_rat=1"], "learning_rat"),
    ],
)
def test_misuse_is_told_once(arguments, message, capsys):
    argv = ["launch", *(f"--trainer={argument}" for argument in arguments)]
    assert args.exit_status(launch.main, launch.FLAGS, argv) == 2
    assert message in capsys.readouterr().err
