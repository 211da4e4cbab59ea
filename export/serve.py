"""Serves SavedModels as TensorFlow Serving does: the same flags, gRPC and REST, word for word.

    python -m export.serve --model_base_path=models/NAME --model_name=NAME \
        --port=8500 --rest_api_port=8501

Once every model has a version loaded, the ports open and standard output says where. SIGTERM and
SIGINT let what runs finish; a second one does not wait.
"""

import os

from absl import flags

from export import cli, protocol
from export.server import errors, model_config, ports

_PORT = {"lower_bound": 0, "upper_bound": 65535}


def main():
    values = flags.FLAGS
    try:
        models = _models(values)
        session_config = _session_config(values)
        _check_ports(values)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # our own log tells what matters
        # TensorFlow takes seconds to import: not before what the flags say is known to be good.
        from export.server import launcher

        launcher.run(values, models, session_config)
    except errors.ServingError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"Failed to start server. Error: {told}") from error


def _models(values: flags.FlagValues) -> list[protocol.ModelConfig]:
    if values.model_config_file:
        config = model_config.read(values.model_config_file)
    elif values.model_base_path:
        config = model_config.of_one_model(values.model_name, values.model_base_path)
    else:
        raise cli.UsageError("Both --model_base_path and --model_config_file are empty!")
    models = model_config.check(config)
    model_config.check_labels(models, values.allow_version_labels_for_unavailable_models)
    model_config.check_folders(models)
    return models


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
    return protocol.ConfigProto(
        intra_op_parallelism_threads=intra, inter_op_parallelism_threads=inter
    )


def _check_ports(values: flags.FlagValues) -> None:
    """Tells of a port that cannot be had before minutes go into loading."""
    for flag in ("port", "rest_api_port"):
        if values[flag].value is not None:
            ports.listen(values.host, values[flag].value, flag).close()


def define_flags() -> None:
    """Flags with the names, meanings and defaults of the stock server's, but where it is said."""
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; the stock server has 0.0.0.0.")
    flags.DEFINE_integer("port", 8500, "Port of gRPC; 0 takes a free one.", **_PORT)
    flags.DEFINE_integer(
        "rest_api_port", None, "Port of HTTP/REST; 0 takes a free one. (default: no HTTP)", **_PORT
    )
    flags.DEFINE_string("model_name", "default", "Name of the model.")
    flags.DEFINE_string("model_base_path", None, "Folder of the model's versions.")
    flags.DEFINE_string(
        "model_config_file",
        None,
        "Text file with a ModelServerConfig, of one model or several; the two flags above are "
        "ignored then.",
    )
    flags.DEFINE_float(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between looks for new versions; 0 looks once, a negative number never.",
    )
    flags.DEFINE_integer(
        "max_num_load_retries",
        5,
        "Attempts at a new version after the first failed, while an old one serves. At start-up "
        "there is one attempt; the stock server tries again there too.",
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
        "gRPC calls at a time; more get RESOURCE_EXHAUSTED. (default: 4 a core)",
        lower_bound=1,
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
        "xla_cpu_compilation_enabled",
        False,
        "Compile with XLA what a model asks to be compiled; otherwise such calls fail.",
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
