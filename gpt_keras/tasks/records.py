"""Values of records: checked, with the file and line in what is said of a bad one."""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def text_of(record: Mapping[str, Any], name: str = "text") -> str:
    """A value of a record that has to be text. Raises ValueError where it is another thing."""
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{record['where']}: {name} must be a string, got {value!r}")
    return value


def texts_of(record: Mapping[str, Any], name: str) -> list[str]:
    """A value that is a text or a list of texts; none where the record has none of that name.

    Raises:
      ValueError: it is another thing, or one of the list is.
    """
    value = record.get(name)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text_of({**record, name: one}, name) for one in values]


def label_of(record: Mapping[str, Any], name: str = "label") -> str:
    """A label: a name, or an integer. Raises ValueError where it is another thing."""
    value = record[name]
    label = str(value).strip()
    if not isinstance(value, str | int) or not label:
        raise ValueError(
            f"{record['where']}: {name} must be a name or an integer, got {value!r}"
            + "; for several labels a text: --problem_type=multi_label_classification"
            * isinstance(value, list)
        )
    return label


def labels_of(record: Mapping[str, Any], separator: str, name: str = "label") -> list[str]:
    """The labels of a text that may have any number: a list, or names joined by `separator`.

    Raises:
      ValueError: it is another thing, or one of them is.
    """
    value = record[name]
    if isinstance(value, str) and separator:
        value = [part for part in value.split(separator) if part.strip()]
    elif not isinstance(value, list):
        value = [value]
    return list(dict.fromkeys(label_of({**record, name: label}, name) for label in value))


def number_of(record: Mapping[str, Any], name: str = "score") -> float:
    """A number, or text that is one. Raises ValueError where it is another thing."""
    value = record[name]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{record['where']}: {name} must be a number, got {reprlib.repr(value)}")
    return number


def label_names(labels: Iterable[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of labels in index order: those given, or else those in the data, sorted.

    By number where all are integers, else by name.

    Raises:
      ValueError: fewer than two, or one twice.
    """
    names = tuple(given) or _sorted(set(labels))
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"labels {', '.join(names)}: two or more are needed, each once; give data with more of "
            "them, or --labels"
        )
    return names


def index_of(record: Mapping[str, Any], label: str, index: Mapping[str, int]) -> int:
    """Index of a record's label. Raises ValueError for one that is not known."""
    if label not in index:
        raise ValueError(
            f"{record['where']}: unknown label {label!r}; known are {', '.join(index)} "
            "(--labels of trainers.finetune names others)"
        )
    return index[label]


def _sorted(labels: set[str]) -> tuple[str, ...]:
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
