"""Versions that come and go, with real models and folders."""

import contextlib
import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from export import protocol
from export.server import errors, model_config, servable
from export.server.manager import ModelManager

INTERVAL = 0.2  # seconds between attempts


def models(**base_paths):
    config = protocol.ModelServerConfig()
    for name, path in base_paths.items():
        one = model_config.of_one_model(name, str(path))
        config.MergeFrom(one)
    return model_config.models_of(config)


@contextlib.contextmanager
def managing(model_list, wait=True, load=servable.load, **options):
    options = {"poll_wait_seconds": 0.05, "load_retry_interval": INTERVAL} | options
    manager = ModelManager(load, **options)
    manager.start()
    manager.replace_models(model_list)
    manager.labels = {model.name: dict(model.version_labels) for model in model_list}
    try:
        assert not wait or manager.wait(timeout=30)
        yield manager
    finally:
        manager.stop()


def states(manager, name="m"):
    names = protocol.ModelVersionStatus.State
    return {version.number: names.Name(version.state) for version in manager.states(name)}


def until(expected, manager, timeout=20):
    """Waits for states of the versions, newest first."""
    end = time.monotonic() + timeout
    while list(states(manager).items()) != list(expected.items()):
        assert time.monotonic() < end, f"{states(manager)} and not {expected}"
        time.sleep(0.01)


def spec(**choice):
    made = protocol.ModelSpec(name="m")
    if "version" in choice:
        made.version.value = choice["version"]
    if "label" in choice:
        made.version_label = choice["label"]
    return made


def ask(manager, **choice):
    """What the model adds: tells which version answered."""
    with manager.use(spec(**choice)) as version:
        return version.version, run(version)


def run(version):
    signature = version.signatures["serving_default"]
    feed = {signature.inputs["x"].name: np.zeros([1], np.float32)}
    (y,) = version.run(feed, [signature.outputs["y"].name])
    return y[0]


@contextlib.contextmanager
def asking(manager):
    """Two clients that ask throughout; the answers they got, none of which may be an error."""
    answers, done = [], threading.Event()

    def client():
        while not done.is_set():
            answers.append(ask(manager))

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        try:
            yield answers
        finally:
            done.set()
        for each in clients:
            each.result()


def test_swap_without_a_gap(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path)) as manager:
        with asking(manager) as answers:
            publish(small_dirs[1], tmp_path, "00000002")
            until({2: "AVAILABLE", 1: "END"}, manager)
        assert set(answers) == {(1, 2.0), (2, 3.0)}
        with pytest.raises(errors.ServingError, match=r"Specific\(m, 1\)"):
            ask(manager, version=1)
        # Back to the old one: it is loaded anew.
        shutil.rmtree(tmp_path / "00000002")
        until({2: "END", 1: "AVAILABLE"}, manager)
        assert ask(manager) == (1, 2.0)


def test_bad_version_leaves_the_old_one(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path), max_num_load_retries=1) as manager:
        (tmp_path / "2").mkdir()
        until({2: "LOADING", 1: "AVAILABLE"}, manager)  # waits for its second attempt
        until({2: "END", 1: "AVAILABLE"}, manager)
        failed, serving = manager.states("m")
        assert failed.failures == 2
        assert failed.error.code.name == "NOT_FOUND"
        assert failed.error.message.startswith("Could not find SavedModel .pb or .pbtxt at")
        assert serving.error is None
        assert ask(manager) == (1, 2.0)
        # It is not tried again, until it has been away.
        shutil.rmtree(tmp_path / "2")
        until({2: "END", 1: "AVAILABLE"}, manager)
        time.sleep(0.2)
        publish(small_dirs[1], tmp_path, "2")
        until({2: "AVAILABLE", 1: "END"}, manager)
        assert ask(manager) == (2, 3.0)


def test_half_copied_version_is_tried_again(publish, small_dirs, tmp_path, caplog):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path), max_num_load_retries=50) as manager:
        with asking(manager) as answers:
            shutil.copytree(small_dirs[1], tmp_path / "2", ignore=lambda *_: ["variables"])
            while caplog.text.count("version: 2} cannot be loaded") < 2:
                time.sleep(0.01)
            until({2: "LOADING", 1: "AVAILABLE"}, manager)
            assert "not a valid checkpoint" in manager.states("m")[0].error.message
            assert set(answers) == {(1, 2.0)}
            shutil.copytree(small_dirs[1] / "variables", tmp_path / "2" / "variables")
            until({2: "AVAILABLE", 1: "END"}, manager)
        assert set(answers) == {(1, 2.0), (2, 3.0)}
        assert manager.states("m")[0].error is None


