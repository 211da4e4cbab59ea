"""A version is on disk whole or not at all."""

import os
import stat

import pytest

from export import publish


def make(base_path, version=None):
    with publish.new_version(base_path, version) as (directory, final):
        (directory / "saved_model.pb").write_text("whole")
    return final


def test_numbers_follow_the_newest(tmp_path):
    base_path = tmp_path / "models" / "name"
    assert publish.versions(base_path) == []
    assert make(base_path) == base_path / "1"
    assert make(base_path, 12) == base_path / "12"
    assert make(base_path) == base_path / "13"
    assert publish.versions(base_path) == [1, 12, 13]
    assert (base_path / "13" / "saved_model.pb").read_text() == "whole"


def test_names_are_read_as_the_server_reads_them(tmp_path):
    for name in ("0007", "12", "x3", "-4", "1.5", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").write_text("a file is no version")
    assert publish.versions(tmp_path) == [7, 12]
    with pytest.raises(ValueError, match=r"--version=7 exists in .*: leave --version out for 13"):
        make(tmp_path, 7)


def test_a_server_that_looks_meanwhile_sees_no_version(tmp_path):
    with publish.new_version(tmp_path, 3) as (directory, final):
        assert directory.parent == final.parent == tmp_path  # one file system: rename is atomic
        (directory / "saved_model.pb").write_text("half")
        assert publish.versions(tmp_path) == []
        assert not final.exists()
    assert publish.versions(tmp_path) == [3]
    assert os.listdir(tmp_path) == ["3"]


def test_a_failure_leaves_nothing(tmp_path):
    def fail():
        with publish.new_version(tmp_path) as (directory, _):
            (directory / "saved_model.pb").write_text("half")
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_number_taken_meanwhile_is_left_alone(tmp_path):
    def lose():
        with publish.new_version(tmp_path) as (directory, final):
            (directory / "saved_model.pb").write_text("mine")
            final.mkdir()
            (final / "saved_model.pb").write_text("theirs")

    with pytest.raises(ValueError, match=r"/1 cannot be made: .*; export again"):
        lose()
    assert os.listdir(tmp_path) == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"


def test_another_user_may_read_it(tmp_path):
    mask = os.umask(0o022)
    try:
        final = make(tmp_path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(final.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output_dir=.*/file/name: Not a directory; give ano"):
        make(tmp_path / "file" / "name")
    with pytest.raises(ValueError, match=r"--output_dir=.*/file: File exists; give another"):
        make(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run as another user")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match=r"--output_dir=.*: may not be written; give another"):
        make(tmp_path)
