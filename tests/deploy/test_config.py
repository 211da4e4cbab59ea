"""models.config and monitoring.config; and how README.md rolls a version out."""

import itertools

import pytest

from export.server import model_config, text_messages


@pytest.fixture(scope="module")
def models(deploy):
    config = model_config.read(str(deploy / "config" / "models.config"))
    model_config.check_list(config.model_config_list.config)
    return config.model_config_list.config


def test_models(models, compose):
    mounts = [volume.split(":")[-2:] for volume in compose["services"]["serving"]["volumes"]]
    assert ["/models", "ro"] in mounts
    for model in models:
        model_config.check_platform(model)
        assert model.base_path == f"/models/{model.name}"
        assert not model.HasField("logging_config")  # the stock server refuses it


def test_labels_are_of_versions_that_are_loaded(models):
    for model in models:
        assert set(model.version_labels) == {"stable", "canary"}
        assert set(model.version_labels.values()) <= set(
            model.model_version_policy.specific.versions
        )


def test_monitoring(deploy):
    file = deploy / "config" / "monitoring.config"
    config = text_messages.read(str(file), text_messages.MonitoringConfig)
    assert config.prometheus_config.enable
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_a_label_moves_only_to_what_was_loaded_before(readme_steps, models):
    first = models[0]
    assert readme_steps[0] == (
        set(first.model_version_policy.specific.versions),
        dict(first.version_labels),
    )
    assert readme_steps[-1] == ({2}, {"stable": 2, "canary": 2})
    for (before, _), (after, labels) in itertools.pairwise(readme_steps):
        assert set(labels.values()) <= before & after
