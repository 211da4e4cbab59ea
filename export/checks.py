"""What a request may contain, checked in the graph: a bad value is an INVALID_ARGUMENT.

A check makes a vector of messages, one for each offending row and empty when all is well. `guarded`
turns the first message into the error that the client sees, and lets nothing run before it.
"""

import tensorflow as tf

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
    rows = tf.where(bad)[:, 0]
    what = tf.gather(tf.broadcast_to(what, tf.shape(bad)), rows)
    return tf.strings.join([f"{name} of row ", text(rows), what])


def bad_rows(good, name, values, expected):
    """Messages "NAME of row I is VALUE: expected EXPECTED" where `good`, (n,) bool, is False."""
    return about_rows(
        ~good, name, tf.strings.join([" is ", text(values), f": expected {expected}"])
    )


def wrong_length(name, values, rows, shared=True):
    """A message if a vector has not one value for each row (or, where `shared`, one for all)."""
    n = tf.shape(values)[0]
    wanted = "give one value for all rows, or one a row" if shared else "give one value a row"
    message = tf.strings.join(
        [f"{name} has ", text(n), " values and the request ", text(rows), f" rows: {wanted}"]
    )
    return once(message, (n != rows) & (n != 1) if shared else n != rows)


def wrong_rank(name, values, rank):
    """A message if a tensor has not as many dimensions as its signature says.

    TensorFlow Serving feeds a tensor of whatever shape, and the declared one is taken for granted
    when the graph is optimised: hence the detour through an op that hides it.
    """
    n = tf.rank(tf.compat.v1.placeholder_with_default(values, None))
    found = tf.strings.join([f"{name} has ", text(n), f" dimensions: expected {rank}"])
    return once(found, n != rank)


def not_utf8(name, texts):
    """Messages about texts, (n,) string, that are not valid UTF-8."""
    return about_rows(~tokenizers.is_valid_utf8(texts), name, " is not valid UTF-8")


def once(message, condition):
    """(1,) or (0,) string: the scalar message if the scalar condition holds."""
    return tf.repeat(message, tf.cast(condition, tf.int32))


def text(values):
    """Numbers as a person writes them."""
    return tf.strings.as_string(values, shortest=values.dtype.is_floating)
