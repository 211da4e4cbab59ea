"""The ports of a server: gRPC and HTTP over one set of models."""

import dataclasses
from collections.abc import Sequence

import grpc

from export.server import cores, grpc_service
from export.server.configuration import Configuration
from export.server.http_server import HttpServer
from export.server.ports import listen
from export.server.rest import RestApi


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


class ModelServer:
    """A running server. It does not own the models.

    Attributes:
      port, rest_api_port: those listened at; the latter None without HTTP.
    """

    def __init__(self, configuration: Configuration, options: Options):
        """Opens the ports and starts serving.

        Raises:
          OSError: a port cannot be had.
        """
        self.rest_api_port, self._http = None, None
        listener = None
        if options.rest_api_port is not None:
            listener = listen(options.host, options.rest_api_port, "rest_api_port")
        try:
            self._grpc = grpc_service.create(
                configuration,
                options.grpc_max_threads,
                options.grpc_channel_arguments,
                options.enable_grpc_healthcheck_service,
            )
            self.port = _bind(self._grpc, options)
        except BaseException:
            if listener is not None:
                listener.close()
            raise
        self._grpc.start()
        if listener is not None:
            api = RestApi(
                configuration.manager,
                options.rest_api_timeout_in_ms,
                options.rest_api_enable_cors_support,
                options.metrics_path,
            )
            self.rest_api_port = listener.getsockname()[1]
            self._http = HttpServer(api, listener, options.rest_api_num_threads)

    def stop(self, grace: float = 0) -> None:
        """Takes no more requests, and lets those that run have `grace` seconds."""
        stopped = self._grpc.stop(grace)
        if self._http is not None:
            self._http.stop(grace)
        stopped.wait()


def _bind(server: grpc.Server, options: Options) -> int:
    host, port, path = options.host, options.port, options.grpc_socket_path
    listen(host, port, "port").close()  # says why not in one line; gRPC says it in many
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if path:
        _listen(server, f"unix:{path}", options.grpc_credentials, f"--grpc_socket_path={path}")
    return _listen(server, address, options.grpc_credentials, f"--port={port}")


def _listen(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None, flag: str
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"{flag}: gRPC cannot listen at {address}") from error
