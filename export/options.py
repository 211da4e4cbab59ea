"""The options of a generation as inputs of a signature, checked and broadcast in the graph."""

import tensorflow as tf

from export import checks
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


def _problems(option, values, rows):
    name, values = option.name, values[option.name]
    return [
        checks.wrong_length(name, values, rows),
        checks.bad_rows(option.allows(values), name, values, option.range_text()),
    ]
