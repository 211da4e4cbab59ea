"""What a request may contain, checked in the graph: a bad value is an INVALID_ARGUMENT.

A check makes a vector of messages, one for each offending row and empty when all is well. `guarded`
turns the first message into the error that the client sees, and lets nothing run before it.
"""

import tensorflow as tf

from export.requests import chosen
from gpt_keras import tokenizers


def guarded(problems, tensors):
    """`tensors`, to be had only if there are no problems.

    Args:
      problems: list of (n,) string tensors, messages; the first one of all becomes the error. In
        plain ASCII without quotes: the op behind it escapes them.
      tensors: structure of tensors whose users are to wait for the check.
    """
    problems = tf.concat(problems, axis=0)
    message = tf.strings.reduce_join(problems[:1])
    check = tf.raw_ops.Assert(condition=tf.equal(tf.size(problems), 0), data=[message])
    with tf.control_dependencies([check]):
        return tf.nest.map_structure(tf.identity, tensors, expand_composites=True)


def about_rows(bad, name, what):
    """Messages "NAME of row I" and `what`, for the rows where `bad`, (n,) bool, is True.

    Args:
      what: (n,) string tensor, one message a row, or one str for all.
    """
    rows = tf.squeeze(tf.where(bad), 1)
    what = tf.gather(what, rows) if not isinstance(what, str) else what
    return tf.strings.join([f"{name} of row ", text(rows), what])


def bad_rows(good, name, values, expected):
    """Messages "NAME of row I is VALUE: expected EXPECTED" where `good`, (n,) bool, is False."""
    return about_rows(
        ~good, name, tf.strings.join([" is ", text(values), f": expected {expected}"])
    )


def wrong_length(vectors, rows, shared=True):
    """Messages about vectors that have not one value for each row (or, if `shared`, one for all).

    Args:
      vectors: name -> vector.
      rows: () int32.
    """
    n = tf.stack([tf.size(values) for values in vectors.values()])  # (v,)
    wanted = "give one value for all rows, or one a row" if shared else "give one value a row"
    what = [" has ", text(n), " values and the request ", text(rows), f" rows: {wanted}"]
    return chosen(_about(vectors, what), (n != rows) & (n != 1) if shared else n != rows)


def wrong_rank(tensors):
    """Messages about tensors, by name, with other dimensions than their signature says.

    TensorFlow Serving feeds a tensor of whatever shape, and the declared one is taken for granted
    when the graph is optimised: hence the detour through an op that hides it.
    """
    hidden = [tf.compat.v1.placeholder_with_default(x, None) for x in tensors.values()]
    n = tf.stack([tf.rank(x) for x in hidden])  # (t,)
    ranks = tf.constant([x.shape.rank for x in tensors.values()])
    what = [" has ", text(n), " dimensions: expected ", text(ranks)]
    return chosen(_about(tensors, what), n != ranks)


def not_utf8(name, texts):
    """Messages about texts, (n,) string, that are not valid UTF-8."""
    return about_rows(~tokenizers.is_valid_utf8(texts), name, " is not valid UTF-8")


def once(message, condition):
    """(1,) or (0,) string: the scalar message if the scalar condition holds."""
    return tf.fill([tf.cast(condition, tf.int32)], message)


def text(values):
    """Numbers as a person writes them."""
    return tf.strings.as_string(values, shortest=values.dtype.is_floating)


def _about(tensors, what):
    """Messages of each tensor's name and `what`, a list of parts to be joined."""
    return tf.strings.join([tf.constant(list(tensors)), *what])
