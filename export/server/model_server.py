"""The ports of a server: gRPC and HTTP over one set of models."""

import grpc

from export.server import grpc_service, ports
from export.server.configuration import Configuration
from export.server.http_server import HttpServer
from export.server.options import Options
from export.server.rest import RestApi


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
            listener = ports.listen(options.host, options.rest_api_port, "rest_api_port")
        try:
            self._grpc = grpc_service.create(configuration, options)
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
    # These say why not in one line; gRPC says it in many.
    ports.listen(host, port, "port").close()
    if path:
        ports.check_unix_socket(path)
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
