"""Lists of models replaced while a server runs: what is loaded, refused, and asked meanwhile."""

import contextlib
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from export import protocol
from export.server import errors, servable
from export.server.configuration import Configuration
from export.server.manager import ModelManager

PLATFORM = 'model_platform: "tensorflow" '


def listing(*models):
    """A list of (name, base path, more fields); the platform is TensorFlow unless they say."""
    config = protocol.ModelServerConfig()
    config.model_config_list.SetInParent()
    for name, base_path, *more in models:
        fields = "".join(more)
        fields = fields if "model_platform" in fields else PLATFORM + fields
        made = config.model_config_list.config.add(name=name, base_path=str(base_path))
        text_format.Merge(fields, made)
    return config


def states(configuration, name="m"):
    names = protocol.ModelVersionStatus.State
    return {v.number: names.Name(v.state) for v in configuration.manager.states(name)}


def until(expected, configuration, name="m", timeout=20):
    """Waits for states of the versions, newest first."""
    end = time.monotonic() + timeout
    while list(states(configuration, name).items()) != list(expected.items()):
        assert time.monotonic() < end, f"{states(configuration, name)} and not {expected}"
        time.sleep(0.01)


def ask(configuration, name="m", label=None):
    """Which version answers, and what it makes of 0."""
    spec = protocol.ModelSpec(name=name, version_label=label)
    with configuration.manager.use(spec) as version:
        signature = version.signatures["serving_default"]
        feed = {signature.inputs["x"].name: np.zeros([1], np.float32)}
        (y,) = version.run(feed, [signature.outputs["y"].name])
        return version.version, y[0]


@contextlib.contextmanager
def configured(*models, allow_labels=False, **options):
    manager = ModelManager(servable.load, poll_wait_seconds=0.05)
    configuration = Configuration(manager, allow_labels, **options)
    manager.start()
    try:
        configuration.start(listing(*models))
        assert manager.wait(timeout=30)
        yield configuration
    finally:
        manager.stop()


@pytest.fixture
def folders(publish, small_dirs, tmp_path):
    """Base paths of two models that add 2 and 3."""
    paths = [tmp_path / name for name in "mn"]
    for path, source in zip(paths, small_dirs, strict=True):
        path.mkdir()
        publish(source, path, "1")
    return paths


def test_models_come_and_go(folders):
    first, second = folders
    with configured(("m", first)) as configuration:
        configuration.reload(listing(("m", first), ("n", second)))
        assert states(configuration, "n") == {1: "AVAILABLE"}  # when the call is over
        configuration.reload(listing(("n", second)))
        until({1: "END"}, configuration)
        with pytest.raises(errors.ServingError, match=r"Latest\(m\)"):
            ask(configuration)
        configuration.reload(listing(("m", second)))  # another folder under an old name
        assert ask(configuration) == (1, 3.0)


def test_a_version_policy_that_changes(folders, publish, small_dirs):
    first, _ = folders
    publish(small_dirs[1], first, "2")
    with configured(("m", first)) as configuration:
        until({2: "AVAILABLE"}, configuration)
        every = "model_version_policy { all {} }"
        configuration.reload(listing(("m", first, every)))
        until({2: "AVAILABLE", 1: "AVAILABLE"}, configuration)
        one = "model_version_policy { specific { versions: 1 } }"
        configuration.reload(listing(("m", first, one)))
        until({2: "END", 1: "AVAILABLE"}, configuration)


def label(name, version):
    return f'version_labels {{ key: "{name}" value: {version} }}'


