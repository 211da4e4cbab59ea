import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)

from trainers import args, finetune, trainer_process, tune

HERE = Path(__file__).parent
SPACE = ("x=log:1e-5:1e-1", "n=int:1:6", "shape=choice:flat,steep")


@pytest.fixture(autouse=True)
def _parabola(monkeypatch):
    """`parabola.py` is a trainer that starts at once."""
    monkeypatch.setattr(trainer_process, "TRAINERS", (*trainer_process.TRAINERS, "parabola"))
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parent.parent}:{HERE}")


def arguments(folder, *trainer, search=SPACE, **values):
    values = {"output_dir": folder, **values}
    return [
        "tune", *(f"--search={text}" for text in search),
        *(f"--{name}={value}" for name, value in values.items()), "--", *trainer,
    ]  # fmt: skip


@pytest.fixture
def command(tmp_path, capsys):
    def run(*trainer, folder=None, **values):
        argv = arguments(folder or tmp_path / "search", *(trainer or ["parabola"]), **values)
        argv = trainer_process.with_trainer_flags(argv)
        return args.exit_status(tune.main, tune.FLAGS, argv), capsys.readouterr()

    return run


def read_trials(folder):
    return json.loads((folder / "trials.json").read_text())


def flags_of(folder):
    return [trial["flags"] for trial in read_trials(folder)]


@pytest.mark.slow
def test_finds_the_bottom_of_a_parabola(command, tmp_path):
    status, printed = command("parabola", "--fail_above=0.03", trials=30, workers=2)
    assert status == 0, printed.err
    folder = tmp_path / "search"
    trials = read_trials(folder)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = min(complete, key=lambda trial: trial["loss"])
    assert best["flags"]["n"] == 3
    assert best["loss"] < 0.2
    assert f"best:        trial {best['number']}, loss {best['loss']:.5g}" in printed.out
    # A crash is a failed trial, with its words.
    failed = [trial for trial in trials if trial["flags"]["x"] > 0.03]
    assert failed
    for trial in failed:
        assert trial["state"] == "fail"
        assert "too large" in trial["error"]
    # The best has its model, the others have given theirs up.
    models = {path.parent.name for path in folder.glob("trials/*/model")}
    assert models == {f"{best['number']:04d}"}
    assert not list(folder.glob("trials/*/training_state"))
    # Its config is what its run was given.
    config = yaml.safe_load((folder / "best.yaml").read_text())
    assert {name: config[name] for name in best["flags"]} == best["flags"]
    assert config["fail_above"] == 0.03
    assert not {"output_dir", "resume"} & set(config)


