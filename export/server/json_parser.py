"""JSON as the stock server reads it: RapidJSON 1.1, iterative, NaN and Infinity, text after the
document ignored (util/json_tensor.cc, ParseJson).

Well-behaved documents go through Python's own parser, twenty times faster. What that one refuses,
or might understand otherwise (deep nesting, lone surrogates, huge numbers), is read by a parser
that needs no stack and whose messages and offsets are RapidJSON's.
"""

import json
import re

from export.server import errors

_SPACE = re.compile(rb"[ \n\r\t]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')  # of a string, up to something special
_DIGITS = re.compile(rb"[0-9]*")
_INTEGER = re.compile(rb"0|[1-9][0-9]*")
_HEX = re.compile(rb"[0-9A-Fa-f]{4}")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?(?![0-9.eE])")
_TRICKY = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{300}|[eE]\+?[0-9]{3}|\x00")
_ESCAPES = {
    ord(key): value
    for key, value in {
        '"': b'"', "/": b"/", "\\": b"\\", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r",
        "t": b"\t",
    }.items()
}  # fmt: skip


def parse(data: bytes):
    """The value of a JSON document. Strings that are not UTF-8 hold surrogate escapes, see `raw`.

    Raises:
      ServingError: INVALID_ARGUMENT, what is wrong and at which byte.
    """
    if not data:
        raise errors.invalid_argument("JSON Parse error: The document is empty")
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    begin = _SPACE.match(data, start).end()
    if data.startswith(b"{", begin) and not _TRICKY.search(data):
        try:
            return _DECODER.raw_decode(data[begin:].decode("utf-8", "surrogateescape"))[0]
        except (ValueError, RecursionError):
            pass
    return _Parser(data, start).document()


def raw(text: str) -> bytes:
    """The bytes that a string of a document stood for."""
    return text.encode("utf-8", "surrogateescape")


def _first_wins(pairs):
    """RapidJSON finds the first of two members of one name."""
    members = dict(pairs)
    if len(members) != len(pairs):
        for name, value in reversed(pairs):
            members[name] = value
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


class _Parser:
    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at

    def document(self):
        """Reads one value. The containers it is inside of are in a list, not on Python's stack."""
        outer = []  # (container, name of the member being read) from the outermost inwards
        while True:
            value, is_open = self._begin("Invalid value." if outer else "The document is empty.")
            if is_open:
                outer.append((value, self._name() if isinstance(value, dict) else None))
                continue
            while outer:
                container, name = outer.pop()
                if isinstance(container, dict):
                    container.setdefault(name, value)
                else:
                    container.append(value)
                if self._another(container):
                    outer.append((container, self._name() if name is not None else None))
                    break
                value = container
            else:
                return value

    def _begin(self, complaint: str):
        """The scalar or container that comes next, and whether a container has contents."""
        byte = self._token()
        if byte in (b"[", b"{"):
            self._at += 1
            container, end = ([], b"]") if byte == b"[" else ({}, b"}")
            is_open = self._token() != end
            self._at += not is_open
            return container, is_open
        if not byte or byte in b"]},:":
            raise self._error(complaint)
        return self._scalar(byte), False

    def _name(self) -> str:
        """The name of an object's next member, and the colon after it."""
        if self._token() != b'"':
            raise self._error("Missing a name for object member.")
        name = self._string()
        if self._token() != b":":
            raise self._error("Missing a colon after a name of object member.")
        self._at += 1
        return name

    def _another(self, container) -> bool:
        """Goes past a comma (True) or the end of the container."""
        byte, is_object = self._token(), isinstance(container, dict)
        if byte not in (b",", b"}" if is_object else b"]"):
            raise self._error(
                "Missing a comma or '}' after an object member."
                if is_object
                else "Missing a comma or ']' after an array element."
            )
        self._at += 1
        return byte == b","

    def _token(self) -> bytes:
        """The next byte that is not white space."""
        self._at = _SPACE.match(self._data, self._at).end()
        return self._peek()

    def _peek(self) -> bytes:
        """The next byte; empty at the end, which a NUL is too."""
        byte = self._data[self._at : self._at + 1]
        return b"" if byte == b"\0" else byte

    def _error(self, message: str, at: int | None = None) -> errors.ServingError:
        at = self._at if at is None else at
        return errors.invalid_argument(f"JSON Parse error: {message} at offset: {at}")

    def _consume(self, text: bytes) -> bool:
        """Goes past as much of `text` as is there; True if all of it is."""
        for byte in text:
            if self._data[self._at : self._at + 1] != bytes([byte]):
                return False
            self._at += 1
        return True

    def _scalar(self, byte: bytes):
        if byte == b'"':
            return self._string()
        words = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
        if byte in words:
            word, value = words[byte]
            if not self._consume(word):
                raise self._error("Invalid value.")
            return value
        return self._number()

    def _number(self) -> int | float:
        if match := _NUMBER.match(self._data, self._at):  # nothing special about it
            self._at = match.end()
            return float(match[0]) if match[1] else int(match[0])
        start = self._at
        minus = self._consume(b"-")
        if self._peek() in (b"N", b"I"):
            return self._constant(-1 if minus else 1)
        match = _INTEGER.match(self._data, self._at)
        if match is None:
            raise self._error("Invalid value.")
        self._at = match.end()
        whole, fraction, exponent = match[0], b"", None
        if self._consume(b"."):
            fraction = self._digits("Miss fraction part in number.")
        if self._peek() in (b"e", b"E"):
            self._at += 1
            sign = self._peek() if self._peek() in (b"+", b"-") else b""
            self._at += len(sign)
            exponent = int(sign + self._digits("Miss exponent in number.")[:9])
        too_long = len(whole) > 308 and int(whole[:310][:-1]) >= 17976931348623157 * 10**291
        if too_long or (exponent or 0) > 308 + len(fraction):
            raise self._error("Number too big to be stored in double.", start)
        if not fraction and exponent is None:
            return int(self._data[start : self._at])
        return float(self._data[start : self._at])

    def _digits(self, message: str) -> bytes:
        match = _DIGITS.match(self._data, self._at)
        if not match[0]:
            raise self._error(message)
        self._at = match.end()
        return match[0]

    def _constant(self, sign: int) -> float:
        if self._peek() == b"N":
            good, value = self._consume(b"NaN"), float("nan")
        else:
            good, value = self._consume(b"Inf"), float("inf")
            if good and self._peek() == b"i":
                good = self._consume(b"inity")
        if not good:
            raise self._error("Invalid value.")
        return sign * value

    def _string(self) -> str:
        self._at += 1
        pieces = []
        while True:
            match = _PLAIN.match(self._data, self._at)
            pieces.append(match[0])
            self._at = match.end()
            byte = self._peek()
            if byte == b'"':
                self._at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if byte == b"\\":
                pieces.append(self._escape())
            elif byte:
                raise self._error("Invalid escape character in string.")
            else:
                raise self._error("Missing a closing quotation mark in string.")

    def _escape(self) -> bytes:
        start = self._at
        letter = self._data[start + 1 : start + 2]
        if letter == b"u":
            self._at += 2
            return self._code_point(start)
        if not letter or letter[0] not in _ESCAPES:
            raise self._error("Invalid escape character in string.", start)
        self._at += 2
        return _ESCAPES[letter[0]]

    def _code_point(self, start: int) -> bytes:
        code = self._hex(start)
        if 0xD800 <= code <= 0xDBFF:
            low = self._hex(start) if self._consume(b"\\u") else 0
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10 | low - 0xDC00)
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex(self, start: int) -> int:
        match = _HEX.match(self._data, self._at)
        if match is None:
            raise self._error("Incorrect hex digit after \\u escape in string.", start)
        self._at = match.end()
        return int(match[0], 16)
