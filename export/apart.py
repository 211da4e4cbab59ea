"""Apart: a function as one op of the graph around it."""

import tensorflow as tf


def apart(function, *inputs):
    """`function(*inputs)`, which may be nested tuples of tensors, called by one op.

    For the branches of `tf.cond`: TensorFlow goes through all ops of the branch that is not taken.
    """
    attributes = {"_noinline": True}
    return tf.function(function, autograph=False, experimental_attributes=attributes)(*inputs)


def optimize_once(graph_def) -> None:
    """Has such functions of a graph to be saved optimized once at load, in place.

    Otherwise TensorFlow makes a copy for each place that calls it, and optimizes every one: a third
    of the time that a language model takes to be ready. `tf.function` does not let this attribute
    through.
    """
    for function in graph_def.library.function:
        if "_noinline" in function.attr and function.attr["_noinline"].b:
            function.attr["_nospecialize"].b = True
