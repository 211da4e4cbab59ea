"""HTTP around the REST API: an ASGI application in uvicorn, in a thread of its own."""

import asyncio
import functools
import logging
import socket
import threading
import zlib
from concurrent import futures

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from export.server import request_log
from export.server.rest import RestApi

log = logging.getLogger(__name__)

_LARGEST_UNZIPPED = 100 * 2**20  # bytes, net_http/compression/gzip_zlib.h


class HttpServer:
    """Serves a REST API. Starts at once.

    Args:
      api: what answers.
      listener: a listening socket, which the server closes.
      max_threads: requests at a time; more wait.
    """

    def __init__(self, api: RestApi, listener: socket.socket, max_threads: int):
        self._pool = futures.ThreadPoolExecutor(max_threads, thread_name_prefix="rest")
        self._server = uvicorn.Server(
            uvicorn.Config(
                functools.partial(_application, api, self._pool),
                interface="asgi3",
                lifespan="off",
                log_config=None,
                log_level="error",  # a warning for each broken request would fill the disk
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=2**20,  # bytes of headers
            )
        )
        self._thread = threading.Thread(target=self._run, args=(listener,), name="http")
        self._thread.daemon = True
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Takes no more connections, and finishes what runs if that takes no longer than `grace`
        seconds."""
        self._server.config.timeout_graceful_shutdown = max(1, round(grace))
        self._server.should_exit = True
        self._thread.join(grace + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, listener: socket.socket) -> None:
        asyncio.run(self._server.serve(sockets=[listener]))


async def _application(api: RestApi, pool: futures.Executor, scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    path = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode("latin-1")
    try:
        body = await request.body()
    except ClientDisconnect:
        return
    if "gzip" in request.headers.get("content-encoding", ""):
        body = _unzip(body)
    origin = request.headers.get("origin", "")
    request_id = request_log.id_of(request.headers.get(request_log.HEADER))
    reply = await asyncio.get_running_loop().run_in_executor(
        pool, api.respond, request.method, path, body, origin, request_id
    )
    headers = {**reply.headers, request_log.HEADER: request_id}
    response = Response(reply.body, reply.status, headers)
    await response(scope, receive, send)


def _unzip(body: bytes) -> bytes:
    """The body of a gzip-compressed request; nothing if it is broken or too large."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = decompressor.decompress(body, _LARGEST_UNZIPPED)
    except zlib.error as error:
        log.warning("Failed to uncompress the gzipped body: %s", error)
        return b""
    return data if decompressor.eof else b""
