"""Many rows, some at a time: what a model needs of memory does not grow with their number."""

from collections.abc import Callable, Sequence

import tensorflow as tf

ROWS = 32  # that a model looks at at once


def map_rows(
    function: Callable[..., Sequence[tf.Tensor]],
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """What a function says of rows, `ROWS` of them after the other; works in a `tf.function` too.

    Args:
      function: from tensors (b, ...) to as many as `outputs` tells, (b, ...).
      inputs: (R, ...) each.
      outputs: of shape (None, ...) each.

    Returns:
      (R, ...) each.
    """

    def some(first, *before):
        found = function(*(x[first : first + ROWS] for x in inputs))
        return first + ROWS, *(tf.concat(x, 0) for x in zip(before, found, strict=True))

    _, *found = tf.while_loop(
        lambda first, *_: first < tf.shape(inputs[0])[0],
        some,
        (tf.constant(0), *(tf.zeros([0, *x.shape[1:]], x.dtype) for x in outputs)),
        shape_invariants=(tf.TensorShape([]), *(x.shape for x in outputs)),
        parallel_iterations=1,
    )
    return found
