"""Tensors of a checkpoint to a model's variables and back, by the tables of `families`."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from gpt_keras.checkpoint import memory, own_tasks
from gpt_keras.checkpoint.families import FAMILIES, Family, Weight
from gpt_keras.checkpoint.families.family import (
    SAME_CLASS,
    heads_apart,
    heads_together,
)
from gpt_keras.config import GPTConfig

PIECE = 2**16  # numbers that are read at once, which the processor's cache holds


class TensorSource(Protocol):
    """A checkpoint's tensors, read one at a time."""

    where: str  # the file or directory, as errors are to name it

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape without reading it; None if there is no such tensor."""

    def dtype(self, name: str) -> str:
        """What the tensor is stored in, as the format calls it."""

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The tensor's rows, in a floating-point dtype: arrays to be stacked, or the whole one."""

    def names(self) -> set[str]:
        """All tensors that the checkpoint holds."""


class _Renamed:
    """A source whose tensors are named as today.

    Args:
      ends: see `Family.former`.
    """

    def __init__(self, source: TensorSource, ends: Mapping[str, str]):
        self._source, self.where = source, source.where
        self._names = {name: name for name in source.names()}
        for old, new in ends.items():
            for name in [n for n in self._names if n.endswith(old)]:
                self._names[name.removesuffix(old) + new] = self._names.pop(name)

    def names(self):
        return set(self._names)

    def shape(self, name):
        return self._source.shape(self._names.get(name, name))

    def dtype(self, name):
        return self._source.dtype(self._names[name])

    def pieces(self, name):
        return self._source.pieces(self._names[name])


def read_into(model, source: TensorSource, with_head: bool, family: Family | None = None) -> None:
    """Fills every variable of a task's model.

    Args:
      model: a `tasks.Task`.
      source: the checkpoint.
      family: how the checkpoint names its tensors; None for as Hugging Face does.
      with_head: the checkpoint must have the task's own head; a fresh one is kept otherwise.

    Raises:
      ValueError: a tensor is missing, has another shape than the configuration says, or is not
        one that the configuration has a place for.
    """
    family = family or FAMILIES[model.config.model_type]
    source = _Renamed(source, family.former) if family.former else source
    prefix = _prefix(family, source)
    heads = {weight.variable for weight in _head(model, family)}
    expected, wanted = set(), []
    for variable, weight, names in _assignments(model, family, prefix):
        shapes = _stored_shapes(weight, model.config, tuple(variable.shape))
        if variable.path in heads and not with_head:
            # Each of several tasks begins with the head that a checkpoint of it alone has.
            alone = _names_alone(names, family, prefix) if hasattr(model, "tasks") else names
            names = names if source.shape(names[0]) in shapes else alone
            if source.shape(names[0]) not in shapes:  # or that of another task
                continue
        _check_shapes(source, names, shapes)
        wanted.append((variable, weight, names))
        expected.update(names)
    _check_surplus(source, expected, family, prefix)

    def value(item):
        variable, weight, names = item
        return _value(weight, model.config, source, names, variable)

    # NumPy lets go of Python's lock while it reads and copies.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (variable, *_), values in zip(wanted, pool.map(value, wanted), strict=True):
            variable.assign(memory.tensor(values))


def check_sizes(config: GPTConfig, source: TensorSource, family: Family | None = None) -> None:
    """Compares the large tensors with the configuration, before memory is taken for a model.

    Args: see `read_into`.

    Raises:
      ValueError: as `read_into`.
    """
    family = family or FAMILIES[config.model_type]
    D, last = config.hidden_size, config.num_layers - 1
    large = {
        "embedding/table": (D, config.vocab_size),
        "embedding/positions": (config.position_offset + config.max_position_embeddings, D),
        "embedding/types": (config.token_types, D),
        "block_{i}/attention/out/kernel": (config.num_heads * config.head_dim, D),
        "block_{i}/feed_forward/down/kernel": (config.intermediate_size, D),
        "block_{i}/feed_forward/down": (1, config.intermediate_size, D),  # the first expert's
        "block_{i}/feed_forward/router/kernel": (D, config.num_experts),
    }
    for weight in family.weights:
        if weight.variable in large:
            shapes = _stored_shapes(weight, config, large[weight.variable])
            prefix = _prefix(family, source)
            _check_shapes(source, _tensor_names(weight, last, prefix, 1), shapes)


def names(model) -> list[str]:
    """What `tensors` names, without making them."""
    family = FAMILIES[model.config.model_type]
    own = _own_prefix(model, family)
    return [name for _, _, names in _assignments(model, family, own) for name in names]


