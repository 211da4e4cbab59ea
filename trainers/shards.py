"""Shards: token ids of documents in files that NumPy maps, and the manifest that vouches for them.

A folder of `trainers.prepare_data` holds, for the splits `train` and `eval`,

- `train-00000.tokens.npy`: (N,) uint16 or uint32, the documents end to end, each with its
  end-of-sequence token;
- `train-00000.offsets.npy`: (n + 1,) int64, where each document begins and the last ends;
- `tokenizer/`: the tokenizer that made them;
- `manifest.json`: what came from where, counts, lengths, and size and SHA-256 of every file above.

`np.load(name, mmap_mode="r")` reads any of the arrays.
"""

import functools
import glob
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.files import write

MANIFEST = "manifest.json"
SPLITS = ("train", "eval")
MAX_TOKENS = 2**31 - 1  # of a shard, so that 4 bytes hold a place in it

FORMAT = "gpt-keras shards 1"
# What a manifest holds besides: of each key the type, the keys within, or a list of such.
_COUNTS = {"documents": int, "tokens": int, "target_bytes": int}
_SPLIT = {**_COUNTS, "lengths": dict, "shards": [{"name": str, **_COUNTS}]}
_FORM = {
    "preparation": dict,
    "tokenizer": {"sha256": str, "vocab_size": int, "eos_token_id": int},
    "documents": {"read": int, "duplicate": int, "empty": int},
    "splits": dict.fromkeys(SPLITS, _SPLIT),
    "files": dict,
}
_MAPPED = 256  # files mapped at once; each takes a file descriptor


@dataclass(frozen=True)
class Shard:
    """Some documents of a split.

    Attributes:
      path: of its files, without their endings.
      num_tokens: N.
      num_target_bytes: bytes of text that all tokens but the first of each document stand for.
    """

    path: str
    num_tokens: int
    num_target_bytes: int

    @property
    def tokens(self) -> np.ndarray:
        """(N,) uint16 or uint32, mapped."""
        return _map(f"{self.path}.tokens.npy")

    @property
    def offsets(self) -> np.ndarray:
        """(n + 1,) int64, mapped."""
        return _map(f"{self.path}.offsets.npy")


@functools.lru_cache(maxsize=_MAPPED)
def _map(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True)
class ShardFolder:
    """A prepared folder, see `open_folder`.

    Attributes:
      path: of the folder.
      digest: SHA-256 of the manifest, which stands for all the data.
      manifest: its content.
    """

    path: str
    digest: str
    manifest: Mapping[str, Any]

    def shards(self, split: str) -> list[Shard]:
        """Those of a split, in their order."""
        return [
            Shard(os.path.join(self.path, s["name"]), s["tokens"], s["target_bytes"])
            for s in self.manifest["splits"][split]["shards"]
        ]

    @property
    def tokenizer_dir(self) -> str:
        return os.path.join(self.path, "tokenizer")

    def check_tokenizer(self, directory: str) -> None:
        """Raises ValueError if the tokenizer in a directory is not the one of the shards."""
        made_by, given = self.manifest["tokenizer"]["sha256"], tokenizer_digest(directory)
        if given != made_by:
            raise ValueError(
                f"--tokenizer={directory}: has the SHA-256 {given[:12]}…, but the shards of "
                f"{self.path} were made with {made_by[:12]}…, which is in {self.tokenizer_dir}; "
                "leave the flag out to use that one, or prepare the data anew"
            )


def is_folder(path: str) -> bool:
    """Whether this is a folder of `trainers.prepare_data`, or what is there of one."""
    path = os.path.expanduser(path)
    tokens = glob.iglob(os.path.join(glob.escape(path), "*.tokens.npy"))
    return os.path.isfile(os.path.join(path, MANIFEST)) or any(tokens)


