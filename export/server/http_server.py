"""HTTP around the REST API: an ASGI application in uvicorn, in a thread of its own.

Sources of what is refused: http.c of libevent 2.1, util/net_http/server/internal.
"""

import asyncio
import functools
import logging
import re
import socket
import threading
import zlib
from concurrent import futures

import h11
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from export.server import request_log, rest

log = logging.getLogger(__name__)

_LARGEST_UNZIPPED = 100 * 2**20  # bytes, net_http/compression/gzip_zlib.h
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
# Scheme and authority, and the rest of a request's target: characters of a URI (RFC 3986) alone.
_CHARACTERS = rb"(?:[\w.~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*"
_TARGET = re.compile(
    rb"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?(?://[^/?#]*)?(%b(?:#%b)?)" % (_CHARACTERS, _CHARACTERS)
)


class HttpServer:
    """Serves a REST API. Starts at once.

    Args:
      api: what answers.
      listener: a listening socket, which the server closes.
      max_threads: requests at a time; more wait.
    """

    def __init__(self, api: rest.RestApi, listener: socket.socket, max_threads: int):
        self._pool = futures.ThreadPoolExecutor(max_threads, thread_name_prefix="rest")
        self._server = uvicorn.Server(
            uvicorn.Config(
                functools.partial(_application, api, self._pool),
                interface="asgi3",
                http=_Protocol,
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


class _Protocol(H11Protocol):
    """Tells the application the target of a request as it was sent, in `scope["state"]`, and
    refuses as libevent does what is no HTTP."""

    def __init__(self, config, server_state, app_state, _loop=None):
        super().__init__(config, server_state, dict(app_state), _loop)
        self._next_event, self.conn.next_event = self.conn.next_event, self._noting_target

    def _noting_target(self):
        event = self._next_event()
        if isinstance(event, h11.Request):
            self.app_state["target"] = event.target
        return event

    def send_400_response(self, msg):
        page = rest.error_page(400)
        start = h11.Response(status_code=400, headers=[*page.headers.items()])
        for event in (start, h11.Data(data=page.body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


async def _application(api: rest.RestApi, pool: futures.Executor, scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    request_id = request_log.id_of(request.headers.get(request_log.HEADER))
    try:
        reply = await _reply(api, pool, request, request_id)
    except ClientDisconnect:
        return
    headers = {**reply.headers, request_log.HEADER: request_id}
    response = Response(reply.body, reply.status, headers)
    await response(scope, receive, send)


async def _reply(
    api: rest.RestApi, pool: futures.Executor, request: Request, request_id: str
) -> rest.Reply:
    if _expects_more(request):
        return rest.error_page(417)
    body = await request.body()
    if request.method not in _METHODS:
        return rest.error_page(501)
    target = _TARGET.fullmatch(request.scope["state"]["target"])
    if target is None:
        return rest.error_page(400)
    if "gzip" in request.headers.get("content-encoding", ""):
        body = _unzip(body)
    origin = request.headers.get("origin", "")
    return await asyncio.get_running_loop().run_in_executor(
        pool, api.respond, request.method, target[1].decode(), body, origin, request_id
    )


def _expects_more(request: Request) -> bool:
    """Whether it has a body and wants to hear something else than "100 Continue" before."""
    headers = request.headers
    has_body = "transfer-encoding" in headers or int(headers.get("content-length", 0))
    return has_body and headers.get("expect", "100-continue").lower() != "100-continue"


def _unzip(body: bytes) -> bytes:
    """The body of a gzip-compressed request; nothing if it is broken or too large."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = decompressor.decompress(body, _LARGEST_UNZIPPED)
    except zlib.error as error:
        log.warning("Failed to uncompress the gzipped body: %s", error)
        return b""
    return data if decompressor.eof else b""
