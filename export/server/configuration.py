"""The list of models that a server keeps, which clients and files may replace while it runs.

Source: model_servers/server_core.cc, `ServerCore::ReloadConfig`.
"""

import logging
import threading
import time
from collections.abc import Sequence

from export import protocol
from export.server import errors, metrics, model_config
from export.server.manager import ModelManager, State

_PATIENCE = 600.0  # seconds that a list in a file waits for its models before it is read again

log = logging.getLogger(__name__)


class Configuration:
    """Applies lists of models to a manager, one at a time. Thread-safe.

    Args:
      manager: what loads and unloads.
      allow_labels_for_unavailable: new labels may name versions that are not available.
      allowed_root: folder that all models must lie in; "" for any.

    Attributes:
      manager: as given.
    """

    def __init__(
        self,
        manager: ModelManager,
        allow_labels_for_unavailable: bool = False,
        allowed_root: str = "",
    ):
        self.manager, self._allowed_root = manager, allowed_root
        self._allow_labels = allow_labels_for_unavailable
        self._lock = threading.Lock()
        self._models: list[protocol.ModelConfig] = []  # the last list that got as far as its labels

    def reload(self, config: protocol.ModelServerConfig, deadline: float | None = None) -> None:
        """Replaces the list of models, and waits until those that are new are available.

        Args:
          config: the list.
          deadline: when to stop waiting, on the clock of `time.monotonic`; the stock server lets
            its client go then, but waits on, and takes no other list.

        Raises:
          ServingError: the list is refused, and nothing has changed. Or a new model cannot be
            loaded, or not in time; the rest of the list is in force.
        """
        with self._lock:
            new = self._apply(config)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.manager.wait(new, left, noun="model(s)"):
                raise errors.deadline_exceeded()
            model_config.check_logging(self._models)

    def handle_reload_config_request(
        self, request: protocol.ReloadConfigRequest, deadline: float | None
    ) -> protocol.ReloadConfigResponse:
        """Answers that call (model_servers/model_service_impl.cc). Raises as `reload` does."""
        before = metrics.counts(request.metric_names)
        if request.config.WhichOneof("config") != "model_config_list":
            raise errors.invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        self.reload(request.config, deadline)
        response = protocol.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in metrics.counts(before).items():
            response.metric.add(name=name, int64_value_increase=count - before[name])
        return response

    def follow(self, file: str, seconds: float, stopping: threading.Event) -> None:
        """Reloads a file every so many seconds; the log tells what is wrong with it.

        Changed or not, as the stock server does (server.cc, `PollFilesystemAndReloadConfig`): the
        file is what holds, and undoes lists that were sent.
        """
        told = None
        while not stopping.wait(seconds):
            try:
                self.reload(model_config.read(file), time.monotonic() + _PATIENCE)
                told = None
            except (errors.ServingError, ValueError, OSError) as error:
                if str(error) != told:
                    log.error("--model_config_file=%s was not reloaded: %s", file, error)
                told = str(error)
            except Exception:  # whatever it is, the next reading may be better
                log.exception("--model_config_file=%s was not reloaded", file)

    def start(self, config: protocol.ModelServerConfig) -> None:
        """The first list, without waiting. Raises as `reload` does."""
        with self._lock:
            self._apply(config)

    def _apply(self, config: protocol.ModelServerConfig) -> list[str]:
        if config.WhichOneof("config") is None:  # such as a file that is just being written
            log.info("Taking no action for empty config.")
            return []
        models = model_config.models_of(config)
        model_config.check_list(models)
        for model in models:
            model_config.check_root(model.name, model.base_path, self._allowed_root)
        _check_no_platform_changes(self._models, models)
        known = {model.name for model in self._models}
        model_config.check_folders(model for model in models if model.name not in known)
        # As on the stock server, what is refused from here on is what the next list is compared to.
        self._models = models
        self.manager.labels = self._labels(models)
        for model in models:
            model_config.check_platform(model)
        return self.manager.replace_models(models)

    def _labels(self, models: Sequence[protocol.ModelConfig]) -> dict[str, dict[str, int]]:
        """Model -> label -> version. Labels are of versions that can be asked."""
        labels = {}
        for model in models:
            states = {version.number: version.state for version in self.manager.states(model.name)}
            old = self.manager.labels.get(model.name, {})
            labels[model.name] = dict(model.version_labels)
            for label, version in labels[model.name].items():
                may_wait = self._allow_labels and old.get(label, version) == version
                if not may_wait and states.get(version) != State.AVAILABLE:
                    raise errors.failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
        return labels


def _check_no_platform_changes(
    old: Sequence[protocol.ModelConfig], new: Sequence[protocol.ModelConfig]
) -> None:
    platforms = {model.name: model_config.platform_of(model) for model in old}
    for model in new:
        if model.name in platforms:
            before, after = platforms[model.name], model_config.platform_of(model)
            if before != after:
                raise errors.invalid_argument(
                    f"Illegal to change a model's platform. For model {model.name} platform was "
                    f"{before} and new platform requested is {after}"
                )
