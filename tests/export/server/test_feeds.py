"""TensorProtos of a request, good and bad."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from export import protocol
from export.server import errors, feeds


def proto(text):
    return text_format.Parse(text, protocol.TensorProto())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } } float_val: [1, 2]", [1.0, 2.0]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 4 } } float_val: [1, 2]", [1, 2, 2, 2]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } }", [0.0, 0.0]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: [1, 2, 3]", [1.0]),
        ("dtype: DT_FLOAT float_val: 1", 1.0),
        ("dtype: DT_FLOAT tensor_shape { unknown_rank: true } float_val: 1", 1.0),
        ("dtype: DT_INT8 tensor_shape { dim { size: 1 } } int_val: 300", [44]),
        ('dtype: DT_STRING tensor_shape { dim { size: 2 } } string_val: "a"', [b"a", b"a"]),
        (
            'dtype: DT_INT32 tensor_shape { dim { size: 1 } } tensor_content: "\\1\\0\\0\\0"',
            [1],
        ),
        ("dtype: DT_HALF tensor_shape { dim { size: 1 } } half_val: 15360", [1.0]),
    ],
)
def test_good(text, expected):
    value = feeds.parse("x", proto(text))
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == tf.as_dtype(proto(text).dtype).as_numpy_dtype


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dtype: DT_INVALID float_val: 1",
        "dtype: 9999 tensor_shape { dim { size: 1 } }",
        "dtype: DT_FLOAT_REF tensor_shape { dim { size: 1 } } float_val: 1",
        "dtype: DT_RESOURCE tensor_shape { dim { size: 1 } } resource_handle_val {}",
        "dtype: DT_VARIANT tensor_shape { dim { size: 1 } } variant_val { type_name: 'x' }",
        "dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: -1 } dim { size: -1 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: '\\1\\0\\0\\0'",
        "dtype: DT_FLOAT tensor_shape { dim { size: 1 } } tensor_content: '\\1\\0\\0\\0\\0'",
        "dtype: DT_STRING tensor_shape { dim { size: 2 } } tensor_content: 'abc'",
        # Terabytes in a few bytes; products that overflow.
        "dtype: DT_FLOAT tensor_shape { dim { size: 1099511627776 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: 600000000 } } float_val: 1",
        "dtype: DT_STRING tensor_shape { dim { size: 100000000 } } tensor_content: 'a'",
        "dtype: DT_BOOL tensor_shape { dim { size: 4611686018427387904 } dim { size: 4 } }",
        "dtype: DT_BOOL tensor_shape { dim { size: 9223372036854775807 } "
        "dim { size: 9223372036854775807 } } tensor_content: 'a'",
        "dtype: DT_FLOAT tensor_shape {" + "dim { size: 1 }" * 300 + "} float_val: 1",
        "dtype: DT_FLOAT tensor_shape {" + "dim { size: 1 }" * 100 + "} float_val: 1",
    ],
)
def test_bad(text):
    with pytest.raises(errors.ServingError) as caught:
        feeds.parse("x", proto(text))
    assert str(caught.value) == "INVALID_ARGUMENT: tensor parsing error: x"


def test_bad_over_grpc(server):
    with pytest.raises(Exception, match="tensor parsing error: x"):
        server.predict(x=proto("dtype: DT_FLOAT tensor_shape { dim { size: -1 } }"))


@pytest.mark.parametrize("scalar", [b"text\0", 7, 1.5])
def test_scalars(scalar):
    value = feeds.parse("x", tf.make_tensor_proto(scalar))
    assert isinstance(value, np.ndarray)
    assert (value.shape, value.item()) == ((), scalar)


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.integers(0, 140),
    sizes=st.lists(st.integers(-2, 5) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    content=st.binary(max_size=24),
    values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
)
def test_whatever_comes_is_a_tensor_or_refused(dtype, sizes, content, values):
    made = protocol.TensorProto(dtype=dtype, tensor_content=content, int_val=values)
    made.float_val.extend(values)
    made.string_val.extend([content] * len(values))
    for size in sizes:
        made.tensor_shape.dim.add().size = size
    try:
        found = list(feeds.parse("x", made).shape)
    except errors.ServingError as error:
        found = error.message
    assert found in (sizes, "tensor parsing error: x")