def test_labels_in_two_steps(folders, publish, small_dirs):
    first, _ = folders
    both = "model_version_policy { all {} }"
    with configured(("m", first, both)) as configuration:
        configuration.reload(listing(("m", first, both + label("stable", 1))))
        assert ask(configuration, label="stable") == (1, 2.0)
        with pytest.raises(errors.ServingError) as caught:
            configuration.reload(listing(("m", first, both + label("stable", 2))))
        assert str(caught.value) == (
            "FAILED_PRECONDITION: Request to assign label to version 2 of model m, which is not "
            "currently available for inference"
        )
        assert ask(configuration, label="stable") == (1, 2.0)
        publish(small_dirs[1], first, "2")
        until({2: "AVAILABLE", 1: "AVAILABLE"}, configuration)
        configuration.reload(listing(("m", first, both + label("stable", 2))))
        assert ask(configuration, label="stable") == (2, 3.0)
        configuration.reload(listing(("m", first, both)))
        with pytest.raises(errors.ServingError, match="Unrecognized servable version label"):
            ask(configuration, label="stable")


def test_labels_of_versions_to_come(folders):
    first, _ = folders
    with configured(("m", first, label("next", 2)), allow_labels=True) as configuration:
        with pytest.raises(errors.ServingError, match=r"Specific\(m, 2\)"):
            ask(configuration, label="next")
        with pytest.raises(errors.ServingError, match="assign label to version 3"):
            configuration.reload(listing(("m", first, label("next", 3))))  # only new labels may
        configuration.reload(listing(("m", first, label("next", 1))))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([("m", "{0}"), ("m", "{1}")], "INVALID_ARGUMENT: Illegal to list model m multiple times"),
        ([("n", "models/n")], "INVALID_ARGUMENT: Expected model n to have an absolute path or URI"),
        (
            [("n", "/none")],
            "INVALID_ARGUMENT: Could not find base path /none for servable n with error",
        ),
        (
            [("m", "{0}", 'model_platform: "x"')],
            "INVALID_ARGUMENT: Illegal to change a model's platform. For model m platform was "
            "tensorflow and new platform requested is x",
        ),
        (
            [("n", "{1}", 'model_platform: "x"')],
            "INVALID_ARGUMENT: Model n requests unsupported platform x",
        ),
        (
            [("n", "{1}", "model_type: TENSORFLOW")],
            "INVALID_ARGUMENT: Illegal setting both ModelServerConfig::model_type",
        ),
    ],
)
def test_refused(folders, models, message):
    filled = [[str(field).format(*folders) for field in model] for model in models]
    with configured(("m", folders[0])) as configuration:
        with pytest.raises(errors.ServingError) as caught:
            configuration.reload(listing(*filled))
        assert str(caught.value).startswith(message)
        assert ask(configuration) == (1, 2.0)


def test_a_model_that_cannot_be_loaded(folders, tmp_path):
    (tmp_path / "bad" / "7").mkdir(parents=True)
    with configured(("m", folders[0])) as configuration:
        with pytest.raises(errors.ServingError) as caught:
            configuration.reload(listing(("bad", tmp_path / "bad"), ("n", folders[1])))
        assert str(caught.value).startswith(
            "UNKNOWN: 1 model(s) did not become available: {{{name: bad version: 7} due to error: "
        )
        until({1: "AVAILABLE"}, configuration, name="n")  # the rest is in force
        until({1: "END"}, configuration)


def test_an_empty_config_changes_nothing(folders):
    with configured(("m", folders[0])) as configuration:
        configuration.reload(protocol.ModelServerConfig())
        assert ask(configuration) == (1, 2.0)
        configuration.reload(listing())  # an empty list is a list
        until({1: "END"}, configuration)


def test_a_model_that_comes_back_mended(folders, tmp_path, publish, small_dirs):
    bad = tmp_path / "bad"
    (bad / "1").mkdir(parents=True)
    with configured(("m", folders[0])) as configuration:
        with pytest.raises(errors.ServingError, match="did not become available"):
            configuration.reload(listing(("m", folders[0]), ("bad", bad)))
        (bad / "1").rmdir()
        publish(small_dirs[1], bad, "1")
        configuration.reload(listing(("m", folders[0])))
        configuration.reload(listing(("m", folders[0]), ("bad", bad)))
        assert ask(configuration, "bad") == (1, 3.0)


