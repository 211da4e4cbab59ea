"""Predict requests in JSON: rows ("instances") and columns ("inputs").

Source: util/json_tensor.cc.
"""

import base64
import re
from collections.abc import Mapping

import numpy as np

from export import protocol, tensors
from export.server import errors, json_parser
from export.server.json_writer import debug
from export.server.signature import TensorInfo

ROW, COLUMN = "row", "column"
_MAX_RANK, _MAX_ARRAY_RANK = 254, 64  # of a TensorShape, of a numpy array
_BASE64 = re.compile(r"[A-Za-z0-9+/]*", re.ASCII)
_JSON_TYPES = {
    dict: "Object", list: "Array", str: "String", int: "Number", float: "Number",
    type(None): "Null",
}  # fmt: skip

# Range of JSON integers for a dtype. Those of narrow types are int32 on the wire, and wrap.
_INT32, _INT64 = range(-(2**31), 2**31), range(-(2**63), 2**63)
RANGES = {
    np.dtype(np.int8): _INT32,
    np.dtype(np.uint8): _INT32,
    np.dtype(np.int16): _INT32,
    np.dtype(np.int32): _INT32,
    np.dtype(np.int64): _INT64,
    np.dtype(np.uint32): range(2**32),
    np.dtype(np.uint64): range(2**64),
}
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_NAMES = {"object": "string", "float32": "float", "float64": "double", "float16": "half"}


def document(body: bytes) -> tuple[dict, str]:
    """A request's JSON object and the signature it names ("" for none).

    Raises:
      ServingError: not JSON, or not an object.
    """
    found = json_parser.parse(body)
    if not isinstance(found, dict):
        raise format_error(found, "Is not object")
    name = found.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(found, "not formatted correctly. 'signature_name' key must be a string "
                           "value.")  # fmt: skip
    return found, json_parser.raw(name).decode("utf-8", "replace")


def format_error(value, message: str) -> errors.ServingError:
    return errors.invalid_argument(f"JSON Value: {debug(value)} {message}")


def read_inputs(found: dict, inputs: Mapping[str, TensorInfo]) -> tuple[str, dict[str, np.ndarray]]:
    """The tensors of a Predict request.

    Args:
      found: the request.
      inputs: of its signature.

    Returns:
      ROW or COLUMN, and name -> tensor.

    Raises:
      ServingError: a value that does not fit.
    """
    if "instances" in found:
        if "inputs" in found:
            raise format_error(found, "Not formatted correctly expecting only one of 'inputs' or "
                               "'instances' keys to exist ")  # fmt: skip
        if not isinstance(found["instances"], list):
            raise format_error(found, "Expecting 'instances' to be an list/array")
        if not found["instances"]:
            raise format_error(found, "No values in 'instances' array")
        return ROW, _rows(found["instances"], inputs)
    if "inputs" in found:
        return COLUMN, _columns(found["inputs"], inputs)
    raise errors.invalid_argument("Missing 'inputs' or 'instances' key")


def _rows(instances: list, inputs: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise errors.invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    try:
        if not named:
            return {min(inputs): _tensor(min(inputs), instances, inputs[min(inputs)].dtype)}
        if not all(_is_object(row) and row.keys() == inputs.keys() for row in instances):
            raise errors.invalid_argument("Rows of different inputs")
        return {
            name: _tensor(name, [row[name] for row in instances], info.dtype)
            for name, info in inputs.items()
        }
    except errors.ServingError:
        _check_rows(instances, inputs, named)  # tells which row it is
        raise


def _check_rows(instances: list, inputs: Mapping[str, TensorInfo], named: bool) -> None:
    """Raises for the first thing wrong with the rows, one after the other."""
    first = {}  # input -> (size, shape) of its first row
    for number, row in enumerate(instances):
        if named != _is_object(row):
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise errors.invalid_argument(
                f"Expecting {expected} but got {got} at item {number} of input list"
            )
        for name, value in row.items() if named else [(min(inputs), row)]:
            try:
                _check_item(name, value, inputs, first)
            except errors.ServingError as error:
                key = f" key: {name}" if named else ""
                raise errors.invalid_argument(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: {error}"
                ) from error
        if named and row.keys() != inputs.keys():
            raise errors.invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{debug(row)} keys must be equal to: {','.join(sorted(inputs))}"
            )


def _check_item(name: str, value, inputs, first: dict[str, tuple[int, tuple]]) -> None:
    if name not in inputs:
        raise errors.invalid_argument(f"JSON object: does not have named input: {name}")
    shape = _shape(name, value)
    size = len(_values(value, shape, inputs[name].dtype))
    first_size, first_shape = first.setdefault(name, (size, shape))
    if size != first_size:
        raise errors.invalid_argument(f"Expecting tensor size: {first_size} but got: {size}")
    if shape != first_shape:
        raise errors.invalid_argument(
            f"Expecting shape {_shape_text(first_shape)} but got: {_shape_text(shape)}"
        )


