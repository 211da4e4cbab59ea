"""Turns texts into tokenized shards that `trainers.pretrain` reads at random.

    python -m trainers.prepare_data --train_data='wiki/*.jsonl.gz' --tokenizer=DIR --output_dir=wiki

One process reads, drops documents that came before letter for letter, and writes; the others
tokenize. The output appears under its name when it is whole. Kill it when you like: the same
command goes on where it was. The number of processes changes nothing in the output.
"""

import collections
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from absl import flags as absl_flags

from gpt_keras import tokenizers
from trainers import args, shards
from trainers.features import CHUNK_BYTES, END_OF_TEXT, end_of_text, token_bytes, tokenize
from trainers.preparation import DIGEST_BYTES, Documents, Position, Preparation
from trainers.records import find_files, stream_records
from trainers.splits import hash_fraction, normalize

# Flags that decide what is in the shards.
SETTINGS = (
    "train_data", "text_column", "text_unit", "data_encoding", "eval_fraction", "shard_tokens",
)  # fmt: skip


def prepare_flags(flags: args.FlagValues) -> None:
    """Shards."""

    def integer(name, default, help, **bounds):
        absl_flags.DEFINE_integer(name, default, help, flag_values=flags, **bounds)

    absl_flags.DEFINE_string(
        "output_dir", "", "folder that the shards are to fill; work goes on in "
        "<output_dir>.partial", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "tokenizer", "", "directory with tokenizer.json or .model; empty: train byte-level BPE on "
        "the first texts", flag_values=flags,
    )  # fmt: skip
    integer("vocab_size", 4096, "tokens of a tokenizer that is trained", lower_bound=257)
    integer("tokenizer_megabytes", 100, "text that a tokenizer is trained on, in MB", lower_bound=1)
    integer(
        "shard_tokens", 2**26, "tokens after which a shard ends, give or take a megabyte of text",
        lower_bound=1, upper_bound=shards.MAX_TOKENS // 2,
    )  # fmt: skip
    integer(
        "num_processes", 0, "processes that tokenize, about 0.8 GB each; 0: one a core",
        lower_bound=0,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "log_seconds", 10.0, "seconds between two lines of progress", lower_bound=0.0,
        flag_values=flags,
    )  # fmt: skip


FLAGS = (prepare_flags, args.train_data_flags, args.text_flags)


class Chunk(NamedTuple):
    """About a megabyte of new documents.

    Attributes:
      texts: the documents.
      digests: of each.
      counts: records read for it, and how many of them were duplicates.
      position: of the input after it.
    """

    texts: list[str]
    digests: list[bytes]
    counts: dict[str, int]
    position: Position


def main(flags: args.FlagValues) -> None:
    for name in ("train_data", "output_dir"):
        if not flags[name].value:
            raise args.UsageError(f"--{name} is missing")
    for pattern in flags.train_data:
        output_dir = os.path.abspath(flags.output_dir)
        if os.path.isdir(pattern) and output_dir.startswith(os.path.abspath(pattern) + os.sep):
            raise args.UsageError(
                f"--output_dir={flags.output_dir} lies in {pattern}, whose files are to be read; "
                "name another"
            )
    paths = find_files(flags.train_data)
    preparation = Preparation(flags.output_dir, settings(flags), [_describe(p) for p in paths])
    if preparation.finished:
        print(f"prepared already: {preparation.path}")
        return
    with preparation:
        prepare(preparation, paths, flags)
    print(report(shards.open_folder(preparation.path, verify=False)))


