"""Lists of models to serve: from flags, from a file in the stock server's text format, or sent.

Source of the checks: model_servers/server_core.cc.
"""

import os
import re
from collections.abc import Iterable, Sequence

from export import protocol
from export.server import errors, text_messages, versions

PLATFORM = "tensorflow"
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9.]+://")  # tsl::io::ParseURI
_LOCAL_URI = re.compile(r"\Afile://[^/]*(?=/)")  # TensorFlow minds no host
_MODEL_TYPES = protocol.ModelType.DESCRIPTOR.values_by_name


def of_one_model(name: str, base_path: str) -> protocol.ModelServerConfig:
    """The configuration of a single model, its newest version."""
    config = protocol.ModelServerConfig()
    path = base_path if _URI.match(base_path) else os.path.abspath(base_path)
    config.model_config_list.config.add(name=name, base_path=path, model_platform=PLATFORM)
    return config


def read(file: str) -> protocol.ModelServerConfig:
    """Reads a file with a `ModelServerConfig` in protobuf text format.

    Raises:
      ValueError: it is not one; the message gives file, line and column.
      OSError: it cannot be read.
    """
    return text_messages.read(file, protocol.ModelServerConfig)


def check(config: protocol.ModelServerConfig, allowed_root: str = "") -> None:
    """All that can be said of a first list before anything is loaded.

    Raises:
      ServingError: see the single checks.
    """
    models = models_of(config)
    check_list(models)
    for model in models:
        check_root(model.name, model.base_path, allowed_root)
        check_platform(model)
    check_logging(models)
    check_folders(models)


def models_of(config: protocol.ModelServerConfig) -> list[protocol.ModelConfig]:
    """Copies of the models listed, so that no two threads share a message. Base paths of the
    form file:///PATH become paths.

    Raises:
      ServingError: a list of another kind.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise errors.invalid_argument("ModelServer does not yet support custom model config.")
    models = [
        protocol.ModelConfig.FromString(model.SerializeToString())
        for model in config.model_config_list.config
    ]
    for model in models:
        model.base_path = _LOCAL_URI.sub("", model.base_path, count=1)
    return models


def check_list(models: Sequence[protocol.ModelConfig]) -> None:
    """Raises ServingError for two models of one name, and for a base path that is relative or not
    on this machine."""
    names = set()
    for model in models:
        if model.name in names:
            raise errors.invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
    for model in models:
        if _URI.match(model.base_path):
            raise errors.unimplemented(
                f"base path {model.base_path} of model {model.name} is not on this machine: copy "
                "the model here and give its folder, as an absolute path or as file:///PATH"
            )
        if not os.path.isabs(model.base_path):
            raise errors.invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )


def check_root(name: str, base_path: str, allowed_root: str) -> None:
    """Raises ServingError for a model's base path that does not lie in a folder; "" allows any.

    So who may send lists of models to a server cannot make it read the rest of the machine.
    """
    if allowed_root and not versions.lies_in(base_path, allowed_root):
        raise errors.permission_denied(
            f"base path {base_path} of model {name} is not in --allowed_root={allowed_root}"
        )


def check_folders(models: Iterable[protocol.ModelConfig]) -> None:
    """Raises ServingError for mistakes after which the stock server would wait for ever: a base
    path that is not there, or that is a version itself."""
    for model in models:
        path = model.base_path
        if not os.path.isdir(path):
            raise errors.invalid_argument(
                f"Could not find base path {path} for servable {model.name} with error "
                f"NOT_FOUND: {path} not found"
            )
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            raise errors.invalid_argument(
                f"base path {path} for servable {model.name} is a SavedModel: give the folder that "
                "it lies in, and let its own name be a number (such as models/NAME/1)"
            )


def platform_of(model: protocol.ModelConfig) -> str:
    """Raises ServingError if there is none."""
    if model.model_type != _MODEL_TYPES["MODEL_TYPE_UNSPECIFIED"].number:
        if model.model_platform:
            raise errors.invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_type == _MODEL_TYPES["TENSORFLOW"].number:
            return PLATFORM
        raise errors.invalid_argument(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    if not model.model_platform:
        raise errors.invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return model.model_platform


def check_platform(model: protocol.ModelConfig) -> None:
    """Raises ServingError if it is not TensorFlow."""
    if platform_of(model) != PLATFORM:
        raise errors.invalid_argument(
            f"Model {model.name} requests unsupported platform {platform_of(model)}"
        )


def check_logging(models: Iterable[protocol.ModelConfig]) -> None:
    """Raises ServingError if a model's requests are to be logged."""
    if any(model.HasField("logging_config") for model in models):
        raise errors.invalid_argument("No request-logger-creator provided.")
