"""Records: data files in, one dict of named fields per sample out.

JSONL (`.jsonl`, `.ndjson`), JSON (`.json`: an array of objects, or JSONL under that name), CSV and
TSV with a header line, plain text (`.txt`, `.text`, `.md`) and Parquet; all but Parquet also with
`.gz` and, where `zstandard` is installed, `.zst`. Whatever is wrong is a ValueError that names file
and line.
"""

import csv
import glob
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

# Name in the record -> column in the file.
Columns = Mapping[str, str]
# (where, column -> value) of each row of a file.
Rows = Iterator[tuple[str, Mapping[str, Any]]]

_SURROGATE = "\\ud"  # how JSON begins to write one; parsed rows are searched only where it occurs

TEXT_UNITS = ("file", "paragraph", "line")


def read_records(
    patterns: str | Sequence[str],
    columns: Columns | Sequence[Columns],
    *,
    text_unit: str = "file",
    encoding: str = "utf-8",
) -> list[dict[str, Any]]:
    """Reads data files into records.

    Args:
      patterns: see `find_files`.
      columns: name in the record -> column in the file, such as `{"text": "tweet"}`; or several
        of these, of which each row takes the first whose columns it has.
      text_unit: what is one document of a plain-text file, which has the column `text` alone: the
        "file", each "paragraph" (between blank lines) or each "line" that is not blank.
      encoding: of all but Parquet; a byte-order mark of UTF-8 is dropped.

    Returns:
      Records `{name: value, ..., "where": "tweets.jsonl:17"}` in the order of the files. Values
      of JSON and Parquet keep their types, those of CSV and text are strings.

    Raises:
      ValueError: no such file, nothing in it, unknown extension, undecodable or malformed line,
        missing column; the message names file, line, value and remedy.
    """
    records = []
    for path in find_files(patterns):
        before = len(records)
        records += stream_records(path, columns, text_unit=text_unit, encoding=encoding)
        if len(records) == before:
            raise ValueError(f"{path}: no records in it; remove the file or fill it")
    return records


def stream_records(
    path: str,
    columns: Columns | Sequence[Columns],
    *,
    text_unit: str = "file",
    encoding: str = "utf-8",
) -> Iterator[dict[str, Any]]:
    """The records of one file, one after the other; arguments and errors as of `read_records`.

    No more than a record is in memory, but for `.json`, of which it is the file, and Parquet, of
    which it is a few thousand rows.
    """
    choices = [columns] if isinstance(columns, Mapping) else list(columns)
    if text_unit not in TEXT_UNITS:
        raise ValueError(f"text_unit={text_unit!r}: give one of {', '.join(TEXT_UNITS)}")
    for where, row in _rows(path, text_unit, encoding):
        yield _select(where, row, choices)


def _select(where: str, row: Mapping[str, Any], choices: Sequence[Columns]) -> dict[str, Any]:
    for columns in choices:
        if all(column in row for column in columns.values()):
            return {name: row[column] for name, column in columns.items()} | {"where": where}
    lacks = dict.fromkeys(
        tuple(column for column in columns.values() if column not in row) for columns in choices
    )
    # What lacks all that another lacks, and more, is not what the file was meant to be.
    missing = " or ".join(
        " and ".join(map(repr, lack))
        for lack in lacks
        if not any(set(other) < set(lack) for other in lacks)
    )
    there = ", ".join(repr(str(column)) for column in row) or "nothing"
    raise ValueError(
        f"{where}: no column {missing}; there is {there}. Name the columns with --text_column, "
        "--label_column and their like"
    )


def find_files(patterns: str | Sequence[str]) -> list[str]:
    """Paths of data files.

    Args:
      patterns: files, folders (every data file in them, at any depth) and globs (`**` too), or
        comma lists of these. What a folder or glob finds comes in the order of the names; a file
        found twice comes once.

    Raises:
      ValueError: nothing found, or a file named whose extension is unknown.
    """
    paths: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        parts = [pattern] if os.path.exists(pattern) else pattern.split(",")
        for part in parts:
            if part.strip():
                paths.update(dict.fromkeys(_match(os.path.expanduser(part.strip()))))
    if not paths:
        raise ValueError(f"data files {patterns!r}: nothing named; give files, folders or globs")
    return list(paths)


