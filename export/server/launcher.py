"""The life of a server process: from flags to ports, until a signal comes."""

import functools
import logging
import os
import signal
import threading
from collections.abc import Mapping

from absl import flags
from absl import logging as absl_logging

from export import protocol
from export.server import (
    batching_parameters,
    model_config,
    request_log,
    servable,
    versions,
    warmup,
    xla,
)
from export.server.batch_scheduler import BatchScheduler
from export.server.batching import BatchingServable
from export.server.batching_parameters import BatchingParameters
from export.server.configuration import Configuration
from export.server.manager import ModelManager
from export.server.model_server import ModelServer
from export.server.options import Options

log = logging.getLogger(__name__)


def run(
    values: flags.FlagValues,
    config: protocol.ModelServerConfig,
    session_config: protocol.ConfigProto,
    batching: BatchingParameters | None = None,
    **options,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
      values: flags, as `export.serve` defines them.
      config: the models to begin with.
      session_config: of every session.
      batching: how to batch runs, and with which threads; None for not at all.
      **options: those of `Options` that are not flags by themselves.

    Raises:
      ServingError: a model that cannot be loaded.
      OSError: a port that cannot be had.
    """
    logging.getLogger("export.server").setLevel(logging.INFO)
    if not values.log_requests:
        request_log.log.setLevel(logging.WARNING)
    if values.log_format == "json":
        absl_logging.get_absl_handler().setFormatter(request_log.JsonFormatter())
    stop = _stop_on_signals()
    if not (values.xla_cpu_compilation_enabled or values.xla_gpu_compilation_enabled):
        xla.disable()
    scheduler = None
    if batching is not None:
        scheduler = BatchScheduler(batching.num_batch_threads, batching.thread_pool_name)
    manager = ModelManager(
        functools.partial(_load, values, session_config, batching, scheduler),
        values.file_system_poll_wait_seconds,
        values.max_num_load_retries,
        values.load_retry_interval_micros / 1e6,
    )
    configuration = Configuration(
        manager, values.allow_version_labels_for_unavailable_models, values.allowed_root
    )
    try:
        _serve(values, configuration, config, _options(values, options), stop)
    finally:
        if scheduler is not None:
            scheduler.stop()


def _serve(
    values: flags.FlagValues,
    configuration: Configuration,
    config: protocol.ModelServerConfig,
    options: Options,
    stop: threading.Event,
) -> None:
    manager = configuration.manager
    manager.start()
    try:
        configuration.start(config)
        while not manager.wait(timeout=0.2):
            if stop.is_set():
                return
        server = ModelServer(configuration, options)
        seconds = values.model_config_file_poll_wait_seconds
        if values.model_config_file and seconds > 0:
            following = (values.model_config_file, seconds, stop)
            threading.Thread(target=configuration.follow, args=following, daemon=True).start()
        print(f"Running gRPC ModelServer at {options.host}:{server.port} ...", flush=True)
        if options.grpc_socket_path:
            path = options.grpc_socket_path
            print(f"Running gRPC ModelServer at UNIX socket {path} ...", flush=True)
        if server.rest_api_port is not None:
            address = f"{options.host}:{server.rest_api_port}"
            print(f"Exporting HTTP/REST API at:{address} ...", flush=True)
        stop.wait()
        log.info("Stopping: what runs has %g s to finish", values.shutdown_grace_seconds)
        server.stop(values.shutdown_grace_seconds)
    finally:
        manager.stop()


def _load(
    values: flags.FlagValues,
    session_config: protocol.ConfigProto,
    batching: BatchingParameters | None,
    scheduler: BatchScheduler | None,
    name: str,
    version: int,
    directory: str,
) -> servable.Servable | BatchingServable:
    """Loads a version and warms it up."""
    # The list was checked when it came; a link may lead elsewhere by now.
    model_config.check_root(name, os.path.dirname(directory), values.allowed_root)
    versions.check_links(directory)
    if batching is not None and values.enable_per_model_batching_parameters:
        batching = batching_parameters.of_version(directory)
    tags = values.saved_model_tags.split(",")
    loaded = servable.load(name, version, directory, tags, session_config)
    if batching is not None:
        loaded = BatchingServable(loaded, batching, scheduler)
    if values.enable_model_warmup:
        try:
            warmup.run(loaded, directory, max(1, values.num_request_iterations_for_warmup))
        except BaseException:
            loaded.close()
            raise
    return loaded


def _options(values: flags.FlagValues, others: Mapping[str, object]) -> Options:
    """Those flags that are set; the others have their defaults."""
    names = Options.__dataclass_fields__.keys() - others.keys()
    given = {name: values[name].value for name in names if values[name].value is not None}
    return Options(**given, **others)


def _stop_on_signals() -> threading.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stop = threading.Event()

    def handle(number, frame):
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
