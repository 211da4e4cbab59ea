"""Rows in pieces: as all at once, and never more than a piece."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import pieces


@pytest.mark.parametrize("rows", [0, 1, 32, 33, 70])
def test_as_all_at_once(rows):
    values = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    specs = [tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None], tf.int32)]

    def function(x, y):
        return 2 * x, y + tf.shape(x)[0]  # tells how many there were

    expected = [min(32, rows - i // 32 * 32) + i for i in range(rows)]
    run = tf.function(lambda x, y: pieces.map_rows(function, [x, y], specs))
    for found in (run, run.python_function):
        doubled, counted = found(tf.constant(values), tf.range(rows))
        np.testing.assert_array_equal(doubled, 2 * values)
        assert counted.numpy().tolist() == expected
