"""What normalizers do to each code point.

`unicode_data.json` was asked of Hugging Face `tokenizers` itself
(`python -m tests.golden.write_unicode_data`), because its normalizers follow the Unicode version
that they were built with, which is neither Python's nor ICU's.
"""

import functools
import json
import pathlib

FILE = pathlib.Path(__file__).with_name("unicode_data.json")
"""Normalization forms: https://www.unicode.org/reports/tr15/."""

_HANGUL = range(0xAC00, 0xAC00 + 11172)
_LEADING, _VOWEL, _TRAILING = 0x1100, 0x1161, 0x11A7


@functools.cache
def decompositions(compatibility: bool = False) -> dict[int, tuple[int, ...]]:
    """Code point -> its whole decomposition, canonical (NFD) or of compatibility (NFKD)."""
    table = {c: _decompose_hangul(c) for c in _HANGUL} | _mapping("decompositions")
    return table | _mapping("compatibility") if compatibility else table


@functools.cache
def compositions() -> dict[tuple[int, int], int]:
    """Pair of code points -> the one that NFC and NFKC write for them."""
    composites = [*map(ord, "".join(_read()["composites"])), *_HANGUL]
    whole = {c: decompositions()[c] for c in composites}
    by_whole = {text: c for c, text in whole.items()}
    return {
        (text[0] if len(text) == 2 else by_whole[text[:-1]], text[-1]): c
        for c, text in whole.items()
    }


@functools.cache
def combining_classes() -> dict[int, int]:
    """Code point -> canonical combining class, of those that are not 0."""
    return _numbers("combining_classes")


def lowercase() -> dict[int, tuple[int, ...]]:
    """Code point -> what it is in lower case."""
    return _mapping("lowercase")


def accents() -> set[int]:
    """What `StripAccents` takes away."""
    return set(_numbers("accents"))


def bert_cleaned() -> dict[int, tuple[int, ...]]:
    """What BERT's `clean_text` makes of white space and control characters."""
    return {c: (ord(" "),) if kind == 2 else () for c, kind in _numbers("bert_cleaned").items()}


def chinese() -> set[int]:
    """What BERT's `handle_chinese_chars` puts blanks around."""
    return set(_numbers("chinese"))


def bert_accents() -> set[int]:
    """What BERT's `strip_accents` takes away from decomposed text."""
    return set(_numbers("bert_accents"))


def bert_classes() -> dict[int, int]:
    """What `BertPreTokenizer` splits at: 1, white space, is dropped; 2, punctuation, is kept."""
    return _numbers("bert_classes")


def clusters() -> dict[int, int]:
    """Classes of `precompiled` that decide where a cluster of characters ends."""
    return _numbers("clusters")


def cases() -> dict[int, int]:
    """1 for upper case and title case, 2 for lower case, 3 for other letters, 4 for marks."""
    return _numbers("cases")


def word_chars() -> list[tuple[int, int]]:
    """First and last of each run of what Rust's `\\w` matches."""
    chars = sorted(_numbers("word"))
    firsts = [c for c, before in zip(chars, [-1, *chars], strict=False) if c != before + 1]
    lasts = [c for c, after in zip(chars, [*chars[1:], -1], strict=True) if c != after - 1]
    return list(zip(firsts, lasts, strict=True))


@functools.cache
def _read():
    return json.loads(FILE.read_text(encoding="utf-8"))


def _mapping(name):
    pairs = (entry.split("=") for entry in " ".join(_read()[name]).split())
    return {int(c, 16): tuple(int(x, 16) for x in text.split("+") if x) for c, text in pairs}


def _numbers(name):
    runs = (map(int, run.split()) for run in " ".join(_read()[name]).split(";"))
    return {c: number for first, length, number in runs for c in range(first, first + length)}


def _decompose_hangul(code_point):
    index = code_point - _HANGUL.start
    trailing = (_TRAILING + index % 28,) if index % 28 else ()
    return (_LEADING + index // 588, _VOWEL + index % 588 // 28, *trailing)
