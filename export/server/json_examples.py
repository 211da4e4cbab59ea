"""Classify and Regress in JSON.

Source: util/json_tensor.cc (FillClassifyRegressRequestFromJson and what follows).
"""

import numpy as np

from export import protocol
from export.server import errors, json_parser
from export.server.json_inputs import decode_base64, format_error, is_base64, type_name
from export.server.json_outputs import decimals
from export.server.json_writer import PrettyWriter, quoted

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_INT64, _UINT64 = range(-(2**63), 2**63), range(2**64)


def read_examples(found: dict, into: protocol.Input) -> None:
    """Fills in the examples of a request, and the context they share.

    Raises:
      ServingError: a value that is not an example.
    """
    target = into.example_list
    if "context" in found:
        target = into.example_list_with_context
        _read_example(found["context"], target.context)
    if "examples" not in found:
        raise format_error(
            found, "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(found["examples"], list):
        raise format_error(found, "Expecting 'examples' value to be an list/array")
    if not found["examples"]:
        raise format_error(found, "'examples' value is an empty array")
    for value in found["examples"]:
        _read_example(value, target.examples.add())


def write_classifications(result: protocol.ClassificationResult) -> str:
    """The answer to a Classify request: a list of (label, score) for each example."""
    if not result.classifications:
        raise errors.invalid_argument("Cannot convert empty ClassificationResults to JSON")
    writer = _start()
    for classifications in result.classifications:
        writer.single_line = True
        writer.start_array()
        scores = [entry.score for entry in classifications.classes]
        for entry, score in zip(classifications.classes, _decimals(scores), strict=True):
            writer.start_array()
            writer.raws([quoted(entry.label), score])
            writer.end_array()
        writer.end_array()
        writer.single_line = False
    return _finish(writer)


def write_regressions(result: protocol.RegressionResult) -> str:
    """The answer to a Regress request: a number for each example."""
    if not result.regressions:
        raise errors.invalid_argument("Cannot convert empty RegressionResults to JSON")
    writer = PrettyWriter()
    writer.start_object()
    writer.string("results")
    writer.single_line = True
    writer.start_array()
    writer.raws(_decimals([regression.value for regression in result.regressions]))
    return _finish(writer)


def _start() -> PrettyWriter:
    writer = PrettyWriter()
    writer.start_object()
    writer.string("results")
    writer.start_array()
    return writer


def _finish(writer: PrettyWriter) -> str:
    writer.end_array()
    writer.end_object()
    return writer.text()


def _decimals(values: list[float]) -> list[str]:
    return decimals(np.array(values, np.float32))


def _read_example(value, example: protocol.Example) -> None:
    if not isinstance(value, dict):
        raise errors.invalid_argument(
            f"Example must be JSON object but got JSON {type_name(value)}"
        )
    for key, content in value.items():
        name = json_parser.raw(key).decode("utf-8", "replace")
        feature = protocol.Feature()
        for element in content if isinstance(content, list) else [content]:
            _add(element, name, feature)
        example.features.feature[name].CopyFrom(feature)


def _add(value, name: str, feature: protocol.Feature) -> None:
    """A JSON number is an integer feature unless it has a point or an exponent."""
    if isinstance(value, str):
        _list(feature, "bytes_list", name).append(json_parser.raw(value))
    elif is_base64(value):
        _list(feature, "bytes_list", name).append(decode_base64(value))
    elif isinstance(value, bool):
        _list(feature, "int64_list", name).append(int(value))
    elif isinstance(value, float) or (isinstance(value, int) and not _is_integer(value)):
        with np.errstate(over="ignore"):  # beyond float32 is infinity
            _list(feature, "float_list", name).append(float(np.float32(value)))
    elif isinstance(value, int):
        values = _list(feature, "int64_list", name)
        if value not in _INT64:
            raise errors.invalid_argument(
                f"Feature: {name} has uint64_t element. Only int64_t is supported."
            )
        values.append(value)
    else:
        raise errors.invalid_argument(
            f"Feature: {name} has element with unexpected JSON type: {type_name(value)}"
        )


def _is_integer(value: int) -> bool:
    """Larger ones are doubles to RapidJSON."""
    return value in _INT64 or value in _UINT64


def _list(feature: protocol.Feature, kind: str, name: str):
    """The values of a feature, which must all be of one kind."""
    given = feature.WhichOneof("kind")
    if given not in (None, kind):
        raise errors.invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {_KINDS[given]}"
        )
    values = getattr(feature, kind)
    values.SetInParent()
    return values.value
