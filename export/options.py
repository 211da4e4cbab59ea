"""The options of a generation as inputs of a signature, checked and broadcast in the graph."""

import tensorflow as tf

from export import checks
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
    problems = [found for option in options for found in _problems(option, values, rows)]
    values = checks.guarded(problems, values)
    return GenerationOptions(**{k: tf.broadcast_to(v, [rows]) for k, v in values.items()})


def read_stop(texts, rows):
    """Stop strings of a request.

    Args:
      texts: (1,) or (rows,) string, a JSON array of strings for all rows or for each.
      rows: scalar int32 tensor.

    Returns:
      (rows, K) string, "" where a row has fewer than K. What is no such array, or has too many or
      too long strings, is an INVALID_ARGUMENT that names row and what was expected.
    """
    texts = checks.guarded([checks.wrong_length("stop", texts, rows)], texts)
    strings = chat.parse_strings(texts, "stop")  # (1 or rows, None)
    counts, sizes = strings.row_lengths(), tf.strings.length(strings.values)
    fits = (sizes >= 1) & (sizes <= stop_strings.LONGEST)
    wrong = tf.gather(sizes, tf.where(~fits)[:, 0])
    row_of_wrong = tf.boolean_mask(strings.value_rowids(), ~fits)
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


def _problems(option, values, rows):
    name, values = option.name, values[option.name]
    return [
        checks.wrong_length(name, values, rows),
        checks.bad_rows(option.allows(values), name, values, option.range_text()),
    ]