def prepare(preparation: Preparation, paths: Sequence[str], flags: args.FlagValues) -> None:
    """Reads, tokenizes and writes what is left to do."""
    directory = tokenizer_directory(preparation, paths, flags)
    tokenizer = tokenizers.load(directory)
    end_of_text(tokenizer)  # refuses one without
    if preparation.position != Position():
        print(f"going on after {preparation.counts['read']:,} documents", flush=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    chunks = read_chunks(paths, preparation.position, preparation.digests, flags)
    progress = _Progress(flags.log_seconds)
    processes = flags.num_processes or len(os.sched_getaffinity(0))
    for chunk, documents, num_empty in tokenize_chunks(
        chunks, directory, processes, flags.eval_fraction, dtype
    ):
        counts = {**chunk.counts, "empty": num_empty}
        preparation.add(documents, chunk.digests, counts, chunk.position)
        progress.add(counts, sum(len(part.tokens) for part in documents.values()))
        if preparation.num_pending >= flags.shard_tokens:
            preparation.commit(dtype)
    if preparation.num_pending:
        preparation.commit(dtype)
    if preparation.counts["read"] == preparation.counts["empty"]:
        raise ValueError(
            f"--train_data={','.join(flags.train_data)}: {len(paths)} files, and no text in any; "
            "give files with texts"
        )
    preparation.finish(
        {
            "sha256": shards.tokenizer_digest(directory),
            "vocab_size": tokenizer.vocab_size,
            "eos_token_id": tokenizer.eos_token_id,
        }
    )


def settings(flags: args.FlagValues) -> dict:
    """Of the flags that decide what is in the shards; of a tokenizer it is the content."""
    values = {name: flags[name].value for name in SETTINGS}
    if flags.tokenizer:
        return {**values, "tokenizer": shards.tokenizer_digest(flags.tokenizer)}
    trained = {name: flags[name].value for name in ("vocab_size", "tokenizer_megabytes")}
    return {**values, "tokenizer": "", **trained}


def tokenizer_directory(preparation: Preparation, paths: Sequence[str], flags) -> str:
    """Of the tokenizer: a copy of the one named, that of an earlier start, or a new one."""
    if preparation.tokenizer_dir:
        return preparation.tokenizer_dir
    if flags.tokenizer:
        return preparation.save_tokenizer(tokenizers.load(flags.tokenizer))
    print(f"training a tokenizer of {flags.vocab_size} tokens", flush=True)
    texts = _first_texts(paths, flags)
    return preparation.save_tokenizer(
        tokenizers.train_byte_level_bpe(texts, flags.vocab_size, [END_OF_TEXT])
    )


def _first_texts(paths: Sequence[str], flags) -> Iterator[str]:
    """What to train a tokenizer on: nothing that is held out."""
    size = 0
    for text in (text for path in paths for text in _texts(path, flags)):
        if size >= flags.tokenizer_megabytes * 1_000_000:
            return
        if not _is_held_out(text, flags.eval_fraction):
            size += len(text.encode())
            yield text


def _texts(path: str, flags) -> Iterator[str]:
    columns = {"text": flags.text_column}
    for record in stream_records(
        path, columns, text_unit=flags.text_unit, encoding=flags.data_encoding
    ):
        if not isinstance(record["text"], str):
            raise ValueError(f"{record['where']}: text must be a string, got {record['text']!r}")
        yield record["text"]


def _is_held_out(text: str, fraction: float) -> bool:
    """As `trainers.data.hold_out` has it."""
    return hash_fraction(normalize(text), "eval") < fraction


def read_chunks(paths: Sequence[str], start: Position, seen: set[bytes], flags) -> Iterator[Chunk]:
    """Reads documents that have not been seen, and remembers them in `seen`."""
    texts, digests, size = [], [], 0
    counts = {"read": 0, "duplicate": 0}
    for file in range(start.file, len(paths)):
        skipped = start.record if file == start.file else 0
        for number, text in enumerate(_texts(paths[file], flags), 1):
            if number <= skipped:
                continue
            content = text.encode()
            digest = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
            counts["read"] += 1
            if digest in seen:
                counts["duplicate"] += 1
                continue
            seen.add(digest)
            texts.append(text)
            digests.append(digest)
            size += len(content)
            if size >= CHUNK_BYTES:
                yield Chunk(texts, digests, counts, Position(file, number))
                texts, digests, size = [], [], 0
                counts = {"read": 0, "duplicate": 0}
    if counts["read"]:
        yield Chunk(texts, digests, counts, Position(len(paths), 0))


def tokenize_chunks(
    chunks: Iterable[Chunk], tokenizer: str, num_processes: int, fraction: float, dtype: np.dtype
) -> Iterator[tuple[Chunk, dict[str, Documents], int]]:
    """Each chunk, in its order, with its documents by split and how many were empty."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or each process says what CPU it has
    pool = ProcessPoolExecutor(
        num_processes,
        multiprocessing.get_context("spawn"),
        _start_worker,
        (tokenizer, fraction, dtype.name),
    )
    waiting: collections.deque = collections.deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_tokenize, chunk.texts)))
            if len(waiting) > 2 * num_processes:
                chunk, result = waiting.popleft()
                yield chunk, *result.result()
        while waiting:
            chunk, result = waiting.popleft()
            yield chunk, *result.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that tokenizes was killed, perhaps for lack of memory; lower "
            f"--num_processes={num_processes}, and run the same command to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process that tokenizes holds."""

    def __init__(self, directory: str, fraction: float, dtype: str):
        self.tokenizer = tokenizers.load(directory)
        self.end = end_of_text(self.tokenizer)
        self.token_bytes = token_bytes(self.tokenizer)
        self.fraction, self.dtype = fraction, np.dtype(dtype)

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Documents], int]:
        ids, splits = tokenize(texts, self.tokenizer)
        lengths = np.diff(splits)
        held_out = np.array([_is_held_out(text, self.fraction) for text in texts], bool)
        sides = {"train": ~held_out & (lengths > 0), "eval": held_out & (lengths > 0)}
        documents = {
            split: self._documents(ids, splits, np.flatnonzero(rows))
            for split, rows in sides.items()
        }
        return documents, int((lengths == 0).sum())

    def _documents(self, ids, splits, rows) -> Documents:
        """Of these rows, each with its end."""
        lengths = splits[rows + 1] - splits[rows]
        taken = np.repeat(np.arange(len(rows)), lengths)  # the row of each token
        begins = np.cumsum(lengths) - lengths
        tokens = ids[splits[rows][taken] + np.arange(len(taken)) - begins[taken]]
        target_bytes = self.token_bytes[tokens].sum() - self.token_bytes[tokens[begins]].sum()
        tokens = np.insert(tokens, begins + lengths, self.end)
        return Documents(tokens.astype(self.dtype), lengths + 1, int(target_bytes))


