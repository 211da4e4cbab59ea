"""Answers to Predict in JSON: rows ("predictions") and columns ("outputs").

Source: util/json_tensor.cc.
"""

import base64
from collections.abc import Mapping

import numpy as np

from export import tensors
from export.server import errors
from export.server.json_inputs import FLOATS, RANGES, ROW, dtype_name
from export.server.json_writer import PrettyWriter, quoted


def write_outputs(outputs: Mapping[str, np.ndarray], form: str) -> str:
    """The answer to a Predict request.

    Args:
      outputs: name -> tensor; objects are bytes.
      form: ROW or COLUMN, as the request was.

    Raises:
      ServingError: in rows, outputs that are not one entry a row; a dtype that JSON has no form
        for.
    """
    if not outputs:
        raise errors.invalid_argument("Cannot convert empty tensor map to JSON")
    written = {name: _Written(name, value) for name, value in sorted(outputs.items())}
    return _write_rows(written) if form == ROW else _write_columns(written)


class _Written:
    """A tensor with each of its elements as JSON."""

    def __init__(self, name: str, value: np.ndarray):
        self.name, self.shape = name, value.shape
        self.is_bytes = value.dtype == np.object_ and name.endswith("_bytes")
        self.texts = _texts(value, self.is_bytes)

    def write(self, writer: PrettyWriter, start: int, level: int) -> None:
        """Writes the elements from `start` on that dimensions from `level` on span."""
        if level == len(self.shape):
            self._write_elements(writer, [self.texts[start]])
            return
        size = int(np.prod(self.shape[level + 1 :], dtype=np.int64))
        writer.start_array()
        if level == len(self.shape) - 1:
            self._write_elements(writer, self.texts[start : start + self.shape[level]])
        else:
            for number in range(self.shape[level]):
                self.write(writer, start + number * size, level + 1)
        writer.end_array()

    def _write_elements(self, writer: PrettyWriter, texts: list[str]) -> None:
        if not self.is_bytes:
            writer.raws(texts)
            return
        for text in texts:
            writer.start_object()
            writer.string("b64")
            writer.raw(text)
            writer.end_object()


def _write_rows(written: Mapping[str, _Written]) -> str:
    batch = None
    for name, tensor in written.items():
        if not tensor.shape:
            raise errors.invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch not in (None, tensor.shape[0]):
            raise errors.invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {tensor.shape[0]} "
                f"expecting: {batch}"
            )
        batch = tensor.shape[0]
    writer = PrettyWriter()
    writer.start_object()
    writer.string("predictions")
    writer.start_array()
    for row in range(batch):
        if len(written) > 1:
            writer.start_object()
        writer.single_line = True
        for name, tensor in written.items():
            if len(written) > 1:
                writer.string(name)
            tensor.write(writer, row * (len(tensor.texts) // batch), 1)
        writer.single_line = False
        if len(written) > 1:
            writer.end_object()
    writer.end_array()
    writer.end_object()
    return writer.text()


def _write_columns(written: Mapping[str, _Written]) -> str:
    writer = PrettyWriter()
    writer.start_object()
    writer.string("outputs")
    if len(written) > 1:
        writer.start_object()
    for name, tensor in written.items():
        if len(written) > 1:
            writer.string(name)
        tensor.write(writer, 0, 0)
    if len(written) > 1:
        writer.end_object()
    writer.end_object()
    return writer.text()


def _texts(value: np.ndarray, as_bytes: bool) -> list[str]:
    """Each element as JSON."""
    flat = value.reshape(-1)
    if not flat.size:  # whatever the dtype
        return []
    if value.dtype in FLOATS:
        return decimals(flat)
    if value.dtype in RANGES:
        return [str(number) for number in flat.tolist()]
    if value.dtype == np.bool_:
        return ["true" if flag else "false" for flag in flat]
    if value.dtype == np.object_ and as_bytes:
        return [f'"{base64.b64encode(data).decode()}"' for data in flat]
    if value.dtype == np.object_:  # written as they are, even if they are not UTF-8
        return [quoted(data.decode("utf-8", "surrogateescape")) for data in flat]
    name = dtype_name(tensors.data_type(value.dtype))
    raise errors.invalid_argument(f"Failed to write JSON value for tensor type: {name}")


def decimals(values: np.ndarray) -> list[str]:
    """Floats as %.6g if that is exact, otherwise with all digits; whole numbers end in ".0".

    Args:
      values: (N,) float32 or float64.
    """
    digits = 9 if values.dtype == np.float32 else 17
    numbers = values.tolist()
    short = [f"{number:g}" for number in numbers]
    with np.errstate(over="ignore"):
        exact = np.array(list(map(float, short)), np.float64).astype(values.dtype) == values
    texts = []
    for number, text, is_exact in zip(numbers, short, exact, strict=True):
        if number != number or number in (float("inf"), -float("inf")):
            texts.append({"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text])
            continue
        text = text if is_exact else f"{number:.{digits}g}"
        texts.append(text if "." in text or "e" in text else text + ".0")
    return texts
