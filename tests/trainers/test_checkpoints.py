import hashlib
import json
import resource

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainers.checkpoints import Checkpoints, DamagedCheckpointError

TENSORS = {
    "weights/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.int64(7).reshape(()),
    "half": np.array([1.5], np.float16),
    "none": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "across": np.arange(12, dtype=np.float64).reshape(3, 4).T,  # not contiguous
}
VALUES = {"step": 3, "losses": [0.1, 1 / 3]}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "state")


def test_reads_what_was_written(checkpoints):
    checkpoints.write(3, TENSORS, VALUES)
    values, tensors = checkpoints.read(3)
    assert values == VALUES
    assert set(tensors.keys()) == set(TENSORS)
    theirs = load_file(f"{checkpoints.path(3)}/state.safetensors")  # the package's own reader
    for name, expected in TENSORS.items():
        for actual in (tensors.get_tensor(name), theirs[name]):
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual, expected)


def test_steps_ascend_as_numbers(checkpoints):
    for step in (10, 9, 100):
        checkpoints.write(step, TENSORS, VALUES)
    assert checkpoints.steps() == [9, 10, 100]
    checkpoints.keep({10})
    assert checkpoints.steps() == [10]


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 3])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [truncate, empty, remove, flip])
@pytest.mark.parametrize("name", ["state.safetensors", "progress.json", "manifest.json"])
def test_no_damage_goes_unseen(checkpoints, tmp_path, name, harm):
    checkpoints.write(3, TENSORS, VALUES)
    harm(tmp_path / "state" / "checkpoint-3" / name)
    with pytest.raises(DamagedCheckpointError, match="checkpoint-3 is damaged"):
        checkpoints.read(3)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": {"state.safetensors": 3}}', '"x"', "3"])
def test_a_manifest_that_is_none(checkpoints, tmp_path, text):
    checkpoints.write(3, TENSORS, VALUES)
    (tmp_path / "state" / "checkpoint-3" / "manifest.json").write_text(text)
    with pytest.raises(DamagedCheckpointError):
        checkpoints.read(3)


def test_every_byte_counts(checkpoints, tmp_path):
    """Whatever byte of the tensors or values changes, the checkpoint does not count."""
    checkpoints.write(3, {"a": np.float32([1.0])}, {})
    for name in ("state.safetensors", "progress.json"):
        path = tmp_path / "state" / "checkpoint-3" / name
        whole = path.read_bytes()
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
            with pytest.raises(DamagedCheckpointError, match="SHA-256"):
                checkpoints.read(3)
        path.write_bytes(whole)
    checkpoints.read(3)


def test_takes_the_place_of_a_damaged_one(checkpoints, tmp_path):
    checkpoints.write(3, TENSORS, VALUES)
    (tmp_path / "state" / "checkpoint-3" / "state.safetensors").unlink()
    checkpoints.write(3, TENSORS, {"step": 4})
    assert checkpoints.read(3)[0] == {"step": 4}


def test_what_a_kill_left_is_no_checkpoint_and_goes(checkpoints, tmp_path):
    checkpoints.write(3, TENSORS, VALUES)
    for name in ("checkpoint-6.new", "checkpoint-2.old", "mine"):
        (tmp_path / "state" / name).mkdir()
        (tmp_path / "state" / name / "state.safetensors").write_bytes(b"half")
    assert checkpoints.steps() == [3]
    checkpoints.remove_remains()
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"checkpoint-3", "mine"}


def test_a_file_that_cannot_be_written_leaves_those_before(checkpoints, tmp_path):
    checkpoints.write(3, TENSORS, VALUES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoints.write(4, {"a": np.zeros(10_000)}, VALUES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename.endswith("checkpoint-4.new/state.safetensors")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["checkpoint-3"]
    assert checkpoints.read(3)[0] == VALUES


def test_the_manifest_is_what_sha256sum_says(checkpoints, tmp_path):
    checkpoints.write(3, TENSORS, VALUES)
    folder = tmp_path / "state" / "checkpoint-3"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("state.safetensors", "progress.json"):
        data = (folder / name).read_bytes()
        assert files[name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
