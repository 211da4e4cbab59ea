"""Tagging schemes: how the tags of words say where a span begins and ends.

Ramshaw & Marcus, 1995, https://arxiv.org/abs/cmp-lg/9505040, for BIO.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

OUTSIDE = "O"


class Scheme(NamedTuple):
    """What stands before the label in the tag of a word: of the first one of a span, of one inside,
    of the last one, and of the only one."""

    begin: str
    inside: str
    end: str
    single: str

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(self))


class Span(NamedTuple):
    """Words `start` to `end`, not included, that have a label together."""

    start: int
    end: int
    label: str


SCHEMES: dict[str, Scheme | None] = {
    "BIO": Scheme("B", "I", "I", "B"),
    "BMES": Scheme("B", "M", "E", "S"),
    "BIOES": Scheme("B", "I", "E", "S"),
    "plain": None,
}
"""By name; `plain` tags, such as parts of speech, are labels, and each word is a span."""


def parts(tag: str, scheme: Scheme | None) -> tuple[str, str]:
    """Prefix and label of a tag; ("", "") of one that is outside of all spans.

    Raises:
      ValueError: no tag of this scheme.
    """
    if scheme is None:
        return "", tag
    prefix, _, label = tag.partition("-")
    if tag == OUTSIDE:
        return "", ""
    if prefix not in scheme.prefixes or not label:
        raise ValueError(
            f"tag {tag!r}: expected {OUTSIDE}, or one of {', '.join(scheme.prefixes)} with -LABEL"
        )
    return prefix, label


def names(labels: Iterable[str], scheme: Scheme | None) -> tuple[str, ...]:
    """All tags of the labels."""
    labels = sorted(set(labels))
    if scheme is None:
        return tuple(labels)
    return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in scheme.prefixes))


def tags_of(spans: Iterable[Span], count: int, scheme: Scheme | None) -> list[str]:
    """Tags of `count` words in which these spans are, none over another."""
    tags = [OUTSIDE] * count
    for start, end, label in spans:
        if scheme is None:
            tags[start:end] = [label] * (end - start)
        elif end - start == 1:
            tags[start] = f"{scheme.single}-{label}"
        else:
            middle = [f"{scheme.inside}-{label}"] * (end - start - 2)
            tags[start:end] = [f"{scheme.begin}-{label}", *middle, f"{scheme.end}-{label}"]
    return tags


def spans_of(tags: Sequence[str], scheme: Scheme | None) -> list[Span]:
    """The spans that tags describe; what is against the scheme describes none.

    The same as `seqeval` in its strict mode (https://github.com/chakki-works/seqeval).
    """
    split = [parts(tag, scheme) for tag in tags]
    if scheme is None:
        return [Span(i, i + 1, label) for i, (_, label) in enumerate(split)]
    spans, i = [], 0
    while i < len(split):
        prefix, label = split[i]
        start, i = i, i + 1
        if prefix not in (scheme.begin, scheme.single):
            continue
        if prefix == scheme.begin:
            while i < len(split) and _goes_on(split[i - 1], split[i], scheme):
                i += 1
        if split[i - 1][0] in (scheme.end, scheme.single):
            spans.append(Span(start, i, label))
    return spans


def scheme_of(tags: Iterable[str]) -> Scheme | None:
    """The first scheme that all these tags are of; None if they are plain labels."""
    tags = set(tags)
    for scheme in filter(None, SCHEMES.values()):
        prefixes = tuple(f"{prefix}-" for prefix in scheme.prefixes)
        if all(tag == OUTSIDE or tag.startswith(prefixes) for tag in tags):
            return scheme
    return None


class Rules(NamedTuple):
    """Which tags may stand where, as `legal` gives them.

    Attributes:
      first, last: (C,) bool, at the beginning and at the end of a text.
      moves: (C, C) bool, one (row) before another (column).
      begins: (C,) bool, tags that begin a span.
      inside: (C,) bool, tags that are in a span.
      labels: of the spans, in order.
      label_ids: (C,) int32, which of them each tag has; 0 for one outside.
    """

    first: np.ndarray
    last: np.ndarray
    moves: np.ndarray
    begins: np.ndarray
    inside: np.ndarray
    labels: tuple[str, ...]
    label_ids: np.ndarray


def legal(tags: Sequence[str], scheme: Scheme | None) -> Rules:
    """The rules of a scheme for these tags.

    Raises:
      ValueError: a tag that is none of the scheme.
    """
    split = [parts(tag, scheme) for tag in tags]
    labels = tuple(dict.fromkeys(label for _, label in split if label))
    label_ids = np.array([labels.index(label) if label else 0 for _, label in split], np.int32)
    inside = np.array([bool(label) for _, label in split])
    if scheme is None:
        every = np.ones(len(tags), bool)
        return Rules(every, every, np.outer(every, every), every, inside, labels, label_ids)
    begins = np.array([prefix in (scheme.begin, scheme.single) for prefix, _ in split])
    ends = np.array([prefix in ("", scheme.end, scheme.single) for prefix, _ in split])
    moves = np.array(
        [
            [_goes_on(a, b, scheme) or (ends[i] and (begins[j] or not b[1]))
             for j, b in enumerate(split)]
            for i, a in enumerate(split)
        ]
    )  # fmt: skip
    return Rules(begins | ~inside, ends, moves, begins, inside, labels, label_ids)


def _goes_on(before, after, scheme):
    """Whether a span goes on from one (prefix, label) to the next."""
    return (
        before[0] in (scheme.begin, scheme.inside)
        and after[0] in (scheme.inside, scheme.end)
        and before[1] == after[1]
    )
