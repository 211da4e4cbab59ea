"""Refusing a request from within the graph."""

from collections.abc import Callable

import tensorflow as tf


def refused_if(bad: tf.Tensor, message: Callable[[], tf.Tensor], tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`, to be had only if all is well.

    Args:
      bad: () bool.
      message: makes a () string; what it does runs only if `bad`.
      tensor: whatever is to be computed from it waits for the check.

    Raises:
      tf.errors.InvalidArgumentError: `bad` holds.
    """

    def refuse():
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=[message()])]):
            return tf.identity(tensor)

    return tf.cond(bad, refuse, lambda: tensor)
