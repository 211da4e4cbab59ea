"""Files: written to the disk with their checksums, and errors that name them."""

import contextlib
import hashlib
import os
from collections.abc import Iterable


@contextlib.contextmanager
def naming(path: str | os.PathLike):
    """Within it, an OSError that names no file, as a failed write's, gets this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def write(path: str | os.PathLike, pieces: Iterable) -> dict:
    """Writes bytes one after the other, to the disk (fsync).

    Returns:
      `{"bytes": size, "sha256": digest}` of the file, for a manifest.
    """
    digest, size = hashlib.sha256(), 0
    with naming(path), open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}
