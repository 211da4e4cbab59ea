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
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"--host={host}: {error.strerror}") from error
    listener = socket.socket(family, kind)
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
