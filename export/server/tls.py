"""Encryption of gRPC: keys and certificates, out of a file with an `SSLConfig`."""

import os
import ssl

import grpc

from export.server import text_messages


def credentials(file: str) -> grpc.ServerCredentials | None:
    """What a gRPC server listens with.

    Args:
      file: with an `SSLConfig` in protobuf's text format; "" for no encryption.

    Raises:
      ValueError: it is not one, or its key and certificates cannot be used.
      OSError: it cannot be read.
    """
    if not file:
        return None
    found = text_messages.read(file, text_messages.SSLConfig, secret=True)
    for name in ("server_key", "server_cert"):
        if not getattr(found, name):
            raise ValueError(f"--ssl_config_file={file}: it has no {name}, text in PEM form")
    if found.client_verify and not found.custom_ca:
        raise ValueError(
            f"--ssl_config_file={file}: client_verify needs custom_ca, the certificate in PEM form "
            "that those of the clients are signed with"
        )
    pair = (found.server_key.encode(), found.server_cert.encode())
    try:
        _check(*pair, found.custom_ca)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"--ssl_config_file={file}: key and certificate cannot be used together: {error}"
        ) from error
    return grpc.ssl_server_credentials(
        [pair], found.custom_ca.encode() or None, found.client_verify
    )


def _check(key: bytes, certificate: bytes, authority: str) -> None:
    """gRPC says of a key or certificate that it cannot use no more than that there is no port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL reads files alone: this one is in memory, so that the key gets on no disk.
    with open(os.memfd_create("tls"), "wb") as both:
        both.write(key + b"\n" + certificate)
        both.flush()
        context.load_cert_chain(f"/proc/self/fd/{both.fileno()}", password=_no_password)
    if authority:
        context.load_verify_locations(cadata=authority)


def _no_password():
    raise ValueError("the key is encrypted; give it as it is")
