"""JSON as the stock server writes it: RapidJSON's PrettyWriter, byte for byte."""

import math
import re
from collections.abc import Iterable

_INDENT = "    "
_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
            "\t": "\\t"}  # fmt: skip
_DEBUG_LIMIT = 256  # characters of a value in a message, about


class PrettyWriter:
    """Writes a document piece by piece.

    Attributes:
      single_line: elements of arrays go on one line. It may change between two values; what was
        open keeps only half of its habits, which is how the stock server's answers get their looks.
    """

    def __init__(self, single_line: bool = False):
        self.single_line = single_line
        self._pieces: list[str] = []
        self._levels: list[list] = []  # [is array, values so far] of each open container
        self.size = 0

    def text(self) -> str:
        return "".join(self._pieces)

    def start_object(self) -> None:
        self._prefix()
        self._put("{")
        self._levels.append([False, 0])

    def end_object(self) -> None:
        if self._levels.pop()[1]:
            self._new_line()
        self._put("}")

    def start_array(self) -> None:
        self._prefix()
        self._put("[")
        self._levels.append([True, 0])

    def end_array(self) -> None:
        if self._levels.pop()[1] and not self.single_line:
            self._new_line()
        self._put("]")

    def string(self, text: str) -> None:
        """A string, or the name of an object's next member."""
        self.raw(quoted(text))

    def raw(self, text: str) -> None:
        """A value that is JSON already."""
        self._prefix()
        self._put(text)

    def raws(self, texts: Iterable[str]) -> None:
        """All elements of an array that has just been started."""
        texts = list(texts)
        if texts:
            separator = ", " if self.single_line else ",\n" + _INDENT * len(self._levels)
            self.raw(separator.join(texts))

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self.size += len(text)

    def _new_line(self) -> None:
        self._put("\n" + _INDENT * len(self._levels))

    def _prefix(self) -> None:
        if not self._levels:
            return
        is_array, count = self._levels[-1]
        self._levels[-1][1] += 1
        if is_array:
            if count:
                self._put(", " if self.single_line else ",")
            if not self.single_line:
                self._new_line()
        elif count % 2:
            self._put(": ")
        else:
            self._put("," if count else "")
            self._new_line()


def quoted(text: str) -> str:
    """A string in quotes; bytes beyond ASCII stay as they are."""
    return f'"{_SPECIAL.sub(_escape, text)}"'


def debug(value) -> str:
    """A parsed value for a message: pretty, cut somewhere after 256 characters.

    Args:
      value: as `json_parser.parse` returns it, however deep.
    """
    writer = PrettyWriter(single_line=True)
    todo = [_events(value)]  # generators of the open containers
    while todo:
        for event in todo[-1]:
            if writer.size >= _DEBUG_LIMIT or event is None:
                return writer.text()
            if callable(event):
                event(writer)
            else:
                todo.append(event)
                break
        else:
            todo.pop()
    return writer.text()


def _events(value):
    """What writes a value: calls on a writer, and for the values inside of it, their events."""
    if isinstance(value, dict):
        yield PrettyWriter.start_object
        for name, member in value.items():
            yield lambda writer, name=name: writer.string(name)
            yield _events(member)
        yield PrettyWriter.end_object
    elif isinstance(value, list):
        yield PrettyWriter.start_array
        for element in value:
            yield _events(element)
        yield PrettyWriter.end_array
    elif isinstance(value, float) and not math.isfinite(value):
        yield None  # this writer has no word for it, and stops
    else:
        yield lambda writer: writer.raw(_scalar(value))


def _scalar(value) -> str:
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(value)
    return _double(float(value))


def _double(value: float) -> str:
    """The shortest decimal, with an exponent from 1e21 on and below 1e-6 (internal/dtoa.h)."""
    sign, digits, exponent = _decimal(value)
    point = len(digits) + exponent  # 10^(point-1) <= value < 10^point
    if exponent >= 0 and point <= 21:
        text = digits + "0" * exponent + ".0"
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1}"
    return sign + text


def _decimal(value: float) -> tuple[str, str, int]:
    """Sign, digits without zeros at the ends, and power of ten."""
    mantissa, _, power = f"{value!r}".lower().partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    digits, exponent = whole + fraction, int(power or 0) - len(fraction)
    stripped = digits.rstrip("0")
    exponent += len(digits) - len(stripped)
    return (sign, stripped.lstrip("0"), exponent) if stripped else (sign, "0", 0)


def _escape(match: re.Match) -> str:
    character = match[0]
    return _ESCAPES.get(character) or f"\\u{ord(character):04X}"
