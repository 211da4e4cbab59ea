"""Chunks: about a megabyte of new documents each, read by this process and tokenized by others."""

import collections
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from gpt_keras import tokenizers
from gpt_keras.preprocessing import CHUNK_BYTES
from gpt_keras.tasks.records import text_of
from trainers.args import FlagValues
from trainers.features import frame_of_document, framed, token_bytes, tokenize
from trainers.preparation import DIGEST_BYTES, Documents, Position
from trainers.records import stream_records
from trainers.splits import is_held_out


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


def read_texts(path: str, flags: FlagValues) -> Iterator[str]:
    """The texts of a file, as the flags of `trainers.data_flags.text_flags` have it."""
    columns = {"text": flags.text_column}
    for record in stream_records(
        path, columns, text_unit=flags.text_unit, encoding=flags.data_encoding
    ):
        yield text_of(record)


def read_chunks(paths: Sequence[str], start: Position, seen: set[bytes], flags) -> Iterator[Chunk]:
    """Reads documents that have not been seen, and remembers them in `seen`."""
    texts, digests, size = [], [], 0
    counts = {"read": 0, "duplicate": 0}
    for file in range(start.file, len(paths)):
        skipped = start.record if file == start.file else 0
        for number, text in enumerate(read_texts(paths[file], flags), 1):
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
        self.frame = frame_of_document(self.tokenizer)
        self.token_bytes = token_bytes(self.tokenizer)
        self.fraction, self.dtype = fraction, np.dtype(dtype)

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Documents], int]:
        ids, splits = tokenize(texts, self.tokenizer)
        lengths = np.diff(splits)
        held_out = np.array([is_held_out(text, self.fraction) for text in texts], bool)
        sides = {"train": ~held_out & (lengths > 0), "eval": held_out & (lengths > 0)}
        documents = {
            split: self._documents(ids, splits, np.flatnonzero(rows))
            for split, rows in sides.items()
        }
        return documents, int((lengths == 0).sum())

    def _documents(self, ids, splits, rows) -> Documents:
        """Of these rows, each with the tokens around it."""
        lengths = splits[rows + 1] - splits[rows]
        taken = np.repeat(np.arange(len(rows)), lengths)  # the row of each token
        begins = np.cumsum(lengths) - lengths
        tokens = ids[splits[rows][taken] + np.arange(len(taken)) - begins[taken]]
        tokens, row_splits = framed(tokens, np.append(begins, len(taken)), *self.frame)
        firsts = tokens[row_splits[:-1]]
        target_bytes = self.token_bytes[tokens].sum() - self.token_bytes[firsts].sum()
        return Documents(tokens.astype(self.dtype), np.diff(row_splits), int(target_bytes))


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
