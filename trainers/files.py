"""Files: written to the disk with their checksums, and errors that name them."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any


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


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a file that takes its name at the end of the block: whole, or not at all.

    Its folder is made where there is none. Text is UTF-8.

    Raises:
      OSError: naming the file; nothing half-written is left.
    """
    partial = f"{os.fspath(path)}.new"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        encoding = None if "b" in mode else "utf-8"
        with naming(path), open(partial, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def is_free(path: str) -> bool:
    """Whether nothing is there, or an empty folder."""
    return not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path))


def save_folder(save: Callable[[str], None], path: str) -> None:
    """Has `save` write a folder, which appears whole or not at all; one that is there stays."""
    if not os.path.isdir(path):
        shutil.rmtree(f"{path}.new", ignore_errors=True)
        with naming(path):
            save(f"{path}.new")
        os.rename(f"{path}.new", path)
