"""Versions of a model on disk: MODEL_BASE_PATH/NUMBER, each whole from its first moment.

A server polls the folder and loads any directory with a number for a name. So a version grows in a
directory with another kind of name, and gets its number by one rename when it is whole.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile


def versions(base_path: str | os.PathLike) -> list[int]:
    """Numbers of the versions in a folder, rising; [] if there is no such folder.

    As the server reads them: leading zeros count for nothing, other names are no versions.
    """
    path = pathlib.Path(base_path)
    if not path.is_dir():
        return []
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def check(base_path: str | os.PathLike, version: int | None) -> int:
    """The number of the next version to be made.

    Args:
      base_path: folder of the model's versions, which may not exist yet.
      version: the number wanted; None for the newest and one.

    Raises:
      ValueError: it exists, or the folder cannot be written.
    """
    base_path, existing = pathlib.Path(base_path), versions(base_path)
    newest = max(existing, default=0)
    if version in existing:
        raise ValueError(
            f"--version={version} exists in {base_path}: leave --version out for {newest + 1}"
        )
    try:
        base_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output_dir={base_path}: {error.strerror}; give another") from error
    if not os.access(base_path, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir={base_path}: may not be written; give another")
    return version or newest + 1


@contextlib.contextmanager
def new_version(base_path: str | os.PathLike, version: int | None = None):
    """Makes a version: a context that gives a directory to fill, published when it ends well.

    Args:
      base_path: folder of the model's versions; made if missing.
      version: its number; None for the newest and one.

    Yields:
      The directory to write into, and the final path of the version. If anything is raised inside,
      the directory is removed and nothing published.

    Raises:
      ValueError: the version exists, or the folder cannot be written.
    """
    base_path = pathlib.Path(base_path)
    version = check(base_path, version)
    final = base_path / str(version)
    growing = pathlib.Path(tempfile.mkdtemp(prefix=f"incomplete-{version}-", dir=base_path))
    try:
        yield growing, final
        growing.chmod(0o777 & ~_umask())  # mkdtemp closes it to all but the owner
        try:
            growing.rename(final)
        except OSError as error:  # another export was faster: its directory is not empty
            raise ValueError(f"{final} cannot be made: {error.strerror}; export again") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
