"""Flags of the stock server, which `export.serve` knows all of."""

import subprocess
import sys

import pytest

# name -> default, on 4 cores: model_servers/main.cc and server.h, the same in 2.19.1 and 2.20.0.
STOCK = {
    "allow_version_labels_for_unavailable_models": "false",
    "batching_parameters_file": "",
    "enable_batching": "false",
    "enable_grpc_healthcheck_service": "false",
    "enable_model_warmup": "true",
    "enable_per_model_batching_parameters": "false",
    "enable_profiler": "true",
    "enable_serialization_as_tensor_content": "false",
    "enable_signature_method_name_check": "false",
    "file_system_poll_wait_seconds": "1",
    "flush_filesystem_caches": "true",
    "grpc_channel_arguments": "",
    "grpc_max_threads": "16",
    "grpc_socket_path": "",
    "load_retry_interval_micros": "60000000",
    "max_num_load_retries": "5",
    "mixed_precision": "",
    "model_base_path": "",
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": "0",
    "model_name": "default",
    "monitoring_config_file": "",
    "num_load_threads": "0",
    "num_request_iterations_for_warmup": "0",
    "num_tflite_interpreters_per_pool": "1",
    "num_tflite_pools": "4",
    "num_unload_threads": "0",
    "per_process_gpu_memory_fraction": "0",
    "platform_config_file": "",
    "port": "8500",
    "prefer_tflite_model": "false",
    "remove_unused_fields_from_bundle_metagraph": "true",
    "rest_api_enable_cors_support": "false",
    "rest_api_num_threads": "16",
    "rest_api_port": "0",
    "rest_api_timeout_in_ms": "30000",
    "saved_model_tags": "serve",
    "skip_initialize_tpu": "false",
    "ssl_config_file": "",
    "tensorflow_inter_op_parallelism": "0",
    "tensorflow_intra_op_parallelism": "0",
    "tensorflow_session_config_file": "",
    "tensorflow_session_parallelism": "0",
    "thread_pool_factory_config_file": "",
    "use_alts_credentials": "false",
    "version": "false",
    "xla_cpu_compilation_enabled": "false",
    "xla_gpu_compilation_enabled": "false",
}
# Values that mean nothing on a server without GPU, TPU and TensorFlow Lite.
WITHOUT_EFFECT = {
    "flush_filesystem_caches": "false",
    "num_load_threads": "2",
    "num_tflite_interpreters_per_pool": "2",
    "num_tflite_pools": "7",
    "num_unload_threads": "2",
    "per_process_gpu_memory_fraction": "0.5",
    "remove_unused_fields_from_bundle_metagraph": "false",
    "skip_initialize_tpu": "true",
}


def end_of(**values):
    """Exit status and error output of the server when it is started so."""
    command = [sys.executable, "-m", "export.serve"]
    command += [f"--{name}={value}" for name, value in values.items()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("values", [STOCK, STOCK | WITHOUT_EFFECT])
def test_known(values):
    # All is well but for the folder, which comes after the flags.
    status, told = end_of(**values | {"model_base_path": "/no/such"})
    assert told.startswith(
        "error: Failed to start server. Error: INVALID_ARGUMENT: Could not find base path /no/such "
    )
    assert status == 1


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("platform_config_file", "/x", "platforms cannot be configured; leave it out, and use "),
        ("prefer_tflite_model", "True", "model.tflite cannot be served; leave it out to serve "),
        ("thread_pool_factory_config_file", "/x", "the stock server has no factories of thread "),
        ("use_alts_credentials", "True", "there is no ALTS; leave it out, and use "),
    ],
)
def test_refused(name, value, reason):
    status, told = end_of(model_base_path="/no/such", **{name: value})
    assert told.startswith(f"error: flag --{name}={value}: {reason}")
    assert told.count("\n") == 1
    assert status == 2