def test_half_copied_in_place_of_the_only_version(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path), max_num_load_retries=50) as manager:
        shutil.rmtree(tmp_path / "1")
        until({1: "END"}, manager)
        shutil.copytree(small_dirs[1], tmp_path / "1", ignore=lambda *_: ["variables"])
        until({1: "LOADING"}, manager)
        shutil.copytree(small_dirs[1] / "variables", tmp_path / "1" / "variables")
        until({1: "AVAILABLE"}, manager)
        assert ask(manager) == (1, 3.0)


def test_back_to_a_version_that_is_still_unloading(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path)) as manager:
        with asking(manager) as answers:
            with manager.use(spec()) as first:
                publish(small_dirs[1], tmp_path, "2")
                until({2: "AVAILABLE", 1: "UNLOADING"}, manager)
                shutil.rmtree(tmp_path / "2")
                time.sleep(0.5)  # longer than it takes to find out
                assert states(manager) == {2: "AVAILABLE", 1: "UNLOADING"}
                assert run(first) == 2.0
            until({2: "END", 1: "AVAILABLE"}, manager)
            with pytest.raises(errors.ServingError, match="Session has been closed"):
                run(first)
        assert set(answers) == {(1, 2.0), (2, 3.0)}


def test_a_model_that_goes_and_comes_again_at_once(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path), poll_wait_seconds=600) as manager:
        for _ in range(20):
            manager.replace_models([])
            new = manager.replace_models(models(m=tmp_path))
            assert manager.wait(new, timeout=30)
            for _ in range(20):
                assert ask(manager) == (1, 2.0)


