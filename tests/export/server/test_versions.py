"""Which folders are versions, and which of them are served."""

import pytest
from google.protobuf import text_format

from export import protocol
from export.server import errors, versions


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


def test_links(tmp_path):
    inside, outside = tmp_path / "m", tmp_path / "outside"
    for folder in (inside / "kept" / "variables", outside):
        folder.mkdir(parents=True)
    (inside / "1").symlink_to("kept")  # another name for a folder of the model
    versions.check_links(str(inside / "1"))
    (inside / "2").symlink_to(outside)
    (inside / "3" / "variables").mkdir(parents=True)
    (inside / "3" / "variables" / "x").symlink_to("/etc/hostname")
    (inside / "4").mkdir()
    (inside / "4" / "variables").symlink_to(outside)
    (inside / "5").mkdir()
    (inside / "5" / "assets").symlink_to("../../outside")
    for name, path in {"2": "2", "3": "3/variables/x", "4": "4/variables", "5": "5/assets"}.items():
        with pytest.raises(errors.ServingError) as caught:
            versions.check_links(str(inside / name))
        message = f"PERMISSION_DENIED: {inside / path} leads out of the model's folder {inside}"
        assert str(caught.value) == message
