"""The list of models to serve: from flags, or from a file in the stock server's text format."""

import os
from collections.abc import Iterable

from google.protobuf import text_format

from export import protocol
from export.server import errors

PLATFORM = "tensorflow"


def of_one_model(name: str, base_path: str) -> protocol.ModelServerConfig:
    """The configuration of a single model, its newest version."""
    config = protocol.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=os.path.abspath(base_path), model_platform=PLATFORM
    )
    return config


def read(file: str) -> protocol.ModelServerConfig:
    """Reads a file with a `ModelServerConfig` in protobuf text format.

    Raises:
      ValueError: it is not one; the message gives file, line and column.
      OSError: it cannot be read.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            return text_format.Parse(stream.read(), protocol.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}:{error}") from error


def check(config: protocol.ModelServerConfig) -> list[protocol.ModelConfig]:
    """The models of a configuration.

    Raises:
      ServingError: two models of one name, a relative base path, a platform that is not
        TensorFlow, or a part that the server has not.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise errors.invalid_argument("ModelServer does not yet support custom model config.")
    models, names = list(config.model_config_list.config), set()
    for model in models:
        if model.name in names:
            raise errors.invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
    for model in models:
        if not os.path.isabs(model.base_path):
            raise errors.invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
    for model in models:
        _check_platform(model)
        if model.HasField("logging_config"):
            raise errors.invalid_argument("No request-logger-creator provided.")
    return models


def check_labels(models: Iterable[protocol.ModelConfig], allow_unavailable: bool) -> None:
    """At start-up no version is available, so none may have a label unless a flag allows it.

    Raises:
      ServingError: a model has labels.
    """
    for model in models:
        for version in model.version_labels.values():
            if not allow_unavailable:
                raise errors.failed_precondition(
                    f"Request to assign label to version {version} of model {model.name}, which "
                    "is not currently available for inference"
                )


def check_folders(models: Iterable[protocol.ModelConfig]) -> None:
    """Mistakes for which a server would wait for ever.

    Raises:
      ValueError: a base path that is not there, or that is a version itself.
    """
    for model in models:
        path = model.base_path
        if not os.path.isdir(path):
            raise ValueError(f"Could not find base path {path} for servable {model.name}")
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            raise ValueError(
                f"base path {path} for servable {model.name} is a SavedModel: give the folder that "
                "it lies in, and let its own name be a number (such as models/NAME/1)"
            )


def _check_platform(model: protocol.ModelConfig) -> None:
    if not model.model_platform:
        raise errors.invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_platform != PLATFORM:
        raise errors.invalid_argument(
            f"Model {model.name} requests unsupported platform {model.model_platform}"
        )