def open_folder(path: str, *, verify: bool = True) -> ShardFolder:
    """Opens a prepared folder.

    Args:
      path: of it.
      verify: read all files and compare their checksums, about a second a GB; sizes are always
        compared.

    Raises:
      ValueError: no manifest, an unreadable one, or one that lacks something; a file that is
        missing, truncated or damaged.
    """
    path = os.path.expanduser(path)
    where = os.path.join(path, MANIFEST)
    try:
        with open(where, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(
            f"{where}: {error.strerror}; `python -m trainers.prepare_data` makes such folders, and "
            "goes on with one that is not whole yet (DIR.partial)"
        ) from error
    try:
        manifest = json.loads(content)
        known = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: not a manifest of shards; {_remedy(path)}") from error
    if not known:
        raise ValueError(
            f"{where}: the format is {manifest['format']!r}, expected {FORMAT!r}; {_remedy(path)}"
        )
    _check_form(where, manifest, _FORM)
    _check_form(where, manifest["files"], _files_form(manifest), "files")
    _check_files(path, manifest["files"], verify)
    return ShardFolder(path, hashlib.sha256(content).hexdigest(), manifest)


def _remedy(folder: str) -> str:
    return f"copy it anew, or delete {folder} and prepare the data anew"


def _check_form(where: str, value: Any, form: Any, key: str = "") -> None:
    """Raises ValueError, naming the key, for a value that is not of the form; see `_FORM`."""
    kind = form if isinstance(form, type) else type(form)
    if type(value) is not kind:
        got = "is missing" if value is None else f"is {str(value)[:40]!r}"
        raise ValueError(
            f"{where}: {key} {got}, expected {_KINDS[kind]}; {_remedy(os.path.dirname(where))}"
        )
    if isinstance(form, dict):
        for name, inner in form.items():
            _check_form(where, value.get(name), inner, f"{key}.{name}" if key else name)
    if isinstance(form, list):
        for index, item in enumerate(value):
            _check_form(where, item, form[0], f"{key}[{index}]")


_KINDS = {dict: "an object", list: "a list", int: "a whole number", str: "a string"}


def _files_form(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Of the `files`: all that are listed, and those that the shards and the tokenizer are in."""
    shards = [shard["name"] for split in SPLITS for shard in manifest["splits"][split]["shards"]]
    needed = [f"{name}.{kind}.npy" for name in shards for kind in ("tokens", "offsets")]
    names = [*manifest["files"], *needed, "tokenizer/tokenizer.json"]
    return {name: {"bytes": int, "sha256": str} for name in names}


def _check_files(folder: str, files: Mapping[str, Mapping], verify: bool) -> None:
    remedy = _remedy(folder)
    for name, expected in files.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: missing, though the manifest lists it; {remedy}")
        size = os.path.getsize(path)
        if size != expected["bytes"]:
            raise ValueError(
                f"{path}: has {size:,} bytes, but the manifest says {expected['bytes']:,}: "
                f"truncated or overwritten; {remedy}"
            )
    if verify:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(file_digest, (os.path.join(folder, name) for name in files))
            for (name, expected), digest in zip(files.items(), digests, strict=True):
                if digest != expected["sha256"]:
                    raise ValueError(
                        f"{os.path.join(folder, name)}: its SHA-256 is {digest[:12]}…, but the "
                        f"manifest says {expected['sha256'][:12]}…: damaged; {remedy}"
                    )


def file_digest(path: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_digest(directory: str) -> str:
    """SHA-256 of the `tokenizer.json` in a directory, or of its `tokenizer.model`."""
    path = os.path.join(directory, "tokenizer.json")
    if not os.path.isfile(path):
        model = os.path.join(directory, "tokenizer.model")
        path = model if os.path.isfile(model) else path
    try:
        return file_digest(path)
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; name the directory that holds it (of a .gguf file "
            "gpt_keras.import_checkpoint makes one)"
        ) from error


def write_array(path: str, parts: Sequence[np.ndarray], dtype: np.dtype) -> dict[str, Any]:
    """Writes arrays end to end as one `.npy`, with no copy of them all.

    Returns:
      `{"bytes": size, "sha256": digest}` of the file, which is on the disk by then.
    """
    dtype, header = np.dtype(dtype).newbyteorder("<"), io.BytesIO()
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (sum(map(len, parts)),)}
    np.lib.format.write_array_header_1_0(header, fields)
    pieces = (part.astype(dtype, copy=False).tobytes() for part in parts)
    return write(path, itertools.chain([header.getvalue()], pieces))


def describe_file(path: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"bytes": os.path.getsize(path), "sha256": file_digest(path)}


def length_statistics(offsets: Iterable[np.ndarray]) -> dict[str, Any]:
    """Tokens of the documents, out of the offsets of their shards: mean, quantiles, extremes.

    Quantiles are exact below 2^20 tokens; longer documents count as so long.
    """
    counts, total, largest = np.zeros(2**20 + 1, np.int64), 0, 0
    for splits in offsets:
        lengths = np.diff(splits)
        counts += np.bincount(np.minimum(lengths, 2**20), minlength=len(counts))
        total, largest = total + int(lengths.sum()), max(largest, int(lengths.max()))
    documents, below = int(counts.sum()), np.cumsum(counts)
    if not documents:
        return {}
    quantiles = {
        f"p{int(100 * q)}": int(np.searchsorted(below, q * documents))
        for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    }
    smallest = int(np.flatnonzero(counts)[0])
    return {"mean": total / documents, "min": smallest, **quantiles, "max": largest}
