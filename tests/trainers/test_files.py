import json
import os
import resource

import pytest

from trainers.files import replacing, write_json


def test_json_is_replaced_whole_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "x.json"
    for value in ({"ü": 1}, [2.5, None]):
        write_json(path, value)
        assert json.loads(path.read_text(encoding="utf-8")) == value
    assert os.listdir(path.parent) == ["x.json"]


def test_an_error_within_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")

    def fail():
        with replacing(path) as file:
            file.write("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (os.listdir(tmp_path), path.read_text()) == (["x.txt"], "before")


def test_a_file_that_does_not_fit_is_named_and_nothing_of_it_left(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_json(tmp_path / "x.json", "x" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(tmp_path / "x.json")
    assert os.listdir(tmp_path) == []
