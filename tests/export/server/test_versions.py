"""Which folders are versions, and which of them are served."""

import pytest
from google.protobuf import text_format

from export import protocol
from export.server import versions


@pytest.fixture
def base_path(tmp_path):
    for name in ("2", "00000123", "3", "-1", "x4", "5a", " 7 ", "99999999999999999999"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_names(base_path):
    found = versions.find(str(base_path))
    assert found == {
        number: str(base_path / name)
        for number, name in {2: "2", 123: "00000123", 3: "3", -1: "-1", 7: " 7 "}.items()
    }


def test_two_names_of_a_number(base_path, caplog):
    (base_path / "002").mkdir()
    assert versions.find(str(base_path))[2] == str(base_path / "2")
    assert "version 2 is in" in caplog.text


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [123]),
        ("latest {}", [123]),
        ("latest { num_versions: 2 }", [7, 123]),
        ("all {}", [-1, 2, 3, 7, 123]),
        ("specific { versions: 3 versions: 9 }", [3]),
    ],
)
def test_policies(base_path, policy, expected):
    config = protocol.ModelConfig(base_path=str(base_path))
    text_format.Parse(policy, config.model_version_policy)
    assert sorted(versions.wanted(config)) == expected


def test_no_folder(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        versions.find(str(tmp_path / "nowhere"))