def test_a_model_that_goes_as_its_load_begins(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    loaded = []

    def load(*args):
        loaded.append(servable.load(*args))
        return loaded[-1]

    def go(record):
        if record.msg.startswith("Loading servable version"):
            manager.replace_models([])
        return True

    log = logging.getLogger("export.server.manager")
    log.setLevel(logging.INFO)
    log.addFilter(go)
    try:
        with managing(models(m=tmp_path), wait=False, load=load) as manager:
            until({1: "END"}, manager)
    finally:
        log.removeFilter(go)
        log.setLevel(logging.NOTSET)
    (version,) = loaded
    with pytest.raises(errors.ServingError, match="Session has been closed"):
        run(version)


def test_versions_gone_and_folder_gone(publish, small_dirs, tmp_path):
    base_path = tmp_path / "m"
    base_path.mkdir()
    publish(small_dirs[0], base_path, "1")
    with managing(models(m=base_path)) as manager:
        base_path.rename(tmp_path / "away")
        time.sleep(0.3)
        assert ask(manager) == (1, 2.0)
        (tmp_path / "away").rename(base_path)
        shutil.rmtree(base_path / "1")
        until({1: "END"}, manager)
        with pytest.raises(errors.ServingError, match=r"NOT_FOUND.*Latest\(m\)") as caught:
            ask(manager)
        assert caught.value.code.name == "NOT_FOUND"


def test_version_in_use_stays_until_it_is_not(publish, toy_dir, small_dirs, tmp_path):
    publish(toy_dir, tmp_path, "1")
    with managing(models(m=tmp_path)) as manager:
        with manager.use(spec()) as version:
            publish(small_dirs[1], tmp_path, "2")
            until({2: "AVAILABLE", 1: "UNLOADING"}, manager)
            assert ask(manager) == (2, 3.0)  # new requests go to the new one
            spin = version.signatures["spin"]
            feed = {spin.inputs["n"].name: np.array([5], np.int32)}
            assert version.run(feed, [spin.outputs["count"].name])[0] == 5
            assert states(manager)[1] == "UNLOADING"
        until({2: "AVAILABLE", 1: "END"}, manager)


def test_policies_labels_and_versions(publish, small_dirs, tmp_path):
    (model,) = models(m=tmp_path)
    model.model_version_policy.all.SetInParent()
    model.version_labels["stable"] = 1
    model.version_labels["gone"] = 9
    publish(small_dirs[0], tmp_path, "1")
    publish(small_dirs[1], tmp_path, "2")
    with managing([model]) as manager:
        until({2: "AVAILABLE", 1: "AVAILABLE"}, manager)
        assert ask(manager) == (2, 3.0)
        assert ask(manager, version=1) == (1, 2.0)
        assert ask(manager, label="stable") == (1, 2.0)
        with pytest.raises(errors.ServingError, match=r"Specific\(m, 9\)"):
            ask(manager, label="gone")
        with pytest.raises(errors.ServingError, match="Unrecognized servable version label: x"):
            ask(manager, label="x")


def test_first_load_fails(publish, small_dirs, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    publish(small_dirs[0], tmp_path / "a", "1")
    (tmp_path / "b" / "7").mkdir()
    manager = ModelManager(servable.load)
    manager.start()
    manager.replace_models(models(a=tmp_path / "a", b=tmp_path / "b"))
    with pytest.raises(errors.ServingError) as caught:
        manager.wait(timeout=30)
    manager.stop()
    assert str(caught.value).startswith(
        "UNKNOWN: 1 servable(s) did not become available: {{{name: b version: 7} due to error: "
        "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at"
    )


def test_a_load_that_fails_in_a_way_nobody_foresaw(tmp_path, caplog):
    (tmp_path / "1").mkdir()
    calls = []

    def load(*args):
        calls.append(args)
        raise KeyError("x")

    manager = ModelManager(load)
    manager.start()
    manager.replace_models(models(m=tmp_path))
    with pytest.raises(errors.ServingError, match="INTERNAL: KeyError: 'x'"):
        manager.wait(timeout=30)
    manager.stop()
    assert len(calls) == 1
    assert caplog.text.count("Loading servable version {name: m version: 1} failed") == 1


def test_a_bad_model_is_told_of_at_once_and_tried_again(publish, small_dirs, tmp_path):
    (tmp_path / "1").mkdir()
    with managing(models(m=tmp_path), wait=False) as manager:
        with pytest.raises(errors.ServingError, match="did not become available"):
            manager.wait(timeout=30)
        (tmp_path / "1").rmdir()
        publish(small_dirs[0], tmp_path, "1")
        until({1: "AVAILABLE"}, manager)
        assert manager.wait(timeout=30)


def test_a_folder_that_cannot_be_does_not_keep_others_waiting(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    bad, good = models(a="/none", m=tmp_path)
    bad.base_path = "/no\0ne"
    with managing([bad, good], wait=False) as manager:
        assert manager.wait(["m"], timeout=30)


def test_empty_folder_is_waited_for(publish, small_dirs, tmp_path, caplog):
    with managing(models(m=tmp_path), wait=False) as manager:
        assert not manager.wait(timeout=0.3)
        assert caplog.text.count("No versions of servable m found under base path") == 1
        publish(small_dirs[0], tmp_path, "1")
        assert manager.wait(timeout=30)


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_polling(publish, small_dirs, tmp_path, seconds):
    publish(small_dirs[0], tmp_path, "1")
    with managing(models(m=tmp_path), wait=False, poll_wait_seconds=seconds) as manager:
        if seconds == 0:
            assert manager.wait(timeout=30)
        publish(small_dirs[1], tmp_path, "2")
        time.sleep(0.3)
        assert states(manager) == ({1: "AVAILABLE"} if seconds == 0 else {})


def test_stop_ends_what_runs(publish, toy_dir, tmp_path):
    publish(toy_dir, tmp_path, "1")
    with managing(models(m=tmp_path)) as manager:
        with manager.use(spec()) as version:
            spin, told = version.signatures["spin"], []

            def run():
                feed = {spin.inputs["n"].name: np.array([2**31 - 1], np.int32)}
                try:
                    version.run(feed, [spin.outputs["count"].name])
                except errors.ServingError as error:
                    told.append(error.code.name)

            thread = threading.Thread(target=run)
            thread.start()
            time.sleep(0.2)
            manager.stop()
            thread.join(10)
        assert told == ["CANCELLED"]


def test_stop_while_a_version_is_being_loaded(publish, small_dirs, tmp_path):
    publish(small_dirs[0], tmp_path, "1")
    begun, go, loaded = threading.Event(), threading.Event(), []

    def load(name, number, path):
        if number == 2:
            begun.set()
            assert go.wait(30)
        loaded.append(servable.load(name, number, path))
        return loaded[-1]

    with managing(models(m=tmp_path), load=load) as manager:
        publish(small_dirs[1], tmp_path, "2")
        assert begun.wait(30)
        manager.stop(patience=0.1)
        assert states(manager) == {2: "END", 1: "END"}
        with pytest.raises(errors.ServingError, match="Session has been closed"):
            run(loaded[0])
        go.set()
    # Once more, and with patience.
    with pytest.raises(errors.ServingError, match=r"Latest\(m\)"):
        ask(manager)
    assert states(manager) == {2: "END", 1: "END"}
    with pytest.raises(errors.ServingError, match="Session has been closed"):
        run(loaded[1])
