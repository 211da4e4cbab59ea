"""The JSON texts that a served model accepts, as regular expressions for `tf.strings` (RE2).

A text is seen as its skeleton: what stands outside its strings, with one symbol for each string.
Our forms nest to a fixed depth, so their skeletons are regular languages. Each rule knows both its
words and which texts can still grow into one: the longest such prefix of a malformed text is where
it goes wrong.
"""

import functools
from typing import NamedTuple

# Symbols for strings in a skeleton: control characters, since JSON has no use for them there.
STRING, ROLE, CONTENT, TYPE, TEXT, MALFORMED = "\x10", "\x11", "\x12", "\x13", "\x14", "\x15"
WORDS = {"role": ROLE, "content": CONTENT, "type": TYPE, "text": TEXT}

# Escaped backslashes and quotes inside strings are hidden as these before anything else is done.
HIDDEN_BACKSLASH, HIDDEN_QUOTE = "\x01\x01", "\x02\x02"

_HEX = "[0-9a-fA-F]"
_CHARACTER = (
    # Everything but control characters, " and \. The surrogates are left out by name because RE2
    # takes overlong forms and surrogates for characters inside a range that runs to 10FFFF.
    r"[\x20-\x21\x23-\x5b\x5d-\x{D7FF}\x{E000}-\x{10FFFF}]"
    rf"|{HIDDEN_BACKSLASH}|{HIDDEN_QUOTE}|\\[/bfnrt]"
    rf"|\\u[0-9a-cefA-CEF]{_HEX}{{3}}|\\u[dD][0-7]{_HEX}{{2}}"
    rf"|\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"  # a pair of surrogates
)
CHARACTERS = f"(?:{_CHARACTER})*"  # what stands between the quotes of a string


class Rule(NamedTuple):
    """A regular language and the language of all prefixes of its words."""

    full: str
    prefix: str


_SPACE = Rule("[ \\t\\n\\r]*", "[ \\t\\n\\r]*")


def _seq(*rules: Rule) -> Rule:
    # A prefix of AB is a prefix of A, or A followed by a prefix of B.
    prefix = rules[-1].prefix
    for rule in reversed(rules[:-1]):
        prefix = f"(?:{rule.prefix}|{rule.full}{prefix})"
    return Rule("".join(rule.full for rule in rules), prefix)


def _either(*rules: Rule) -> Rule:
    return Rule(*("(?:" + "|".join(column) + ")" for column in zip(*rules, strict=True)))


def _many(rule: Rule) -> Rule:
    return Rule(f"(?:{rule.full})*", f"(?:{rule.full})*{rule.prefix}")


def _token(symbols: str) -> Rule:
    """One of the symbols, and white space."""
    symbols = f"[\\{symbols}]"
    return _seq(Rule(symbols, f"{symbols}?"), _SPACE)


_ANY_STRING = _token(STRING + "".join(WORDS.values()))


def _member(key: str, value: Rule) -> Rule:
    return _seq(_token(key), _token(":"), value)


def _pair(first: Rule, second: Rule) -> Rule:
    """An object of exactly two members, in either order."""
    comma = _token(",")
    members = _either(_seq(first, comma, second), _seq(second, comma, first))
    return _seq(_token("{"), members, _token("}"))


def _array(item: Rule) -> Rule:
    end = _token("]")
    return _seq(_token("["), _either(end, _seq(item, _many(_seq(_token(","), item)), end)))


@functools.cache
def spans() -> Rule:
    """An array of arrays of two integers."""
    digits = "(?:0|[1-9][0-9]{0,8})"
    integer = _seq(Rule(digits, f"{digits}?"), _SPACE)
    return _seq(_SPACE, _array(_seq(_token("["), integer, _token(","), integer, _token("]"))))


@functools.cache
def strings() -> Rule:
    """An array of strings."""
    return _seq(_SPACE, _array(_ANY_STRING))


@functools.cache
def messages() -> Rule:
    """An array of `{"role": str, "content": str | [{"type": "text", "text": str}, ...]}`."""
    part = _pair(_member(TYPE, _token(TEXT)), _member(TEXT, _ANY_STRING))
    content = _member(CONTENT, _either(_ANY_STRING, _array(part)))
    return _seq(_SPACE, _array(_pair(_member(ROLE, _ANY_STRING), content)))