def test_a_model_without_versions(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with configured(("m", folders[0])) as configuration:
        with pytest.raises(errors.ServingError, match="Timed out waiting for notification"):
            configuration.reload(listing(("empty", tmp_path / "empty")), time.monotonic() + 0.2)
        configuration.reload(listing(("n", folders[1])))  # nobody is kept from going on
        assert ask(configuration, "n") == (1, 3.0)


def test_allowed_root(folders, tmp_path):
    (tmp_path / "m" / "link").symlink_to("/")
    with configured(("m", folders[0]), allowed_root=str(folders[0])) as configuration:
        outside = folders[1], tmp_path / "m" / ".." / "n", tmp_path / "m" / "link" / "etc"
        for path in (*outside, *(f"file://{path}" for path in outside)):
            with pytest.raises(errors.ServingError, match="PERMISSION_DENIED: base path"):
                configuration.reload(listing(("n", path)))


def test_base_paths_with_a_scheme(folders):
    first, second = folders
    root = str(first.parent)
    with configured(("m", f"file://{first}"), allowed_root=root) as configuration:
        configuration.reload(listing(("m", first), ("n", f"file://localhost{second}/")))
        assert (ask(configuration), ask(configuration, "n")) == ((1, 2.0), (1, 3.0))
        for uri in (f"s3:/{second}", f"gs:/{second}"):
            with pytest.raises(errors.ServingError, match=r"UNIMPLEMENTED: base path .* is not on"):
                configuration.reload(listing(("m", uri)))
        assert ask(configuration) == (1, 2.0)


def test_requests_go_on_while_models_are_replaced(folders):
    first, second = folders
    answers, done = [], threading.Event()
    with configured(("m", first)) as configuration:

        def keep_asking():
            while not done.is_set():
                answers.append(ask(configuration))

        threads = [threading.Thread(target=keep_asking) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            configuration.reload(listing(("m", first), ("n", second)))
            configuration.reload(listing(("m", first)))
            until({1: "END"}, configuration, name="n")
        done.set()
        for thread in threads:
            thread.join(20)
    assert set(answers) == {(1, 2.0)}


@contextlib.contextmanager
def following(file, configuration):
    stopping = threading.Event()
    args = (str(file), 0.05, stopping)
    thread = threading.Thread(target=configuration.follow, args=args)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(10)


def test_a_file_that_is_followed(folders, tmp_path, caplog):
    first, second = folders
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(listing(("m", first))))
    with configured(("m", first)) as configuration, following(file, configuration):
        file.write_text("{")
        while "was not reloaded" not in caplog.text:
            time.sleep(0.01)
        file.write_text(text_format.MessageToString(listing(("n", second))))
        until({1: "END"}, configuration)
        until({1: "AVAILABLE"}, configuration, name="n")
    assert caplog.text.count("was not reloaded") == 1


def test_a_file_that_is_followed_undoes_what_was_sent(folders, tmp_path):
    first, second = folders
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(listing(("m", first))))
    with configured(("m", first)) as configuration, following(file, configuration):
        configuration.reload(listing(("n", second)))
        until({1: "END"}, configuration, name="n")
        until({1: "AVAILABLE"}, configuration)


def test_over_grpc(server, inside, toy_dir, folders):
    base = ("toy", toy_dir.parent)
    request = protocol.ReloadConfigRequest(
        config=listing(base, ("m", folders[0])),
        metric_names=["/tensorflow/serving/request_count", "/none"],
    )
    response = server.models.HandleReloadConfigRequest(request, timeout=60)
    assert response.status == protocol.ReloadConfigResponse().status  # OK
    increases = {metric.name: metric.int64_value_increase for metric in response.metric}
    assert increases == {"/tensorflow/serving/request_count": 0, "/none": 0}
    assert server.predict(model="m", x=[1.0])["y"] == [2.5]
    server.models.HandleReloadConfigRequest(
        protocol.ReloadConfigRequest(config=listing(base)), timeout=60
    )
    with pytest.raises(grpc.RpcError) as caught:
        server.models.HandleReloadConfigRequest(protocol.ReloadConfigRequest(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )
