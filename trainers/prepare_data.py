"""Turns texts into tokenized shards that `trainers.pretrain` reads at random.

    python -m trainers.prepare_data --train_data='wiki/*.jsonl.gz' --tokenizer=DIR --output_dir=wiki

One process reads, drops documents that came before letter for letter, and writes; the others
tokenize. The output appears under its name when it is whole. Kill it when you like: the same
command goes on where it was. The number of processes changes nothing in the output.
"""

import functools
import itertools
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags as absl_flags

from gpt_keras import tokenizers
from trainers import args, data, shards
from trainers.chunks import read_chunks, read_texts, tokenize_chunks
from trainers.data_flags import text_flags, train_data_flags
from trainers.features import END_OF_TEXT, end_of_text
from trainers.preparation import Position, Preparation
from trainers.records import find_files
from trainers.splits import is_held_out

# Flags that decide what is in the shards.
SETTINGS = (
    "train_data", "text_column", "text_unit", "data_encoding", "eval_fraction", "shard_tokens",
)  # fmt: skip


def prepare_flags(flags: args.FlagValues) -> None:
    """Shards."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags)
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
    absl_flags.DEFINE_boolean(
        "dry_run", False, "say what would be read, try the first document, and end",
        flag_values=flags,
    )  # fmt: skip


FLAGS = (prepare_flags, train_data_flags, text_flags)


def main(flags: args.FlagValues) -> None:
    args.require(flags, "train_data", "output_dir")
    for pattern in flags.train_data:
        output_dir = os.path.abspath(flags.output_dir)
        if os.path.isdir(pattern) and output_dir.startswith(os.path.abspath(pattern) + os.sep):
            raise args.UsageError(
                f"--output_dir={flags.output_dir} lies in {pattern}, whose files are to be read; "
                "name another"
            )
    data.check_texts(flags.train_data)
    paths = find_files(flags.train_data)
    preparation = Preparation(flags.output_dir, settings(flags), [_input_entry(p) for p in paths])
    if preparation.finished:
        print(f"prepared already: {preparation.path}")
        return
    if flags.dry_run:
        print(describe(preparation, flags))
        return
    with preparation:
        prepare(preparation, paths, flags)
    print(report(shards.open_folder(preparation.path, verify=False)))


def describe(preparation: Preparation, flags: args.FlagValues) -> str:
    """What would be read, and how its first document begins.

    Raises:
      ValueError: that document or the tokenizer is bad.
    """
    paths = [entry["path"] for entry in preparation.inputs]
    size = sum(entry["bytes"] for entry in preparation.inputs)
    first = next((text for path in paths for text in read_texts(path, flags)), "")
    made_by = f"a new one of {flags.vocab_size:,} tokens"
    if flags.tokenizer:
        tokenizer = tokenizers.load(flags.tokenizer)
        end_of_text(tokenizer)
        made_by = f"{flags.tokenizer}, {tokenizer.vocab_size:,} tokens"
    return (
        f"files:     {len(paths):,}, {size / 1e6:,.1f} MB as they lie, from {paths[0]} to "
        f"{paths[-1]}\nfirst:     {first[:60]!r}\ntokenizer: {made_by}\n"
        f"shards:    {preparation.path}"
    )


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
        if preparation.pending_tokens >= flags.shard_tokens:
            preparation.commit(dtype)
    if preparation.pending_tokens:
        preparation.commit(dtype)
    if preparation.counts["read"] == preparation.counts["empty"]:
        raise ValueError(
            f"--train_data={','.join(flags.train_data)}: {len(paths)} files, and no text in any; "
            "give files with texts"
        )
    preparation.finish(tokenizer)


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
    first = next(texts, None)
    if first is None:
        raise ValueError(
            f"--train_data={','.join(flags.train_data)}: no text to train a tokenizer on, with "
            f"--eval_fraction={flags.eval_fraction}; give more texts, or a --tokenizer"
        )
    texts = itertools.chain([first], texts)
    return preparation.save_tokenizer(
        tokenizers.train_byte_level_bpe(texts, flags.vocab_size, [END_OF_TEXT])
    )


def _first_texts(paths: Sequence[str], flags) -> Iterator[str]:
    """What to train a tokenizer on: nothing that is held out."""
    size = 0
    for text in (text for path in paths for text in read_texts(path, flags)):
        if size >= flags.tokenizer_megabytes * 1_000_000:
            return
        if not is_held_out(text, flags.eval_fraction):
            size += len(text.encode())
            yield text


def _input_entry(path: str) -> dict:
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
