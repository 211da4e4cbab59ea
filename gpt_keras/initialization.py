"""What the weights of a model begin with."""

import contextlib
import contextvars

import tensorflow as tf

_is_empty = contextvars.ContextVar("is_empty", default=False)


def initializer(usual):
    """The usual initializer of a weight, or one that leaves it as `left_empty` says."""
    return _empty if _is_empty.get() else usual


@contextlib.contextmanager
def left_empty():
    """Weights that are made inside are filled afterwards, all of them: spares random numbers."""
    token = _is_empty.set(True)
    try:
        yield
    finally:
        _is_empty.reset(token)


def _empty(shape, dtype):
    """Whatever memory holds; none is taken before the system is asked to write there."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)
