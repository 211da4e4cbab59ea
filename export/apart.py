"""Apart: a function as one op of the graph around it."""

import tensorflow as tf


def apart(function, *inputs):
    """`function(*inputs)`, which may be nested tuples of tensors, called by one op.

    For the branches of `tf.cond`: TensorFlow goes through all ops of the branch that is not taken.

    At load it makes a copy of a called function for each place, and optimizes every copy, where an
    output is not used, so return what is new only; or where the call waits for a constant. The
    beginning of a branch becomes one, unless the call waits for something else of that branch.
    """
    attributes = {"_noinline": True}
    with tf.control_dependencies([tf.timestamp()]):
        return tf.function(function, autograph=False, experimental_attributes=attributes)(*inputs)
