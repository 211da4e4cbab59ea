"""Serves SavedModels as TensorFlow Serving does: the same flags, gRPC and REST, word for word.

    python -m export.serve --model_base_path=models/NAME --model_name=NAME \
        --port=8500 --rest_api_port=8501

Once every model has a version loaded, the ports open and standard output says where. SIGTERM and
SIGINT let what runs finish; a second one does not wait.
"""

import os
import re
from importlib import metadata

from absl import flags

from export import cli, protocol
from export.server import (
    batching_parameters,
    errors,
    metrics,
    model_config,
    ports,
    text_messages,
    tls,
)
from export.server.batching_parameters import BatchingParameters

_PORT = {"lower_bound": 0, "upper_bound": 65535}


def main():
    values = flags.FLAGS
    if values.version:
        print(f"gpt-keras: {metadata.version('gpt-keras')}")
        print(f"TensorFlow Library: {metadata.version('tensorflow')}")
        return
    try:
        config = _config(values)
        session_config = _session_config(values)
        options = {
            "batching": _batching_parameters(values),
            "metrics_path": _metrics_path(values),
            "grpc_credentials": tls.credentials(values.ssl_config_file),
            "grpc_channel_arguments": _channel_arguments(values),
        }
        _check_ports(values)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # our own log tells what matters
        # TensorFlow takes seconds to import: not before what the flags say is known to be good.
        from export.server import launcher

        launcher.run(values, config, session_config, **options)
    except errors.ServingError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"Failed to start server. Error: {told}") from error


def _config(values: flags.FlagValues) -> protocol.ModelServerConfig:
    if values.model_config_file:
        config = model_config.read(values.model_config_file)
    elif values.model_base_path:
        config = model_config.of_one_model(values.model_name, values.model_base_path)
    else:
        raise cli.UsageError("Both --model_base_path and --model_config_file are empty!")
    model_config.check(config, values.allowed_root)
    return config


def _session_config(values: flags.FlagValues) -> protocol.ConfigProto:
    both = values.tensorflow_session_parallelism
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    if both and intra and inter:
        raise cli.UsageError(
            "Either configure --tensorflow_session_parallelism or "
            "(--tensorflow_intra_op_parallelism, --tensorflow_inter_op_parallelism) separately. "
            "You cannot configure all."
        )
    if not (intra or inter):
        intra = inter = both
    config = protocol.ConfigProto()
    if file := values.tensorflow_session_config_file:
        config = text_messages.read(file, protocol.ConfigProto)
    config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = intra, inter
    if values.mixed_precision:
        rewrites = config.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return config


def _batching_parameters(values: flags.FlagValues) -> BatchingParameters | None:
    """How to batch runs; None for not at all."""
    if not values.enable_batching:
        if values.batching_parameters_file:
            raise cli.UsageError(
                "--batching_parameters_file is set without setting --enable_batching to true."
            )
        return None
    parameters = BatchingParameters(thread_pool_name="model_server_batch_threads")
    if values.batching_parameters_file:
        parameters = batching_parameters.read(values.batching_parameters_file)
    parameters.check_threads()
    if not values.enable_per_model_batching_parameters:
        parameters.check()
    return parameters


def _metrics_path(values: flags.FlagValues) -> str:
    if not values.monitoring_config_file:
        return ""
    found = text_messages.read(values.monitoring_config_file, text_messages.MonitoringConfig)
    prometheus = found.prometheus_config
    return (prometheus.path or metrics.PATH) if prometheus.enable else ""


def _channel_arguments(values: flags.FlagValues) -> list[tuple[str, int | str]]:
    """Numbers where they are numbers, as the stock server takes them."""
    arguments = []
    for entry in filter(None, values.grpc_channel_arguments.split(",")):
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise cli.UsageError(
                f"--grpc_channel_arguments: expected key=value pairs with commas, got {entry!r}"
            )
        arguments.append((key, int(value) if re.fullmatch("[+-]?[0-9]+", value) else value))
    return arguments


