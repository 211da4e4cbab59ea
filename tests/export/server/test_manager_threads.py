"""Whatever order things happen in: who asks is answered, and what was loaded is closed once.

The models are stand-ins, as there are to be hundreds of loads a second.
"""

import contextlib
import random
import sys
import threading
import time

import pytest

from export import protocol
from export.server import errors, model_config
from export.server.manager import ModelManager

SECONDS = 0.4  # of each round


class Closable:
    """What a manager knows of a servable."""

    closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("seed", range(6))
def test_any_order(tmp_path, seed, monkeypatch):
    monkeypatch.setattr("export.server.manager.log.disabled", True)
    rng, loaded, wrong = random.Random(seed), [], []
    for path in ("kept/1", "other"):
        (tmp_path / path).mkdir(parents=True)
    lists = [model_config.of_one_model(name, str(tmp_path / name)) for name in ("kept", "other")]
    kept, other = (model_config.models_of(config) for config in lists)

    def load(*_):
        time.sleep(rng.random() * 0.01)
        if loaded and rng.random() < 0.3:
            raise errors.invalid_argument("half copied")
        loaded.append(Closable())
        return loaded[-1]

    def use(name):
        with manager.use(protocol.ModelSpec(name=name)) as version:
            time.sleep(rng.random() * 0.003)
            if version.closed and not stopping.is_set():
                wrong.append(f"{name} was closed while in use")

    def use_kept():
        try:
            use("kept")
        except errors.ServingError as error:
            if not stopping.is_set():
                wrong.append(str(error))

    def use_other():
        with contextlib.suppress(errors.ServingError):
            use("other")

    def change_folders():
        path = tmp_path / rng.choice(["kept/2", "kept/3", "other/1", "other/2"])
        path.rmdir() if path.exists() else path.mkdir()
        time.sleep(rng.random() * 0.004)

    def change_lists():
        manager.replace_models(rng.choice([kept, kept + other]))
        time.sleep(rng.random() * 0.01)

    def repeat(action):
        try:
            while not over.is_set():
                action()
        except Exception as error:
            wrong.append(repr(error))

    manager = ModelManager(load, 0.001, max_num_load_retries=1000, load_retry_interval=0.005)
    stopping, over = threading.Event(), threading.Event()
    manager.start()
    manager.replace_models(kept)
    assert manager.wait(timeout=10)
    actions = (use_kept, use_kept, use_other, change_folders, change_lists)
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stopping.set()
    manager.stop(patience=rng.choice([0, 0.001, 10]))
    over.set()
    for thread in threads:
        thread.join(10)
    manager.stop()  # for the last load, if there is one
    assert wrong == []
    assert len(loaded) > 5
    assert {version.closed for version in loaded} == {1}
