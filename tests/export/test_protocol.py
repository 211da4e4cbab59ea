"""The protos without TensorFlow, and with it."""

import subprocess
import sys

import pytest

LIGHT = """
import sys
from export import client
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "keras")]
assert not loaded, loaded
"""
BOTH = """
{first}
{second}
import tensorflow as tf
from export import protocol
request = protocol.PredictRequest()
request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
assert tf.make_ndarray(request.inputs["x"]).tolist() == [1.0, 2.0]
assert isinstance(tf.make_tensor_proto(1), protocol.TensorProto)
assert tf.keras.layers.Dense(1)(tf.ones([1, 1])).shape == [1, 1]
"""


def run(text):
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_client_does_not_import_tensorflow():
    run(LIGHT)


@pytest.mark.parametrize("order", [1, -1])
def test_same_classes_whoever_comes_first(order):
    first, second = ("import export.protocol", "import tensorflow")[::order]
    run(BOTH.format(first=first, second=second))