def test_a_trial_worse_than_the_median_is_pruned(command, tmp_path):
    """The seed is such that a pruned trial comes soon; each step takes long enough to be seen."""
    status, printed = command(
        "parabola", "--seconds=0.2", trials=7, pruner_startup_trials=2,
        search=["x=log:1e-5:1e-1"], startup_trials=20,
    )  # fmt: skip
    assert status == 0, printed.err
    trials = read_trials(tmp_path / "search")
    medians = []
    for number, trial in enumerate(trials):
        before = sorted(medians)
        median = (before[(len(before) - 1) // 2] + before[len(before) // 2]) / 2 if before else 0
        worse = len(before) >= 2 and trial["loss"] > median
        assert trial["state"] == ("pruned" if worse else "complete"), number
        lines = (tmp_path / f"search/trials/{number:04d}/metrics.jsonl").read_text().splitlines()
        assert len(lines) == 10 if not worse else len(lines) < 10
        if not worse:
            medians.append(trial["loss"])
    assert {trial["state"] for trial in trials} == {"pruned", "complete"}


def test_killed_and_continued_as_if_nothing_had_been(command, tmp_path):
    """kill -9 of the search: its trial dies with it, and goes on where it was."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    values = {"trials": 8, "startup_trials": 3, "pruner": "none"}
    assert command("parabola", "--seconds=0.05", folder=straight, **values)[0] == 0
    code = (
        "import sys; from trainers import args, trainer_process, tune\n"
        "trainer_process.TRAINERS = ('parabola',)\n"
        "args.run(tune.main, tune.FLAGS, trainer_process.with_trainer_flags(sys.argv))"
    )
    argv = arguments(killed, "parabola", "--seconds=0.05", **values)
    search = subprocess.Popen([sys.executable, "-c", code, *argv[1:]], stdout=subprocess.DEVNULL)
    metrics = killed / "trials" / "0005" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 4:
        assert search.poll() is None
        time.sleep(0.01)
    # Two at once would start each other's trials anew.
    status, printed = command("parabola", "--seconds=0.05", folder=killed, resume=True, **values)
    assert (status, "another process searches there" in printed.err) == (2, True)
    search.kill()
    search.wait()
    status, printed = command("parabola", "--seconds=0.05", folder=killed, **values)
    assert (status, "holds a run already" in printed.err) == (2, True)
    status, printed = command("parabola", folder=killed, resume=True, **values)
    assert (status, "--trainer=" in printed.err) == (2, True)  # another trainer than before
    status, printed = command("parabola", "--seconds=0.05", folder=killed, resume=True, **values)
    assert status == 0, printed.err
    assert "trial 5: " in printed.out
    assert "trial 4: " not in printed.out
    assert flags_of(killed) == flags_of(straight)
    begins = (killed / "trials" / "0005.log").read_text().splitlines()
    assert [line.split()[2] == "0" for line in begins] == [True, False]
    # More trials of the same search, when these were not enough.
    status, printed = command(
        "parabola", "--seconds=0.05", folder=killed, resume=True, **{**values, "trials": 9}
    )
    assert status == 0, printed.err
    assert len(read_trials(killed)) == 9
    with sqlite3.connect(killed / "study.db") as study:
        assert study.execute("select count(*) from trials").fetchone() == (9,)


def test_an_interrupt_stops_the_trials(tmp_path):
    code = (
        "import sys; from trainers import args, trainer_process, tune\n"
        "trainer_process.TRAINERS = ('parabola',)\n"
        "args.run(tune.main, tune.FLAGS, trainer_process.with_trainer_flags(sys.argv))"
    )
    argv = arguments(tmp_path / "search", "parabola", "--seconds=30", workers=2)
    search = subprocess.Popen([sys.executable, "-c", code, *argv[1:]], stdout=subprocess.DEVNULL)
    logs = [tmp_path / "search" / "trials" / f"000{i}.log" for i in (0, 1)]
    while not all(log.exists() and log.read_text() for log in logs):
        assert search.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{search.pid}/task/{search.pid}/children").read_text().split()
    assert len(children) == 2
    search.send_signal(signal.SIGTERM)
    assert search.wait(20) == args.STOPPED
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)


def test_equal_flags_are_not_run_twice(command, tmp_path):
    status, printed = command(trials=6, search=["shape=choice:flat,steep"], pruner="none")
    assert status == 0, printed.err
    trials = read_trials(tmp_path / "search")
    again = [trial for trial in trials if "same_as" in trial]
    assert len(again) == 4
    for trial in again:
        assert trial["flags"] == trials[trial["same_as"]]["flags"]
        assert trial["loss"] == trials[trial["same_as"]]["loss"]
    assert len(list((tmp_path / "search" / "trials").glob("*.log"))) == 2


def test_the_hparams_page_shows_the_trials(command, tmp_path):
    assert command("parabola", "--fail_above=0.01", trials=5, pruner="none")[0] == 0
    logdir = str(tmp_path / "search")
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(logdir)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, logdir)
    page = backend_context.Context(base_plugin.TBContext(logdir=logdir, data_provider=provider))
    ask = context.RequestContext()
    experiment = get_experiment.Handler(ask, page, "", api_pb2.GetExperimentRequest()).run()
    assert [hparam.name for hparam in experiment.hparam_infos] == ["n", "shape", "x"]
    assert experiment.hparam_infos[2].domain_interval.max_value == 0.1
    (metric,) = experiment.metric_infos
    assert metric.display_name == "loss"
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=100, allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE],
        col_params=[api_pb2.ColParams(metric=metric.name)],
    )  # fmt: skip
    groups = list_session_groups.Handler(ask, page, "", request).run().session_groups
    trials = read_trials(tmp_path / "search")
    assert [group.name for group in groups] == [f"{i:04d}" for i in range(5)]
    for group, trial in zip(groups, trials, strict=True):
        assert group.hparams["x"].number_value == trial["flags"]["x"]
        assert group.hparams["shape"].string_value == trial["flags"]["shape"]
        values = [value.value for value in group.metric_values]
        assert values == ([] if trial["loss"] is None else [pytest.approx(trial["loss"])])
        status = api_pb2.STATUS_FAILURE if trial["state"] == "fail" else api_pb2.STATUS_SUCCESS
        assert group.sessions[0].status == status
    assert {trial["state"] for trial in trials} == {"fail", "complete"}


def test_where_all_fails_it_ends_soon(command):
    status, printed = command("parabola", "--fail_above=0", trials=50)
    assert status == 1
    assert "all 3 trials failed: status 1: parabola: error: --x=" in printed.err


def test_misuse(command, tmp_path, monkeypatch):
    model = ("trainers.finetune", "--model=x", "--task=classification", "--train_data=x")
    cases = [
        (model, {"search": ["learningrate=log:1e-5:1e-3"]}, 2, "did you mean learning_rate"),
        ((*model[:2], "--dropuot=1"), {}, 2, "Unknown command line flag 'dropuot'. Did you mean"),
        (("trainers.evaluate",), {}, 2, "not 'trainers.evaluate'"),
        (("parabola",), {"trials": 0}, 2, "--trials"),
        (("parabola",), {"metric": "bleu"}, 2, "--metric=bleu: is none of loss, "),
        (("parabola", "--eval_data=", "--eval_fraction=0"), {}, 2, "there is nothing to go by"),
        (("parabola",), {"metric": "f2", "direction": "minimize"}, 1, "has no 'f2', but loss"),
    ]
    for trainer, changes, expected, message in cases:
        status, printed = command(*trainer, **changes)
        assert (status, message in printed.err) == (expected, True), printed.err
        assert (tmp_path / "search").exists() == (expected == 1)
    status, printed = command(folder=tmp_path / "dry", dry_run=True)
    assert (status, "--x from 1e-05 to 0.1, logarithmic" in printed.out) == (0, True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, printed = command(folder=tmp_path / "dry")
    assert status == 1
    assert "error: needs the package optuna; `pip install 'gpt-keras[tune]'`" in printed.err
    assert not (tmp_path / "dry").exists()


def test_a_classifier_and_its_config_afterwards(model_dir, data_dir, tmp_path, capsys):
    """Two real trials at once; then the trainer takes the best one's flags, with the same end."""
    path, folder = data_dir / "labelled.jsonl", tmp_path / "search"
    argv = arguments(
        folder, "trainers.finetune", f"--model={model_dir}", "--task=classification",
        f"--train_data={path}", f"--eval_data={path}", "--noxla", "--max_length=24",
        "--max_steps=6", "--eval_steps=2", "--global_batch_size=8",
        search=["learning_rate=log:1e-4:1e-2", "schedule=choice:cosine,linear"],
        trials=2, workers=2,
    )  # fmt: skip
    argv = trainer_process.with_trainer_flags(argv)
    assert args.exit_status(tune.main, tune.FLAGS, argv) == 0, capsys.readouterr().err
    trials = read_trials(folder)
    assert [len(trial["evaluations"]) for trial in trials] == [3, 3]
    best = max(trials, key=lambda trial: trial["macro_f1"])
    argv = ["finetune", f"--config_file={folder / 'best.yaml'}", f"--output_dir={tmp_path / 'run'}"]
    assert args.exit_status(finetune.main, finetune.FLAGS, argv) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["eval"]["macro_f1"] == best["macro_f1"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["learning_rate"] == best["flags"]["learning_rate"]
