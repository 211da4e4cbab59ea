"""Model lists, good and bad."""

import pytest

from export.server import errors, model_config

GOOD = """
# two models
model_config_list {
  config { name: "a" base_path: "/m/a" model_platform: "tensorflow" }
  config {
    name: "b" base_path: "/m/b" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 }
  }
}
"""


def written(tmp_path, text):
    file = tmp_path / "models.config"
    file.write_text(text)
    return str(file)


def test_file(tmp_path):
    first, second = model_config.models_of(model_config.read(written(tmp_path, GOOD)))
    assert (first.name, first.base_path) == ("a", "/m/a")
    assert list(second.model_version_policy.specific.versions) == [1, 2]


def test_one_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (model,) = model_config.models_of(model_config.of_one_model("m", "models/m"))
    assert model.base_path == str(tmp_path / "models/m")


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("file:///m/a", "/m/a"),
        ("file://localhost/m/a", "/m/a"),
        ("s3://bucket/m", "s3://bucket/m"),
    ],
)
def test_uris(base_path, expected):
    config = model_config.of_one_model("m", base_path)
    (model,) = model_config.models_of(config)
    assert model.base_path == expected
    config.model_config_list.config[0].base_path = f"/m/{base_path}"  # no URI
    (model,) = model_config.models_of(config)
    assert model.base_path == f"/m/{base_path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {\n  confug {}\n}", 'models.config:2:3 : .* no field named "confug"'),
        ("{", "models.config:1:1"),
        ("\xff", "models.config:1:1"),
    ],
)
def test_bad_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        model_config.read(written(tmp_path, text))


def one(fields):
    return f'model_config_list {{ config {{ name: "m" base_path: "/m" {fields} }} }}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD.replace('"b" ', '"a" '),
            "INVALID_ARGUMENT: Illegal to list model a multiple times in config list",
        ),
        (
            one('model_platform: "tensorflow"').replace('"/m"', '"m"'),
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        *(
            (
                one('model_platform: "tensorflow"').replace('"/m"', f'"{uri}"'),
                f"UNIMPLEMENTED: base path {uri} of model m is not on this machine: copy the model "
                "here and give its folder, as an absolute path or as file:///PATH",
            )
            for uri in ("s3://bucket/m", "gs://bucket/m", "file://m")
        ),
        (
            one(""),
            "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) "
            "nor ModelServerConfig::model_platform, model name is m",
        ),
        (
            one('model_platform: "x"'),
            "INVALID_ARGUMENT: Model m requests unsupported platform x",
        ),
        (
            one('model_platform: "tensorflow" logging_config {}'),
            "INVALID_ARGUMENT: No request-logger-creator provided.",
        ),
        (
            "custom_model_config {}",
            "INVALID_ARGUMENT: ModelServer does not yet support custom model config.",
        ),
    ],
)
def test_bad_config(tmp_path, text, message):
    config = model_config.read(written(tmp_path, text))
    with pytest.raises(errors.ServingError) as caught:
        model_config.check(config)
    assert str(caught.value) == message


def test_folders(tmp_path):
    models = list(model_config.of_one_model("m", str(tmp_path)).model_config_list.config)
    model_config.check_folders(models)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(
        errors.ServingError, match="is a SavedModel: give the folder that it lies in"
    ):
        model_config.check_folders(models)
    models[0].base_path += "/none"
    with pytest.raises(
        errors.ServingError, match=r"Could not find base path .*/none for servable m"
    ):
        model_config.check_folders(models)
