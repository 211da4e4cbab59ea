"""Apart: a function as one op of the graph around it."""

import tensorflow as tf


def apart(function, *inputs):
    """`function(*inputs)`, which may be nested tuples of tensors, called by one op.

    For the branches of `tf.cond`: TensorFlow goes through all ops of the branch that is not taken.
    """
    attributes = {"_noinline": True}
    return tf.function(function, autograph=False, experimental_attributes=attributes)(*inputs)