def _match(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        found = glob.glob(os.path.join(glob.escape(pattern), "**", "*"), recursive=True)
        found = sorted(path for path in found if os.path.isfile(path) and _extension(path))
        if not found:
            raise ValueError(f"{pattern}: no data file in this folder; known are {_KNOWN}")
        return found
    if os.path.exists(pattern):
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        what = "no file matches" if glob.has_magic(pattern) else "no such file or folder"
        raise ValueError(f"{pattern}: {what}")
    return found


def _extension(path: str) -> str | None:
    """ ".jsonl" of `x.jsonl.gz`; None if unknown."""
    name = os.path.basename(path).lower()
    for packed in _OPENERS:
        name = name.removesuffix(packed)
    extension = os.path.splitext(name)[1]
    return extension if extension in _READERS else None


def _rows(path: str, text_unit: str, encoding: str) -> Rows:
    extension = _extension(path)
    if extension is None:
        raise ValueError(f"{path}: unknown extension; known are {_KNOWN}")
    if extension in (".txt", ".text", ".md"):
        return _read_text(path, text_unit, encoding)
    return _READERS[extension](path, encoding)


def _lines(path: str, encoding: str) -> Iterator[tuple[int, str]]:
    """(number, text with its end) of each line; lines end at \\n alone."""
    _check_encoding(encoding)
    offset = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if number == 1 and _is_utf8(encoding):
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    text = line.decode(encoding)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path}:{number}: byte {line[error.start]:#04x} at offset "
                        f"{offset + error.start} is not {encoding}; convert the file or give "
                        "--data_encoding"
                    ) from error
                offset += len(line)
                yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or cut off: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error


def _check_encoding(encoding: str) -> None:
    try:
        line_end = "\n".encode(encoding)
    except LookupError as error:
        raise ValueError(f"data_encoding={encoding!r}: no such encoding") from error
    if line_end != b"\n":
        raise ValueError(
            f"data_encoding={encoding!r}: only encodings that contain ASCII can be read; convert "
            "the files to UTF-8"
        )


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def _open(path: str) -> BinaryIO:
    for packed, opener in _OPENERS.items():
        if path.lower().endswith(packed):
            return opener(path)
    return open(path, "rb")


def _open_zst(path: str) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise ValueError(
            f"{path}: needs the package zstandard; `pip install zstandard` or unpack the file"
        ) from error
    return zstandard.open(path, "rb")


def _read_jsonl(path: str, encoding: str) -> Rows:
    for number, line in _lines(path, encoding):
        if line.strip():
            yield f"{path}:{number}", _json_object(f"{path}:{number}", line.rstrip())


def _json_object(where: str, text: str) -> dict:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {_fault(error)}; got {_short(text)}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: each line must be a JSON object, got {_short(text)}")
    if _SURROGATE in text.lower():
        _check_surrogates(where, row)
    return row


def _check_surrogates(where: str, row: dict) -> None:
    """JSON can write halves of surrogate pairs, which no UTF-8 can hold."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(
            f"{where}: {half} is half a surrogate pair; write the whole pair or drop it"
        ) from error


def _fault(error: Exception) -> str:
    """The error without its line, which is known better."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def _read_json(path: str, encoding: str) -> Rows:
    """An array of objects, or JSONL that is called `.json`."""
    text = "".join(line for _, line in _lines(path, encoding))
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(path, encoding)
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}{line}: not JSON: {_fault(error)}") from error
    has_surrogate = _SURROGATE in text.lower()
    for index, row in enumerate(rows):
        where = f"{path}[{index}]"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: each item must be a JSON object, got {_short(str(row))}")
        if has_surrogate:
            _check_surrogates(where, row)
        yield where, row


def _read_table(delimiter: str) -> Callable[[str, str], Rows]:
    def read(path: str, encoding: str) -> Rows:
        csv.field_size_limit(2**31 - 1)  # documents are longer than the default of 128 KB
        lines = (line for _, line in _lines(path, encoding))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header, start = None, 1
        try:
            for cells in reader:
                where, start = f"{path}:{start}", reader.line_num + 1
                if not cells:  # a blank line
                    continue
                if header is None:
                    header = _header(where, cells)
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{where}: {len(cells)} fields, but the header has {len(header)}; quote "
                        f"fields that hold {delimiter!r}, quotes or line ends"
                    )
                yield where, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise ValueError(
                f"{path}:{start}: {error}; fields that hold quotes need them doubled, inside quotes"
            ) from error

    return read


def _header(where: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"{where}: the header names the column {min(twice)!r} twice")
    return header


def _read_text(path: str, text_unit: str, encoding: str) -> Rows:
    if text_unit == "line":
        for number, line in _lines(path, encoding):
            if line.strip():
                yield f"{path}:{number}", {"text": line.rstrip("\r\n")}
        return
    start, lines = 1, []
    for number, line in _lines(path, encoding):
        if text_unit == "paragraph" and not line.strip():
            if lines:
                yield f"{path}:{start}", {"text": "".join(lines).rstrip("\r\n")}
            start, lines = number + 1, []
        else:
            lines.append(line)
    text = "".join(lines)
    if text.strip():
        yield f"{path}:{start}", {"text": text if text_unit == "file" else text.rstrip("\r\n")}


def _read_parquet(path: str, _: str) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path}: needs the package pyarrow; `pip install pyarrow`") from error
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


_OPENERS: dict[str, Callable[[str], BinaryIO]] = {
    ".gz": gzip.open,
    ".zst": _open_zst,
}
_READERS: dict[str, Callable[..., Rows]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table(","),
    ".tsv": _read_table("\t"),
    ".txt": _read_text,
    ".text": _read_text,
    ".md": _read_text,
    ".parquet": _read_parquet,
}
_KNOWN = f"{' '.join(_READERS)}, also with {' '.join(_OPENERS)}"
