"""Model directories in Hugging Face layout in and out, and GGUF files in."""

import math
import os
from collections import Counter

from gpt_keras import tokenizers
from gpt_keras.checkpoint import (
    directory,
    gguf_file,
    gguf_writer,
    hf_config,
    hub,
    sentence_modules,
    weights,
)
from gpt_keras.config import GPTConfig
from gpt_keras.pooling import SentenceEmbedding


def read_config(path) -> GPTConfig:
    """Architecture of the model in a directory or `.gguf` file.

    A directory may hold its config.json alone: something to train from zero.
    """
    path = _existing(path)
    config = hf_config.from_fields(_fields(path))
    if _is_gguf(path) or directory.has_weights(path):
        weights.check_sizes(config, _source(path))
    return config


def read_task(path) -> str:
    """Name of the task of `gpt_keras` that a directory or `.gguf` file is of."""
    path = _existing(path)
    if _is_gguf(path):
        return "CausalLM"
    if sentence_modules.has(path):
        return "TextEmbedder"
    return hf_config.task_of(directory.read_fields(path))


def read_tokenizer(path):
    """Its `tokenizers.Tokenizer`, or None if it has none."""
    path = _existing(path)
    try:
        if _is_gguf(path):
            return gguf_file.open_file(path).tokenizer()
        return tokenizers.load(path) if directory.has_tokenizer(path) else None
    except ValueError as error:
        raise ValueError(
            f"{error} (from_pretrained(..., with_tokenizer=False) reads the weights alone)"
        ) from error


def read_sizes(path) -> Counter[str]:
    """How many numbers a directory or `.gguf` file holds, by the dtype they are stored in.

    Empty for a directory without weights.
    """
    path = _existing(path)
    if not _is_gguf(path) and not directory.has_weights(path):
        return Counter()
    source, sizes = _source(path), Counter()
    for name in source.names():
        sizes[source.dtype(name)] += math.prod(source.shape(name))
    return sizes


def stored_dtype(path) -> str:
    """The dtype that the weights of a directory were written in; float32 for a `.gguf` file."""
    path = _existing(path)
    return "float32" if _is_gguf(path) else directory.stored_dtype(path)


def read_sentence_embedding(path) -> SentenceEmbedding:
    """How a directory makes one vector of a text; the mean of its tokens' if it does not say."""
    path = _existing(path)
    is_said = not _is_gguf(path) and sentence_modules.has(path)
    return sentence_modules.read(path) if is_said else SentenceEmbedding()


def read_weights(path, model) -> None:
    """Fills the variables of a `tasks.Task`; a head that the checkpoint lacks stays as it is."""
    path = _existing(path)
    task = None if _is_gguf(path) else hf_config.task_of(directory.read_fields(path))
    with_head = task == type(model).__name__ and not model.is_bare
    weights.read_into(model, _source(path), with_head)
    if not _is_gguf(path):
        model.generation_config = directory.read_generation_config(path)


def save(
    model, path, dtype=None, max_shard_size=directory.MAX_SHARD_SIZE, card: str | None = None
) -> None:
    """Writes a model directory; it appears whole or not at all. See `Task.save_pretrained`."""
    directory.save(model, os.fspath(path), dtype, max_shard_size, card)


def _fields(path: str):
    return gguf_file.open_file(path).fields() if _is_gguf(path) else directory.read_fields(path)


def _source(path: str) -> weights.TensorSource:
    return gguf_file.open_file(path) if _is_gguf(path) else directory.SafetensorsSource(path)


def _is_gguf(path: str) -> bool:
    return os.path.isfile(path)


def save_gguf(model, path, file_type: str) -> None:
    """Writes a GGUF file; it appears whole or not at all. See `CausalLM.save_gguf`."""
    gguf_writer.save(model, os.fspath(path), file_type)


def locate(path, revision: str | None = None, local_files_only: bool = False) -> str:
    """The path itself if it exists; the directory in the cache for a model of the Hub.

    Args: see `hub.fetch`.
    """
    path = os.fspath(path)
    if os.path.exists(path):
        if revision:
            raise ValueError(f"{path}: is here: no revision={revision!r} of it can be asked for")
        return path
    if hub.is_name(path):
        return hub.fetch(path, revision, local_files_only)
    raise ValueError(f"{path}: no such model directory or .gguf file")


def _existing(path) -> str:
    path = locate(path)
    if os.path.isfile(path) and not path.lower().endswith(".gguf"):
        raise ValueError(f"{path}: expected a model directory or a .gguf file")
    return path
