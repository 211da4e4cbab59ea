"""Memory that a checkpoint is read into and that TensorFlow then takes as it is."""

import math
import mmap

import ml_dtypes
import numpy as np
import tensorflow as tf


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array to be filled, which begins at a page."""
    dtype = tf.as_dtype(dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype.as_numpy_dtype).reshape(shape)


def tensor(values: np.ndarray) -> tf.Tensor:
    """What `empty` gave, as a tensor; the array is not to be changed afterwards.

    TensorFlow copies arrays, but not what DLPack hands over, if it begins where this does.
    """
    if values.dtype != ml_dtypes.bfloat16:
        return tf.experimental.dlpack.from_dlpack(values.__dlpack__())
    bits = tf.experimental.dlpack.from_dlpack(values.view(np.uint16).__dlpack__())
    return tf.bitcast(bits, tf.bfloat16)  # NumPy's DLPack has no bfloat16


def copy(values: np.ndarray, into: np.ndarray) -> None:
    """Copies, in the dtype of `into`."""
    if (values.dtype, into.dtype) == (ml_dtypes.bfloat16, np.float32):
        # bfloat16 is the upper half of float32: faster than ml_dtypes' cast number by number.
        bits = values.view(np.uint16).astype(np.uint32)
        values = np.left_shift(bits, 16, out=bits).view(np.float32)
    into[...] = values
