"""Entries of a JSON file, taken with errors that name the file, the key and the value."""

import json
import os
from collections.abc import Mapping
from typing import Any

REQUIRED = object()
MOST = 300  # letters of a value in an error
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string",
          dict: "an object", list: "a list"}  # fmt: skip


class Fields:
    """A read-only view of a file's entries.

    Args:
      values: the entries.
      where: the file, as errors are to name it.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Fields":
        """Entries of the JSON object in a file.

        Raises:
          ValueError: no such file, or not one JSON object in UTF-8; names file and line.
        """
        path = os.fspath(path)
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{error.lineno}: malformed JSON at column {error.colno}: {error.msg}"
            ) from None
        except (ValueError, RecursionError) as error:  # thousands of digits or brackets
            raise ValueError(f"{path}: malformed JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
        return cls(values, path)

    def error(self, key: str, remedy: str) -> ValueError:
        value = repr(self.values.get(key))
        value = value if len(value) < MOST else f"{value[:MOST]}..."
        return ValueError(f"{self.where}: {key}={value}: {remedy}")

    def get(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """The value of `key`, checked to be of `kind`; null counts as absent."""
        value = self.values.get(key)
        if value is None:
            if default is REQUIRED:
                raise ValueError(f"{self.where}: {key} is missing: expected {_NAMES[kind]}")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                raise self.error(key, "expected a number that a float can hold") from None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"expected {_NAMES[kind]}")
        return value

    def of_layer(self, key: str, layer: int, kind: type) -> Any:
        """A layer's entry of the list `key`, which has one of `kind` for each layer at least."""
        values = self.get(key, list)
        if layer >= len(values) or not isinstance(values[layer], kind):
            raise self.error(key, f"expected {_NAMES[kind]} for each layer")
        return values[layer]

    def token_ids(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """One token id, a list of them, or null: as a tuple. `default` if the key is absent."""
        value = self.values.get(key, list(default))
        values = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in values:
            if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
                raise self.error(key, "expected token ids, 0 or more")
        return tuple(values)

    def token_id(self, key: str, default: int | None = None) -> int | None:
        """One token id or None; -1, an old way of saying none, is None."""
        if self.values.get(key) == -1:
            return None
        ids = self.token_ids(key, () if default is None else (default,))
        if len(ids) > 1:
            raise self.error(key, "expected one token id")
        return ids[0] if ids else None
