"""TCP ports to listen at."""

import socket

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
