"""JSON documents: RapidJSON's reading of them, its messages and offsets."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.server import errors, json_parser


def carefully(data):
    """Reads with the parser that needs no stack, whatever the document."""
    return json_parser._Parser(data, 0).document()


@pytest.mark.parametrize("read", [json_parser.parse, carefully])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{}", {}),
        (b" [ ] ", []),
        (b'{"a":[1,-2.5,1e3,true,false,null,"x"]}', {"a": [1, -2.5, 1e3, True, False, None, "x"]}),
        (b'[[],{},[{"a":{}}]]', [[], {}, [{"a": {}}]]),
        (b'"\\u00e9\\ud83d\\ude00\\n\\/"', "é😀\n/"),
        (b'{"a":1} and the rest', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 1}),  # the first one is found
        (b"-0", 0),
        (b"18446744073709551616", 18446744073709551616),
        (b"[NaN,Infinity]", [math.nan, math.inf]),
        (b'"\xff"', b"\xff".decode("utf-8", "surrogateescape")),
    ],
)
def test_values(read, data, expected):
    assert repr(read(data)) == repr(expected)


def test_only_here():
    assert repr(json_parser.parse(b"[-NaN,Inf,-Inf]")) == "[nan, inf, -inf]"
    assert json_parser.parse(b"\xef\xbb\xbf[1]") == [1]
    assert json_parser.raw(json_parser.parse(b'"\\udc80"')) == b"\xed\xb2\x80"
    assert json_parser.raw(json_parser.parse(b'"a\xffb"')) == b"a\xffb"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The document is empty"),
        (b" ", "The document is empty. at offset: 1"),
        (b"]", "The document is empty. at offset: 0"),
        (b"instances = [1]", "Invalid value. at offset: 0"),
        (b"[", "Invalid value. at offset: 1"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b'{"a":}', "Invalid value. at offset: 5"),
        (b"[nul]", "Invalid value. at offset: 4"),
        (b"[Nax]", "Invalid value. at offset: 3"),
        (b"[Infinitx]", "Invalid value. at offset: 8"),
        (b"[-]", "Invalid value. at offset: 2"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1\x00]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{1:2}", "Missing a name for object member. at offset: 1"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1', "Missing a comma or '}' after an object member. at offset: 6"),
        (b'["abc', "Missing a closing quotation mark in string. at offset: 5"),
        (b'["\\x"]', "Invalid escape character in string. at offset: 2"),
        (b'["\n"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\u12"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e+]", "Miss exponent in number. at offset: 4"),
        (b"[1e400]", "Number too big to be stored in double. at offset: 1"),
        (b"[" + b"9" * 5000 + b"]", "Number too big to be stored in double. at offset: 1"),
        (b"[" * 200_000, "Invalid value. at offset: 200000"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_errors(data, message):
    with pytest.raises(errors.ServingError) as caught:
        json_parser.parse(data)
    assert str(caught.value) == f"INVALID_ARGUMENT: JSON Parse error: {message}"


def test_depth_is_no_limit():
    value = json_parser.parse(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    for _ in range(100_000):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
def test_both_parsers_agree(value, ascii_only):
    text = json.dumps({"": value}, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "surrogatepass")
    assert repr(carefully(data)) == repr(json_parser.parse(data))
    if ascii_only:
        assert json_parser.parse(data) == {"": value}


@given(st.text('[]{},:"\\u0deE1.-+tNI \n') | st.text())
def test_whatever_comes_is_read_or_refused(text):
    data = b'{"a":' + text.encode("utf-8", "surrogatepass")
    found = []
    for read in (json_parser.parse, carefully):
        try:
            found.append(repr(read(data)))
        except errors.ServingError as error:
            found.append(error.message)
    assert found[0] == found[1]
