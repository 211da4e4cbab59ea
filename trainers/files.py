"""Files: errors of the disk that name what could not be written."""

import contextlib
import os


@contextlib.contextmanager
def naming(path: str | os.PathLike):
    """Within it, an OSError that names no file, as a failed write's, gets this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
