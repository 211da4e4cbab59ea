"""Where to listen: TCP ports and UNIX sockets."""

import errno
import os
import socket
import stat

_BACKLOG = 128


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket.

    Args:
      host: name or address; a name may be of IPv4 or IPv6.
      port: 0 for a free one.
      flag: that named the port, for the message.

    Raises:
      OSError: one line that says why not, and what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise OSError(f"--host={host}: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    # Only of a socket that says it is TCP does asyncio turn off Nagle's wait, 40 ms a request.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            f"--{flag}={port}: cannot listen at {host}:{port}, {error.strerror}; "
            "give another port, or 0 for any free one"
        ) from error
    return listener


def check_unix_socket(path: str) -> None:
    """Tells whether gRPC may listen at a UNIX socket, and removes one that a dead server left.

    gRPC by itself, and so the stock server, takes the socket of a live server over without a word;
    when that one ends, it removes the file of its successor.

    Raises:
      OSError: one line that says why not, and what to do.
    """
    remedy = "give another path"
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            found = client.connect_ex(path)
        if found in (0, errno.EAGAIN):  # the latter where many wait to be let in
            remedy = f"end the server that listens there, or {remedy}"
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        if found == errno.ECONNREFUSED and stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
        os.unlink(path)
    except OSError as error:
        raise OSError(
            f"--grpc_socket_path={path}: cannot listen there, {error.strerror or error}; {remedy}"
        ) from error
