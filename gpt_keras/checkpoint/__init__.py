"""Model directories in Hugging Face layout, GGUF files and KerasHub's presets, in and out."""

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
    keras_hub,
    keras_hub_writer,
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
    foreign = _foreign(path)
    config = hf_config.from_fields(foreign.fields() if foreign else directory.read_fields(path))
    if _has_weights(path, foreign):
        weights.check_sizes(config, _source(path, foreign), _naming(foreign))
    return config


def read_task(path) -> str:
    """Name of the task of `gpt_keras` that a directory or `.gguf` file is of."""
    path = _existing(path)
    if foreign := _foreign(path):
        return hf_config.task_of(foreign.fields())
    task = hf_config.task_of(directory.read_fields(path))
    # Of several tasks one may make embeddings.
    return "TextEmbedder" if sentence_modules.has(path) and task != "MultiTask" else task


def read_tokenizer(path):
    """Its `tokenizers.Tokenizer`, or None if it has none."""
    path = _existing(path)
    try:
        foreign = _foreign(path)
        if foreign:
            return foreign.tokenizer()
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
    foreign = _foreign(path)
    if not _has_weights(path, foreign):
        return Counter()
    source, sizes = _source(path, foreign), Counter()
    for name in source.names():
        sizes[source.dtype(name)] += math.prod(source.shape(name))
    return sizes


def stored_dtype(path) -> str:
    """The dtype that the weights of a directory were written in; float32 for a `.gguf` file."""
    path = _existing(path)
    foreign = _foreign(path)
    return foreign.stored_dtype() if foreign else directory.stored_dtype(path)


def read_sentence_embedding(path) -> SentenceEmbedding:
    """How a directory makes one vector of a text; the mean of its tokens' if it does not say."""
    path = _existing(path)
    is_said = sentence_modules.has(path)
    return sentence_modules.read(path) if is_said else SentenceEmbedding()


def read_weights(path, model) -> None:
    """Fills the variables of a `tasks.Task`; a head that the checkpoint lacks stays as it is."""
    path = _existing(path)
    foreign = _foreign(path)
    task = None if foreign else hf_config.task_of(directory.read_fields(path))
    with_head = task == type(model).__name__ and not model.is_bare
    weights.read_into(model, _source(path, foreign), with_head, _naming(foreign))
    if not foreign:
        model.generation_config = directory.read_generation_config(path)


def format_of(path) -> str:
    """What the checkpoint is, for people."""
    path = _existing(path)
    if os.path.isfile(path):
        return "GGUF file"
    return "KerasHub preset" if keras_hub.is_preset(path) else "Hugging Face model directory"


def save(
    model, path, dtype=None, max_shard_size=directory.MAX_SHARD_SIZE, card: str | None = None
) -> None:
    """Writes a model directory; it appears whole or not at all. See `Task.save_pretrained`."""
    directory.save(model, os.fspath(path), dtype, max_shard_size, card)


def _foreign(path: str) -> gguf_file.GGUFFile | keras_hub.Preset | None:
    """What is no directory in Hugging Face layout; None for what is."""
    if os.path.isfile(path):
        return gguf_file.open_file(path)
    return keras_hub.Preset(path) if keras_hub.is_preset(path) else None


def _source(path: str, foreign) -> weights.TensorSource:
    return foreign or directory.SafetensorsSource(path)


def _naming(foreign):
    """The family with the names that the tensors have; None if they are Hugging Face's."""
    return foreign.family if isinstance(foreign, keras_hub.Preset) else None


def _has_weights(path: str, foreign) -> bool:
    return foreign.has_weights() if foreign else directory.has_weights(path)


def save_gguf(model, path, file_type: str) -> None:
    """Writes a GGUF file; it appears whole or not at all. See `CausalLM.save_gguf`."""
    gguf_writer.save(model, os.fspath(path), file_type)


def save_keras_hub(model, path, dtype=None) -> None:
    """Writes a KerasHub preset; it appears whole or not at all. See `CausalLM.save_keras_hub`."""
    keras_hub_writer.save(model, os.fspath(path), dtype)


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
    raise ValueError(
        f"{path}: no such model directory or .gguf file; give one that is here, or ORG/NAME of the "
        "Hub"
    )


def _existing(path) -> str:
    path = locate(path)
    if os.path.isfile(path) and not path.lower().endswith(".gguf"):
        raise ValueError(f"{path}: expected a model directory or a .gguf file")
    return path