def tensors(model, family: Family | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the model's checkpoint, made one at a time; `family` is as of `read_into`."""
    family = family or FAMILIES[model.config.model_type]
    for variable, weight, names in _assignments(model, family, _own_prefix(model, family)):
        values = np.asarray(variable)
        widths = weight.widths(model.config) if weight.widths else (values.shape[-1],)
        parts = [
            part
            for matrix in (values if values.ndim == 3 else [values])
            for part in np.split(matrix, np.cumsum(widths)[:-1], axis=-1)
        ]
        for name, part in zip(names, parts, strict=True):
            turned = part.T if part.ndim == 2 and weight.transposed else part
            if weight.by_head:
                turned = heads_together(turned, model.config.num_heads)
            yield name, np.ascontiguousarray(turned)


def _value(weight: Weight, config: GPTConfig, source: TensorSource, names, variable) -> np.ndarray:
    """What a variable is to hold, in its dtype: the tensors of these names joined."""
    count = len(weight.names)  # of one expert, or of all there are
    groups = [names[i : i + count] for i in range(0, len(names), count)]
    values = memory.empty(tuple(variable.shape), variable.dtype)
    for matrix, group in zip(values if values.ndim == 3 else [values], groups, strict=True):
        column = 0
        for name in group:
            shape = source.shape(name)
            turned = len(shape) == 2 and weight.transposed
            width = shape[0] if turned else shape[-1]
            part = matrix[..., column : column + width]
            _read(weight, config, source, name, part.T if turned else part)
            column += width
    return values


def _read(weight: Weight, config: GPTConfig, source: TensorSource, name: str, into) -> None:
    """Reads a tensor into an array of its shape."""
    pieces, row = source.pieces(name), 0
    if weight.by_head:  # rows change places
        pieces = [heads_apart(np.concatenate(list(pieces)), config.num_heads)]
    for piece in pieces:
        memory.copy(piece, into[row : row + len(piece)])
        row += len(piece)


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows of a tensor make a piece of it."""
    return max(1, PIECE // max(1, math.prod(shape[1:])))


def _assignments(model, family: Family, prefix: str):
    """(variable, weight, names of its tensors) of every variable of the model."""
    table = {}
    for weight in family.weights:
        for i in range(model.config.num_layers if "{i}" in weight.variable else 1):
            table[weight.variable.format(i=i)] = weight, i
    for variable in model.backbone.weights:
        weight, i = table[variable.path]
        yield variable, weight, _tensor_names(weight, i, prefix, model.config.num_experts)
    heads = {variable.path: variable for variable in model.weights}
    for weight in _head(model, family):
        if weight.variable in heads:  # some have options
            yield heads[weight.variable], weight, _head_names(weight.names, family, prefix)


def _head(model, family: Family) -> tuple[Weight, ...]:
    """The weights beyond the backbone; those of each of several tasks behind its name."""
    parts = getattr(model, "tasks", {})
    if not parts:
        task = type(model).__name__
        return {**own_tasks.heads(), **family.heads}.get(SAME_CLASS.get(task, task), ())
    return tuple(
        dataclasses.replace(
            weight,
            variable=f"{name}/{weight.variable}",
            names=tuple(f"{name}.{tensor}" for tensor in weight.names),
        )
        for name, task in parts.items()
        for weight in _head(task, family)
    )


def _head_names(names: tuple[str, ...], family: Family, prefix: str) -> tuple[str, ...]:
    """Names of a head's tensors; some stand beside those of the backbone."""
    return tuple(
        prefix + name.removeprefix(family.prefix) if name.startswith(family.prefix) else name
        for name in names
    )


def _names_alone(names: tuple[str, ...], family: Family, prefix: str) -> tuple[str, ...]:
    """What tensors of one of several tasks are called in a checkpoint of that task alone."""
    return _head_names(tuple(name.partition(".")[2] for name in names), family, prefix)


def _tensor_names(weight: Weight, i: int, prefix: str, experts: int = 0) -> tuple[str, ...]:
    """Names of a weight's tensors in block `i`; the head alone is outside of the backbone."""
    if "{e}" in weight.names[0]:
        return tuple(
            prefix + name.format(i=i, e=e) for e in range(experts) for name in weight.names
        )
    prefix = "" if weight.variable == "embedding/head" else prefix
    return tuple(prefix + name.format(i=i) for name in weight.names)


def _own_prefix(model, family: Family) -> str:
    """Of the backbone's tensors in a checkpoint of the model's task."""
    task = type(model).__name__
    if model.is_bare:
        return ""
    return (
        family.prefixes.get(task, family.prefix) if task in family.architectures else family.prefix
    )


def _prefix(family: Family, source: TensorSource) -> str:
    """A checkpoint of the backbone alone, such as the first GPT-2, has no prefix."""
    prefixes = (family.prefix, *family.prefixes.values())
    return next((p for p in prefixes if any(n.startswith(p) for n in source.names())), "")


def _stored_shapes(weight: Weight, config: GPTConfig, shape) -> list[tuple[int, ...]]:
    if len(shape) == 3:
        return _stored_shapes(weight, config, shape[1:]) * shape[0]
    widths = weight.widths(config) if weight.widths else shape[-1:]
    if len(shape) == 1:
        return [(width,) for width in widths]
    return [(width, shape[0]) if weight.transposed else (shape[0], width) for width in widths]


def _check_shapes(source: TensorSource, names, shapes) -> None:
    for name, shape in zip(names, shapes, strict=True):
        found = source.shape(name)
        if found is None:
            raise ValueError(
                f"{source.where}: tensor {name} is missing; the configuration asks for it with "
                f"shape {shape}"
            )
        if tuple(found) != shape:
            raise ValueError(
                f"{source.where}: tensor {name} has shape {tuple(found)}, but the configuration "
                f"asks for {shape}"
            )


def _check_surplus(source: TensorSource, expected: set[str], family: Family, prefix: str) -> None:
    """Refuses tensors that would be dropped: the model would compute something else.

    Heads of other tasks, the copy of a tied head and buffers without anything learned are no loss.
    """
    heads = {n for head in {**own_tasks.heads(), **family.heads}.values() for w in head
             for n in _head_names(w.names, family, prefix)}  # fmt: skip
    heads.update(*(w.names for w in family.weights if w.variable == "embedding/head"))
    of_several = tuple(f".{head}" for head in heads)  # behind the task's name
    surplus = sorted(
        name
        for name in source.names() - expected
        if name not in heads and not name.endswith((*family.ignored, *of_several))
    )
    if surplus:
        more = f" and {len(surplus) - 3} more" if len(surplus) > 3 else ""
        raise ValueError(
            f"{source.where}: tensors {', '.join(surplus[:3])}{more} have no place in the model "
            "that the configuration describes; is the configuration that of this checkpoint?"
        )