def _check_ports(values: flags.FlagValues) -> None:
    """Tells of a port or socket that cannot be had before minutes go into loading."""
    for flag in ("port", "rest_api_port"):
        if values[flag].value is not None:
            ports.listen(values.host, values[flag].value, flag).close()
    if values.grpc_socket_path:
        ports.check_unix_socket(values.grpc_socket_path)


# Flags of the stock server that it may be started with, and that change nothing here.
_WITHOUT_EFFECT = {
    "enable_profiler": True,
    "enable_signature_method_name_check": False,
    "flush_filesystem_caches": True,
    "num_load_threads": 0,
    "num_tflite_interpreters_per_pool": 1,
    "num_tflite_pools": 0,
    "num_unload_threads": 0,
    "per_process_gpu_memory_fraction": 0.0,
    "remove_unused_fields_from_bundle_metagraph": True,
    "skip_initialize_tpu": False,
}
# Flags of the stock server that ask for what cannot be had here: default, and why no other value.
_REFUSED = {
    "platform_config_file": (
        "",
        "platforms cannot be configured; leave it out, and use --tensorflow_session_config_file, "
        "--enable_batching and their like",
    ),
    "prefer_tflite_model": (
        False,
        "model.tflite cannot be served; leave it out to serve saved_model.pb",
    ),
    "thread_pool_factory_config_file": (
        "",
        "the stock server has no factories of thread pools either; leave it out, and use "
        "--tensorflow_session_parallelism",
    ),
    "use_alts_credentials": (
        False,
        "there is no ALTS; leave it out, and use --ssl_config_file for encryption",
    ),
}
_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define_flags() -> None:
    """Flags with the names, meanings and defaults of the stock server's, but where it is said."""
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; the stock server has 0.0.0.0.")
    flags.DEFINE_integer("port", 8500, "Port of gRPC; 0 takes a free one.", **_PORT)
    flags.DEFINE_integer(
        "rest_api_port", None, "Port of HTTP/REST; 0 takes a free one. (default: no HTTP)", **_PORT
    )
    flags.DEFINE_string("model_name", "default", "Name of the model.")
    flags.DEFINE_string(
        "model_base_path", None, "Folder of the model's versions, or its file:/// URI."
    )
    flags.DEFINE_string(
        "model_config_file",
        None,
        "Text file with a ModelServerConfig, of one model or several; the two flags above are "
        "ignored then.",
    )
    flags.DEFINE_float(
        "model_config_file_poll_wait_seconds",
        0,
        "Seconds between readings of --model_config_file, to serve other models while the server "
        "runs; 0 reads it once. Each reading undoes what HandleReloadConfigRequest has sent.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "allowed_root",
        "",
        "Folder that every model must lie in, those sent later too; empty for any. (not on the "
        "stock server)",
    )
    flags.DEFINE_float(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between looks for new versions; 0 looks once, a negative number never.",
    )
    flags.DEFINE_integer(
        "max_num_load_retries",
        5,
        "Attempts at a version after the first failed. At start-up the first failure ends the "
        "program; the stock server tries again there too.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "load_retry_interval_micros", 60_000_000, "Microseconds between such attempts."
    )
    flags.DEFINE_bool("enable_model_warmup", True, "Run the warm-up requests of a version.")
    flags.DEFINE_integer(
        "num_request_iterations_for_warmup", 0, "How often to run each; used if above 0."
    )
    flags.DEFINE_string("saved_model_tags", "serve", "Tags of the graph to load, with commas.")
    flags.DEFINE_bool(
        "allow_version_labels_for_unavailable_models",
        False,
        "Labels may name versions that are not loaded yet.",
    )
    flags.DEFINE_integer(
        "grpc_max_threads",
        None,
        "gRPC calls at a time, but for reloads and reflection; more get RESOURCE_EXHAUSTED. "
        "(default: 4 a core)",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "grpc_socket_path",
        "",
        "UNIX socket to listen at for gRPC, besides the port. One where a server listens is "
        "refused; the stock server takes it over.",
    )
    flags.DEFINE_string(
        "grpc_channel_arguments",
        "",
        "Arguments of the gRPC server, with commas, such as grpc.max_connection_age_ms=2000.",
    )
    flags.DEFINE_bool(
        "enable_grpc_healthcheck_service", False, "Serve the standard gRPC health service."
    )
    flags.DEFINE_bool(
        "enable_serialization_as_tensor_content",
        False,
        "Answer Predict over gRPC with the bytes of tensors instead of typed fields.",
    )
    flags.DEFINE_string(
        "ssl_config_file",
        "",
        "Text file with an SSLConfig (server_key, server_cert, custom_ca, client_verify), for TLS "
        "over gRPC; REST stays as it is.",
    )
    flags.DEFINE_string(
        "monitoring_config_file",
        "",
        "Text file with a MonitoringConfig, for a page for Prometheus beside the REST API.",
    )
    flags.DEFINE_integer(
        "rest_api_num_threads",
        None,
        "HTTP requests at a time; more wait. (default: 4 a core)",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "rest_api_timeout_in_ms", 30000, "Limit of an HTTP request's run, in ms; 0 for none."
    )
    flags.DEFINE_bool("rest_api_enable_cors_support", False, "Send CORS headers.")
    flags.DEFINE_string(
        "tensorflow_session_config_file",
        "",
        "Text file with a ConfigProto of TensorFlow for every session; the threads are those of "
        "the flags below.",
    )
    flags.DEFINE_integer(
        "tensorflow_session_parallelism",
        0,
        "Threads of a session; 0 for one a core.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "tensorflow_intra_op_parallelism", 0, "Threads of one op; 0 for one a core.", lower_bound=0
    )
    flags.DEFINE_integer(
        "tensorflow_inter_op_parallelism", 0, "Ops at a time; 0 for one a core.", lower_bound=0
    )
    flags.DEFINE_bool(
        "enable_batching", False, "Run requests with the same inputs and outputs as one batch."
    )
    flags.DEFINE_string(
        "batching_parameters_file",
        "",
        "Text file with BatchingParameters, in place of the defaults.",
    )
    flags.DEFINE_bool(
        "enable_per_model_batching_parameters",
        False,
        "Take the parameters of each version from batching_params.pbtxt in its directory; a "
        "version without one is not batched. --batching_parameters_file then counts for the "
        "threads only, their number and name, which all models share. Without --enable_batching "
        "this does nothing.",
    )
    flags.DEFINE_bool(
        "xla_cpu_compilation_enabled",
        False,
        "Compile with XLA what a model asks to be compiled; otherwise such calls fail.",
    )
    flags.DEFINE_bool(
        "xla_gpu_compilation_enabled",
        False,
        "As --xla_cpu_compilation_enabled, as on the stock server.",
    )
    flags.DEFINE_enum(
        "mixed_precision", "", ["", "bfloat16"], "Compute in bfloat16 what oneDNN can."
    )
    flags.DEFINE_bool("version", False, "Display version.")
    for name, default in _WITHOUT_EFFECT.items():
        text = "A flag of the stock server, without effect here."
        _DEFINE[type(default)](name, default, text)
    for name, (default, refusal) in _REFUSED.items():
        text = f"A flag of the stock server: {refusal}."
        _DEFINE[type(default)](name, default, text)
        flags.register_validator(name, default.__eq__, refusal)
    flags.DEFINE_bool(
        "log_requests",
        False,
        "Log a line for each request, with the x-request-id that it brings along or is given; not "
        "what it says. (not on the stock server)",
    )
    flags.DEFINE_enum(
        "log_format", "text", ["text", "json"], "Of the log. (not on the stock server)"
    )
    flags.DEFINE_float(
        "shutdown_grace_seconds",
        10,
        "Seconds that running requests have to finish in at the end. (not on the stock server)",
        lower_bound=0,
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
