"""What requests read of a signature."""

import numpy as np
import pytest
import tensorflow as tf

from export import protocol
from export.server import errors
from export.server.signature import Signature, TensorInfo


def definition():
    made = protocol.SignatureDef(method_name="tensorflow/serving/predict")
    made.inputs["x"].name, made.inputs["x"].dtype = "in:0", protocol.DataType.DT_INT32
    made.outputs["y"].name, made.outputs["y"].dtype = "out:0", protocol.DataType.DT_STRING
    made.defaults["x"].CopyFrom(tf.make_tensor_proto([7], tf.int32))
    return made


def test_plain_values():
    found = Signature.of(definition())
    assert found.inputs == {"x": TensorInfo("in:0", protocol.DataType.DT_INT32)}
    assert found.outputs == {"y": TensorInfo("out:0", protocol.DataType.DT_STRING)}
    np.testing.assert_array_equal(found.defaults["x"], np.array([7], np.int32))
    assert found.definition() == definition()
    assert found.definition() is not found.definition()


def test_a_default_that_is_no_tensor():
    broken = definition()
    broken.defaults["x"].tensor_content = b"\x00"
    with pytest.raises(errors.ServingError, match="tensor parsing error: x"):
        Signature.of(broken)
