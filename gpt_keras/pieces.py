"""Many rows, some at a time: what a model needs of memory does not grow with their number."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

TOKENS = 2**14  # that a model looks at at once, padding included
SQUARES = 2**23  # and sum of their rows' lengths squared, since attention scores are as many


def map_rows(
    function: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    lengths: tf.Tensor,
    empty: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """What a function says of rows, the longest first; works in a `tf.function` too.

    Rows of like lengths go together, as many as `TOKENS` and `SQUARES` leave room for, or one.

    Args:
      function: from numbers of rows (b,) int32 and the length of the longest of them, () int32, to
        as many tensors (b, ...) as `empty` has.
      lengths: (R,) int32, tokens of each row.
      empty: (0, ...) each, what it says of no rows.

    Returns:
      (R, ...) each.
    """
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)  # (R,)
    sizes = tf.maximum(tf.gather(lengths, order), 1)

    def some(first, *before):
        longest = sizes[first]
        count = tf.maximum(tf.minimum(TOKENS, SQUARES // longest) // longest, 1)
        found = function(order[first : first + count], longest)
        return first + count, *(tf.concat(x, 0) for x in zip(before, found, strict=True))

    shapes = [tf.TensorShape([None, *x.shape[1:]]) for x in empty]
    _, *found = tf.while_loop(
        lambda first, *_: first < tf.size(order),
        some,
        (tf.constant(0), *empty),
        shape_invariants=(tf.TensorShape([]), *shapes),
        parallel_iterations=1,
    )
    places = tf.math.invert_permutation(order)
    return [tf.gather(x, places) for x in found]


def map_batch(
    function: Callable[..., Sequence[tf.Tensor]],
    batch: Mapping[str, tf.Tensor],
    empty: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """`map_rows` of a batch, as `preprocessing.batch` makes it: of tensors (R, T) by name.

    Args:
      function: takes the same of some rows, (b, t), t the longest of them.
      empty: see `map_rows`.
    """

    def some(rows, longest):
        return function(**{name: tf.gather(x, rows)[:, :longest] for name, x in batch.items()})

    lengths = tf.math.count_nonzero(batch["padding_mask"], axis=1, dtype=tf.int32)  # (R,)
    return map_rows(some, lengths, empty)