def _columns(value, inputs: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    if not _is_object(value):
        if len(inputs) > 1:
            raise errors.invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        ((name, info),) = inputs.items()
        return {name: _tensor(name, value, info.dtype)}
    for name in sorted(inputs):
        if name not in value:
            raise errors.invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(name, value[name], info.dtype) for name, info in sorted(inputs.items())}


def _tensor(name: str, value, dtype: int) -> np.ndarray:
    shape = _shape(name, value)
    values, numpy_dtype = _values(value, shape, dtype), _numpy(dtype)
    if numpy_dtype == np.object_:
        array = np.empty(len(values), object)
        array[:] = values
    elif numpy_dtype in FLOATS:
        with np.errstate(over="ignore"):  # beyond float32 is infinity
            array = np.array(values, np.float64).astype(numpy_dtype)
    elif numpy_dtype in RANGES:
        wide = np.uint64 if numpy_dtype == np.uint64 else np.int64
        array = np.array(values, wide).astype(numpy_dtype)
    else:
        array = np.array(values, numpy_dtype)
    if len(shape) > _MAX_ARRAY_RANK:
        raise errors.invalid_argument(
            f"input {name} has {len(shape)} dimensions: no more than {_MAX_ARRAY_RANK} can be "
            "served here"
        )
    return array.reshape(shape)


def _shape(name: str, value) -> tuple[int, ...]:
    """Of nested lists, by their first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAX_RANK:
            raise errors.invalid_argument(f"tensor parsing error: {name}")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _values(value, shape: tuple[int, ...], dtype: int) -> list:
    """The leaves of nested lists, in order."""
    found, numpy_dtype = [], _numpy(dtype)

    def read(value, level):
        if not isinstance(value, list):
            if level != len(shape):
                raise errors.invalid_argument(
                    f"JSON Value: {debug(value)} found at incorrect level: {level + 1} in the JSON "
                    f"DOM. Expected at level: {len(shape)}"
                )
            found.append(_value(value, numpy_dtype, dtype))
        elif level >= len(shape):
            raise errors.invalid_argument(
                f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            )
        elif len(value) != shape[level]:
            raise errors.invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected "
                f"size: {shape[level]}"
            )
        elif level == len(shape) - 1 and _all_good(value, numpy_dtype):
            found.extend(map(json_parser.raw, value) if numpy_dtype == np.object_ else value)
        else:
            for element in value:
                read(element, level + 1)

    read(value, 0)
    return found


def _all_good(values: list, dtype: np.dtype | None) -> bool:
    """Whether a list of leaves needs no look at each of them."""
    types = set(map(type, values))
    if dtype in FLOATS:
        return types <= {int, float}
    if dtype in RANGES:
        return types == {int} and min(values) in RANGES[dtype] and max(values) in RANGES[dtype]
    return (dtype == np.object_ and types == {str}) or (dtype == np.bool_ and types == {bool})


def _value(value, numpy_dtype: np.dtype | None, dtype: int):
    """A leaf as the value of a tensor's element."""
    if isinstance(value, dict):
        if numpy_dtype != np.object_:
            raise _type_error(value, dtype)
        if not is_base64(value):
            raise format_error(value, "not formatted correctly for base64 data")
        return decode_base64(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if numpy_dtype in FLOATS:
        good = is_number
    elif numpy_dtype in RANGES:
        good = is_number and isinstance(value, int) and value in RANGES[numpy_dtype]
    elif numpy_dtype == np.object_:
        good = isinstance(value, str)
    elif numpy_dtype == np.bool_:
        good = isinstance(value, bool)
    else:
        raise errors.unimplemented(
            f"Conversion of JSON Value: {debug(value)} to type: {dtype_name(dtype)}"
        )
    if not good:
        raise _type_error(value, dtype)
    return json_parser.raw(value) if isinstance(value, str) else value


def _type_error(value, dtype: int) -> errors.ServingError:
    return format_error(
        value, f"Type: {type_name(value)} is not of expected type: {dtype_name(dtype)}"
    )


def type_name(value) -> str:
    """What RapidJSON calls the type of a value."""
    return str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]


def _is_object(value) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value) -> bool:
    """Whether a value is bytes: an object with the one member "b64"."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: dict) -> bytes:
    """The bytes of such an object; padding may be left out, and white space be anywhere.

    Raises:
      ServingError: it is not base 64.
    """
    text = re.sub(r"[ \t\n\v\f\r]", "", value["b64"])
    data = text.rstrip("=.")
    padding = len(text) - len(data)
    good = _BASE64.fullmatch(data) and len(data) % 4 != 1 and padding in (0, -len(data) % 4)
    if not good:
        raise errors.invalid_argument("Unable to base64 decode")
    return base64.b64decode(data + "=" * (-len(data) % 4))


def _numpy(dtype: int) -> np.dtype | None:
    try:
        return tensors.numpy_dtype(dtype)
    except ValueError:
        return None


def dtype_name(dtype: int) -> str:
    numpy_dtype = _numpy(dtype)
    if numpy_dtype is None:
        return protocol.DataType.Name(dtype).removeprefix("DT_").lower()
    return _NAMES.get(numpy_dtype.name, numpy_dtype.name)


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
