"""TensorProto <-> numpy, beside TensorFlow's own."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from export import protocol, tensors

DTYPES = (
    np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int16, np.uint16,
    np.int32, np.int64, np.uint32, np.uint64, np.bool_, np.complex64, np.complex128,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype, shape):
    rng = np.random.default_rng(0)
    array = np.asarray(rng.uniform(-100, 100, shape)).astype(np.int32).astype(dtype)
    proto = tensors.to_proto(array)
    assert not proto.tensor_content
    assert proto.HasField("tensor_shape")  # also of a scalar
    for back in (tensors.to_array(proto), tf.make_ndarray(proto)):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    content = tf.make_tensor_proto(array)  # what most clients in Python send
    np.testing.assert_array_equal(tensors.to_array(content), array)


def test_strings():
    array = np.array([[b"a", b""], [b"\xff\0", "é".encode()]], object)
    proto = tensors.to_proto(array)
    assert list(proto.string_val) == [b"a", b"", b"\xff\0", "é".encode()]
    np.testing.assert_array_equal(tensors.to_array(proto), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[b"a", b""], [b"\xff\0" * 200, "é".encode()]], object),
        np.array(b"x", object), np.empty([0], object), np.arange(6, dtype=np.int32).reshape(2, 3).T,
        np.array([True, False]), np.array([1.5, -2.0], np.float16), np.array(7, np.uint64),
    ],
)  # fmt: skip
def test_content(array):
    proto = tensors.to_proto(array, as_content=True)
    assert {name.name for name, _ in proto.ListFields()} <= {
        "dtype", "tensor_shape", "tensor_content"
    }  # fmt: skip
    parsed = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    for back in (tensors.to_array(proto), np.asarray(parsed, array.dtype)):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("content", [b"\x02", b"\x80", b"\x01\x01a", b"\x01\x01abc"])
def test_content_that_is_not_two_strings(content):
    proto = protocol.TensorProto(dtype=7, tensor_content=content)
    proto.tensor_shape.dim.add(size=2)
    with pytest.raises(ValueError, match="tensor_content does not hold 2 strings"):
        tensors.to_array(proto)


def test_not_contiguous():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(tensors.to_array(tensors.to_proto(array)), array)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dtype: DT_INT32 tensor_shape { dim { size: 3 } } int_val: [1, 2]", [1, 2, 2]),
        ('dtype: DT_STRING tensor_shape { dim { size: 2 } } string_val: "a"', [b"a", b"a"]),
    ],
)
def test_last_value_is_repeated(text, expected):
    proto = text_format.Parse(text, protocol.TensorProto())
    np.testing.assert_array_equal(tensors.to_array(proto), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dtype: DT_RESOURCE", "DT_RESOURCE: tensors of this type"),
        ("dtype: 999", "DataType 999: tensors of this type"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } }", r"shape \(2,\) with 0 values"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: [1, 2]", "with 2 values"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } tensor_content: 'abcd'", "reshape"),
    ],
)
def test_bad_protos(text, message):
    with pytest.raises(ValueError, match=message):
        tensors.to_array(text_format.Parse(text, protocol.TensorProto()))


def test_bad_array():
    with pytest.raises(ValueError, match="datetime64"):
        tensors.to_proto(np.array(["2020-01-01"], "datetime64[D]"))
