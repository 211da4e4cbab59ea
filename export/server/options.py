"""How to serve."""

import dataclasses
from collections.abc import Sequence

import grpc

from export.server import cores


def default_threads() -> int:
    """Calls at a time, as on the stock server: four for each core that the process may use."""
    return 4 * cores.count()


@dataclasses.dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
      host: address to listen at.
      port: of gRPC; 0 takes a free one.
      rest_api_port: of HTTP; 0 takes a free one, None for no HTTP.
      grpc_max_threads: gRPC calls at a time; more are refused.
      rest_api_num_threads: HTTP requests at a time; more wait.
      rest_api_timeout_in_ms: limit of an HTTP request's run.
      rest_api_enable_cors_support: send CORS headers.
      metrics_path: of the page for Prometheus, beside the REST API; "" for none.
      grpc_socket_path: of a UNIX socket for gRPC too; "" for none.
      grpc_credentials: for TLS; None for plain text. The UNIX socket has them too, REST has not.
      grpc_channel_arguments: (key, value) pairs for gRPC.
      enable_grpc_healthcheck_service: serve the standard health service.
      enable_serialization_as_tensor_content: answer Predict with bytes instead of typed fields.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int | None = None
    grpc_max_threads: int = dataclasses.field(default_factory=default_threads)
    rest_api_num_threads: int = dataclasses.field(default_factory=default_threads)
    rest_api_timeout_in_ms: int = 30000
    rest_api_enable_cors_support: bool = False
    metrics_path: str = ""
    grpc_socket_path: str = ""
    grpc_credentials: grpc.ServerCredentials | None = None
    grpc_channel_arguments: Sequence[tuple[str, int | str]] = ()
    enable_grpc_healthcheck_service: bool = False
    enable_serialization_as_tensor_content: bool = False
