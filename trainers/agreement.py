"""Agreement: workers that would not do the same refuse to start, and say what differs."""

import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import gpt_keras
from trainers import args
from trainers.strategy import exchange_text, make_strategy, num_workers

WIDTH = 60  # of a value in a message


def start(flags: args.FlagValues) -> tf.distribute.Strategy:
    """The strategy of the flags, once all workers are there, with the same flags and code.

    Of several workers the chief alone prints from here on, but for errors and warnings.

    Raises:
      UsageError, ValueError: see `make_strategy` and `agree`; the batch does not divide.
    """
    strategy = make_strategy(flags.strategy, flags.num_replicas, flags.join_seconds)
    agree(strategy, lambda: program_facts(flags))
    parts = strategy.num_replicas_in_sync * flags.gradient_accumulation_steps
    if flags.global_batch_size % parts:
        raise args.UsageError(
            f"--global_batch_size={flags.global_batch_size}: is not a multiple of "
            f"{strategy.num_replicas_in_sync} replicas x --gradient_accumulation_steps="
            f"{flags.gradient_accumulation_steps}; change one of them"
        )
    if not strategy.extended.should_checkpoint:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, until the end
    return strategy


def agree(strategy: tf.distribute.Strategy, facts: Callable[[], Mapping[str, str]]) -> None:
    """Returns if the facts are the same on all workers; a call of all of them.

    Args:
      facts: gives name -> value; called where there are several workers.

    Raises:
      UsageError: they are not, on all workers.
    """
    if num_workers(strategy) == 1:
        return
    everyones = [json.loads(text) for text in exchange_text(strategy, json.dumps(facts()))]
    differences = []
    for name in sorted(set().union(*everyones)):
        workers: dict[str, list[int]] = {}  # by value
        for worker, theirs in enumerate(everyones):
            workers.setdefault(theirs.get(name, "unknown"), []).append(worker)
        if len(workers) > 1:
            values = (f"{_short(value)} on {_list(of)}" for value, of in workers.items())
            differences.append(f"{name} is {', '.join(values)}")
    if differences:
        raise args.UsageError(
            f"the workers differ: {'; '.join(differences)}; start all with the same"
        )


def program_facts(flags: args.FlagValues) -> dict[str, str]:
    """What of flags, code and libraries has to be the same."""
    sources = (
        path
        for package in (gpt_keras.__file__, args.__file__)
        for path in sorted(Path(package).parent.rglob("*.py"))
    )
    return {
        **{f"--{name}": str(value) for name, value in args.flag_values(flags).items()},
        "the code of gpt_keras and trainers": digest(*(path.read_bytes() for path in sources)),
        "the version of Python": platform.python_version(),
        "the version of TensorFlow": tf.__version__,
        "the version of Keras": keras.__version__,
    }


def digest(*values) -> str:
    """SHA-256 of arrays, bytes, plain values, and mappings and data classes of them."""
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Mapping):
            value = digest(*(part for item in value.items() for part in item))
        if dataclasses.is_dataclass(value):
            value = digest(*(getattr(value, field.name) for field in dataclasses.fields(value)))
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode())
            value = np.ascontiguousarray(value).view(np.uint8)
        total.update(value if isinstance(value, np.ndarray | bytes) else str(value).encode())
        total.update(b"\0")
    return total.hexdigest()


def _short(value: str) -> str:
    return value if len(value) <= WIDTH else f"{value[:12]}…"


def _list(workers: list[int]) -> str:
    return f"worker{'s' * (len(workers) > 1)} {', '.join(map(str, workers))}"
