"""Where a version must lie to be loaded, at the time that it is loaded."""

import functools
import time
from types import SimpleNamespace

import pytest

from export import protocol
from export.server import launcher, model_config
from export.server.configuration import Configuration
from export.server.manager import ModelManager


@pytest.fixture
def serving(tmp_path):
    """Makes a manager that serves the folder `root/m`, `root` being the --allowed_root."""
    root = tmp_path / "root"
    values = SimpleNamespace(
        allowed_root=str(root),
        saved_model_tags="serve",
        enable_model_warmup=False,
        enable_per_model_batching_parameters=False,
    )
    load = functools.partial(launcher._load, values, None, None, None)
    manager = ModelManager(load, poll_wait_seconds=0.05)
    manager.start()

    def start():
        configuration = Configuration(manager, allowed_root=str(root))
        configuration.start(model_config.of_one_model("m", str(root / "m")))
        assert manager.wait(timeout=30)
        return manager

    yield start
    manager.stop()


def error_of(number, manager, timeout=30):
    """What is told of a version that cannot be loaded while version 1 serves on."""
    end = time.monotonic() + timeout
    while True:
        found = {version.number: version for version in manager.states("m")}
        if number in found and found[number].error is not None:
            break
        assert time.monotonic() < end
        time.sleep(0.01)
    with manager.use(protocol.ModelSpec(name="m")) as version:
        assert version.version == 1
    return str(found[number].error)


def test_a_base_path_that_leads_out_of_the_root_by_now(serving, publish, small_dirs, tmp_path):
    inside, outside, base_path = tmp_path / "root" / "a", tmp_path / "b", tmp_path / "root" / "m"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    publish(small_dirs[0], inside, "1")
    publish(small_dirs[1], outside, "2")
    base_path.symlink_to(inside)
    manager = serving()
    new = tmp_path / "new"
    new.symlink_to(outside)
    new.rename(base_path)  # at one stroke
    assert error_of(2, manager) == (
        f"PERMISSION_DENIED: base path {base_path} of model m is not in "
        f"--allowed_root={tmp_path / 'root'}"
    )


def test_a_version_that_leads_out_of_its_model(serving, publish, small_dirs, tmp_path):
    base_path, other = tmp_path / "root" / "m", tmp_path / "root" / "other"
    for folder in (base_path, other):
        folder.mkdir(parents=True)
    publish(small_dirs[0], base_path, "1")
    publish(small_dirs[1], other, "1")
    manager = serving()
    (base_path / "2").symlink_to(other / "1")
    assert error_of(2, manager) == (
        f"PERMISSION_DENIED: {base_path / '2'} leads out of the model's folder {base_path}"
    )