_WORKER: list[_Worker] = []  # of this process


def _start_worker(directory: str, fraction: float, dtype: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import tensorflow as tf

    # Each process is for one core.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _WORKER.append(_Worker(directory, fraction, dtype))


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children, who would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _tokenize(texts: Sequence[str]) -> tuple[dict[str, Documents], int]:
    return _WORKER[0].tokenize(texts)


def _describe(path: str) -> dict:
    status = os.stat(path)
    return {"path": path, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


class _Progress:
    """Prints how far it is, now and then."""

    def __init__(self, log_seconds: float):
        self.log_seconds, self.begin = log_seconds, None  # with the first tokens
        self.documents = self.tokens = self.first = 0

    def add(self, counts: dict[str, int], num_tokens: int) -> None:
        self.documents += counts["read"]
        self.tokens += num_tokens
        now = time.monotonic()
        if self.begin is None:
            self.begin, self.first, self.next = now, self.tokens, now + self.log_seconds
        elif now >= self.next:
            self.next = now + self.log_seconds
            speed = (self.tokens - self.first) / (now - self.begin)
            print(
                f"{self.documents:,} documents, {self.tokens:,} tokens, {speed:,.0f} tokens/s",
                flush=True,
            )


def report(folder: shards.ShardFolder) -> str:
    """What a prepared folder holds."""
    documents = folder.manifest["documents"]
    lines = [
        f"documents: {documents['read']:,} read, {documents['duplicate']:,} of them duplicates, "
        f"{documents['empty']:,} empty"
    ]
    for name, split in folder.manifest["splits"].items():
        lines.append(
            f"{name + ':':10} {split['documents']:,} documents, {split['tokens']:,} tokens in "
            f"{len(split['shards'])} shards"
        )
        if split["documents"]:
            sizes = ", ".join(f"{key} {value:,.0f}" for key, value in split["lengths"].items())
            lines.append(f"{'':10} tokens a document: {sizes}")
    return "\n".join([*lines, f"shards:    {folder.path}"])


if __name__ == "__main__":
    args.run(main, FLAGS)
