"""TensorProto <-> numpy, without TensorFlow: for clients, and for a server's answers."""

import math

import ml_dtypes
import numpy as np

from export import protocol

_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT32": np.int32,
    "DT_UINT8": np.uint8,
    "DT_INT16": np.int16,
    "DT_INT8": np.int8,
    "DT_STRING": np.object_,
    "DT_COMPLEX64": np.complex64,
    "DT_INT64": np.int64,
    "DT_BOOL": np.bool_,
    "DT_BFLOAT16": ml_dtypes.bfloat16,
    "DT_UINT16": np.uint16,
    "DT_COMPLEX128": np.complex128,
    "DT_HALF": np.float16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
}
_NUMPY = {protocol.DataType.Value(name): np.dtype(dtype) for name, dtype in _DTYPES.items()}
_NUMBER = {dtype: number for number, dtype in _NUMPY.items()}

# The field of TensorProto that holds the values of a dtype. Half floats are there as their bits,
# complex numbers as pairs.
_FIELDS = {
    np.float32: "float_val",
    np.float64: "double_val",
    np.object_: "string_val",
    np.complex64: "scomplex_val",
    np.int64: "int64_val",
    np.bool_: "bool_val",
    ml_dtypes.bfloat16: "half_val",
    np.float16: "half_val",
    np.complex128: "dcomplex_val",
    np.uint32: "uint32_val",
    np.uint64: "uint64_val",
}
_BITS = {
    np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16),
    np.dtype(np.float16): np.dtype(np.uint16),
    np.dtype(np.complex64): np.dtype(np.float32),
    np.dtype(np.complex128): np.dtype(np.float64),
}


def numpy_dtype(number: int) -> np.dtype:
    """The numpy dtype of a `DataType`; strings are objects.

    Raises:
      ValueError: numpy has none.
    """
    if number not in _NUMPY:
        names = protocol.DataType
        name = names.Name(number) if number in names.values() else f"DataType {number}"
        raise ValueError(f"{name}: tensors of this type cannot be read or written here")
    return _NUMPY[number]


def data_type(dtype: np.dtype) -> int:
    """The `DataType` of a numpy dtype; objects are strings.

    Raises:
      ValueError: TensorProto has none.
    """
    if dtype not in _NUMBER:
        raise ValueError(f"{dtype}: arrays of this type cannot be written as a TensorProto")
    return _NUMBER[dtype]


def to_proto(array: np.ndarray, as_content: bool = False) -> protocol.TensorProto:
    """A TensorProto with the values in typed fields, one for each element, as the stock server
    answers (`Tensor::AsProtoField`).

    Args:
      array: of any shape; objects are bytes.
      as_content: put all values into `tensor_content` (`Tensor::AsProtoTensorContent`).

    Raises:
      ValueError: a dtype that TensorProto has no field for here.
    """
    proto = protocol.TensorProto(dtype=data_type(array.dtype))
    proto.tensor_shape.SetInParent()  # a scalar has a shape too, without dimensions
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    flat = np.ascontiguousarray(array).reshape(-1)
    if as_content:
        proto.tensor_content = _content(flat)
        return proto
    bits = flat.view(_BITS.get(array.dtype, array.dtype))
    if bits.dtype.kind == "f":
        proto.MergeFromString(_packed(_field(array.dtype), bits))
    else:
        getattr(proto, _field(array.dtype)).extend(bits.tolist())
    return proto


def to_array(proto: protocol.TensorProto) -> np.ndarray:
    """The values of a TensorProto, in typed fields (the last one repeated to the end) or as bytes.

    Raises:
      ValueError: an unknown dtype, or values that do not fit the shape.
    """
    dtype = numpy_dtype(proto.dtype)
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_content and dtype == np.object_:
        return _strings(proto.tensor_content, math.prod(shape)).reshape(shape)
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, _field(dtype))
    if dtype == np.object_:
        flat = np.empty(len(values), object)
        flat[:] = list(values)
    else:
        flat = np.array(values, _BITS.get(dtype, dtype)).view(dtype)
    count = math.prod(shape)
    if 0 < flat.size < count:
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - flat.size)])
    if flat.size != count:
        raise ValueError(f"a tensor of shape {shape} with {flat.size} values")
    return flat.reshape(shape)


def of_value(name: str, value, dtype: int) -> protocol.TensorProto:
    """A value in a dtype, such as that of a model's input.

    Args:
      name: of the input, for the message.
      value: number, string, nested lists of them, or array.
      dtype: a `DataType`.

    Raises:
      ValueError: it does not fit.
    """
    target = numpy_dtype(dtype)
    if target == np.object_:
        array = np.array(value, object)
        flat = [_bytes(name, text) for text in array.reshape(-1)]
        array = np.array([*flat, None], object)[:-1].reshape(array.shape)
        return to_proto(array)
    array = np.asarray(value)
    if array.size and not np.can_cast(array.dtype, target, "same_kind"):
        raise ValueError(f"{name}={value!r}: expected {target.name}")
    cast = array.astype(target)
    if target.kind in "iu" and not np.array_equal(cast, array):
        raise ValueError(f"{name}={value!r}: out of the range of {target.name}")
    return to_proto(cast)


def _content(values: np.ndarray) -> bytes:
    """Numbers as they are in memory; strings, all their lengths and then all of them."""
    if values.dtype != np.object_:
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join([*(_varint(len(value)) for value in values), *values])


def _strings(content: bytes, count: int) -> np.ndarray:
    lengths, at = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if at >= len(content):
                raise ValueError(f"tensor_content does not hold {count} strings")
            length |= (content[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if content[at - 1] < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise ValueError(f"tensor_content does not hold {count} strings")
    values = np.empty(count, object)
    for i, length in enumerate(lengths):
        values[i] = content[at : at + length]
        at += length
    return values


def _packed(field: str, values: np.ndarray) -> bytes:
    """A repeated field of fixed-width numbers on the wire: the values' own bytes after their
    length. Fifty times faster than a Python float for each of them."""
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    tag = protocol.TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | 2
    return _varint(tag) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(data + bytes([number]))


def _field(dtype: np.dtype) -> str:
    return _FIELDS.get(dtype.type, "int_val")


def _bytes(name: str, text) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise ValueError(f"{name}: expected strings in lists of one length, not {text!r}")
