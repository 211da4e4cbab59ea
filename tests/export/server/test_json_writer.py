"""The looks of the stock server's JSON."""

import math

import pytest

from export.server.json_writer import PrettyWriter, debug, quoted


def test_single_line_arrays_within_pretty_ones():
    writer = PrettyWriter()
    writer.start_object()
    writer.string("predictions")
    writer.start_array()
    for row in (["1", "2"], ["3"], []):
        writer.single_line = True
        writer.start_array()
        writer.raws(row)
        writer.end_array()
        writer.single_line = False
    writer.end_array()
    writer.string("empty")
    writer.start_object()
    writer.end_object()
    writer.end_object()
    assert writer.text() == ('{\n    "predictions": [[1, 2], [3], []\n    ],\n    "empty": {}\n}')


def test_pretty_arrays():
    writer = PrettyWriter()
    writer.start_array()
    writer.raw("1")
    writer.start_array()
    writer.raws(["2", "3"])
    writer.end_array()
    writer.end_array()
    assert writer.text() == "[\n    1,\n    [\n        2,\n        3\n    ]\n]"


def test_strings():
    assert quoted('a"\\/\n\x1b\x7fé') == '"a\\"\\\\/\\n\\u001B\x7fé"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1.0"), (-0.0, "-0.0"), (1.5e300, "1.5e300"), (1e21, "1e21"),
        (1e20, "100000000000000000000.0"), (0.001, "0.001"), (1.25e-5, "0.0000125"),
        (1e-7, "1e-7"), (1.25e-7, "1.25e-7"), (123.456, "123.456"),
        (2**64, "18446744073709552000.0"),
        (None, "null"), (True, "true"), (False, "false"), ("é", '"é"'),
        ([], "[]"), ({}, "{}"), ([1, [2, "x"]], '[1, [2, "x"]]'),
        ({"a": {"b": [1]}, "c": 2}, '{\n    "a": {\n        "b": [1]\n    },\n    "c": 2\n}'),
        ([1, math.nan, 2], "[1"),
    ],
)  # fmt: skip
def test_debug(value, text):
    assert debug(value) == text


def test_debug_is_cut():
    text = debug(list(range(1000)))
    assert 256 <= len(text) < 270
    assert text.startswith("[0, 1, 2, ")
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert debug(deep) == "[" * 256
