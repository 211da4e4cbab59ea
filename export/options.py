"""The options of a generation as inputs of a signature, checked and broadcast in the graph."""

import tensorflow as tf

from export import checks
from export.requests import chosen
from gpt_keras import chat, stop_strings
from gpt_keras.generation import GenerationOptions
from gpt_keras.options import Option


def inputs(options: tuple[Option, ...]) -> dict[str, tf.Tensor]:
    """Name of each option -> its default, (1,)."""
    return {option.name: tf.constant([option.default], option.dtype) for option in options}


def read(options: tuple[Option, ...], values, rows) -> GenerationOptions:
    """Checked values of a request, broadcast to its rows.

    Args:
      options: as `gpt_keras.options.generation_options` gives them.
      values: name -> tensor, one value or one for each row.
      rows: scalar int32 tensor.

    Returns:
      GenerationOptions of (rows,) tensors. Values out of range, or of a wrong number, are an
      INVALID_ARGUMENT that names option, row, value and range.
    """
    values = {option.name: values[option.name] for option in options}
    values = checks.guarded([checks.wrong_length(values, rows)], values)
    values = {name: tf.broadcast_to(given, [rows]) for name, given in values.items()}
    good = tf.stack([option.allows(values[option.name]) for option in options])  # (o, rows)
    bad = tf.where(~good)  # (m, 2)
    which, row = tf.unstack(bad, axis=1)
    value = tf.gather_nd(tf.stack([checks.text(given) for given in values.values()]), bad)
    ranges = tf.gather([option.range_text() for option in options], which)
    name = tf.gather(list(values), which)
    problem = [name, " of row ", checks.text(row), " is ", value, ": expected ", ranges]
    return GenerationOptions(**checks.guarded([tf.strings.join(problem)], values))


def unasked(options: tuple[Option, ...], rows) -> GenerationOptions:
    """What `read` gives for a request of so many rows that asks for nothing."""
    return GenerationOptions(
        **{o.name: tf.fill([rows], tf.constant(o.default, o.dtype)) for o in options}
    )


def read_stop(texts, rows):
    """Stop strings of a request.

    Args:
      texts: (1,) or (rows,) string, a JSON array of strings for all rows or for each.
      rows: scalar int32 tensor.

    Returns:
      (rows, K) string, "" where a row has fewer than K. What is no such array, or has too many or
      too long strings, is an INVALID_ARGUMENT that names row and what was expected.
    """
    texts = checks.guarded([checks.wrong_length({"stop": texts}, rows)], texts)
    strings = chat.parse_strings(texts, "stop")  # (1 or rows, None)
    counts, sizes = strings.row_lengths(), tf.strings.length(strings.values)
    fits = (sizes >= 1) & (sizes <= stop_strings.LONGEST)
    wrong, row_of_wrong = (chosen(x, ~fits) for x in (sizes, strings.value_rowids()))
    expected = f": expected {stop_strings.EXPECTED}"
    problems = [
        checks.about_rows(
            counts > stop_strings.MOST,
            "stop",
            tf.strings.join([" has ", checks.text(counts), " strings", expected]),
        ),
        tf.strings.join(
            ["stop of row ", checks.text(row_of_wrong), " has a string of ", checks.text(wrong),
             " bytes", expected]
        ),
    ]  # fmt: skip
    strings = checks.guarded(problems, strings.to_tensor(""))
    return tf.broadcast_to(strings, [rows, tf.shape(strings)[1]])
