"""TensorProto of a request -> array to feed, by the code that the stock server runs."""

import math

import numpy as np
import tensorflow as tf

from export import protocol
from export.server import errors

_LARGEST = 2**31 - 1  # bytes of a message: no honest tensor is larger than what can be sent
_STRING = 24  # bytes, sizeof(tstring)


def parse(alias: str, proto: protocol.TensorProto) -> np.ndarray:
    """The tensor of an input.

    `Tensor::FromProto` does it, through the op that wraps it: typed fields or raw bytes, fewer
    values than elements repeat the last one, all as on the stock server.

    Args:
      alias: name of the input, for the message.
      proto: as a client sent it.

    Returns:
      The value, of the dtype and shape that the proto says; strings are objects, bytes.

    Raises:
      ServingError: INVALID_ARGUMENT, dtype, shape and content do not make a tensor.
    """
    try:
        if _claims_too_much(proto):
            raise ValueError
        value = tf.raw_ops.ParseTensor(
            serialized=proto.SerializeToString(), out_type=proto.dtype
        ).numpy()
        # A scalar comes as a number or as bytes, not as an array.
        return np.asarray(value, object if isinstance(value, bytes) else None)
    except (tf.errors.OpError, TypeError, ValueError, NotImplementedError) as error:
        raise errors.invalid_argument(f"tensor parsing error: {alias}") from error


def _claims_too_much(proto: protocol.TensorProto) -> bool:
    """A few bytes may claim a shape of terabytes: repeating one value would fill the memory."""
    count = math.prod(dim.size for dim in proto.tensor_shape.dim)
    if proto.dtype == protocol.DataType.DT_STRING:
        return count * _STRING > _LARGEST
    if proto.tensor_content:
        return False  # its length must be the tensor's
    return count * (tf.as_dtype(proto.dtype).size or 1) > _LARGEST
