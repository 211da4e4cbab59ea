"""Learns what a chat template does, from what it renders.

A template is a program, and a graph cannot run it. But what it writes between two messages nearly
always depends on the roles of these two alone: `Form` is that table. It is learned from short lists
of messages with known contents; whoever uses it compares it with the template on many more.
"""

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt_keras.chat import template as jinja

Border = str | None  # a role, or None for the beginning or the end of the list
Pair = tuple[Border, Border]  # of neighbours

_LONGEST = 4  # messages in a list to learn from
_PADDING = ("\t\n", " \t")  # around a content, to see whether it is stripped
_CLOCKS = (
    functools.partial(datetime.datetime, 2001, 2, 3, 4, 5, 6),
    functools.partial(datetime.datetime, 2034, 11, 12, 13, 14, 15),
)


@dataclasses.dataclass(frozen=True)
class Form:
    """A chat template as a table over neighbouring roles.

    In a pair, None as the first stands for the beginning of the list, and as the second for its
    end with the generation prompt.

    Attributes:
      roles: those the template takes.
      texts: what stands between the contents of two neighbours. A missing pair is refused.
      texts_before_blank: likewise, where the second content is blank and the text differs then.
      never_blank: pairs whose second content must not be blank, for the template does something
        then that is not of this form. Such messages are refused, though the template takes them.
      stripped_left: pairs whose second content loses its leading white space.
      stripped_right: pairs whose first content loses its trailing white space.
    """

    roles: tuple[str, ...]
    texts: Mapping[Pair, str]
    texts_before_blank: Mapping[Pair, str]
    never_blank: frozenset[Pair]
    stripped_left: frozenset[Pair]
    stripped_right: frozenset[Pair]

    def text(self, pair: Pair, blank: bool = False) -> str | None:
        """What stands between two neighbours, the second blank or not; None: refused."""
        if blank and pair in self.never_blank:
            return None
        if blank and pair in self.texts_before_blank:
            return self.texts_before_blank[pair]
        return self.texts.get(pair)

    def takes(self, roles: Sequence[str]) -> bool:
        """Whether messages of these roles are rendered, if none is blank."""
        return all(pair in self.texts for pair in pairs(roles))


def pairs(roles: Sequence[str]) -> Iterator[Pair]:
    """All neighbours in a list of messages, the two ends included."""
    return itertools.pairwise([None, *roles, None])


def learn(template: str, roles: Sequence[str], variables: Mapping[str, Any]) -> Form:
    """Learns the form of a template.

    Some templates do odd things with a system message that is not the first. If that is what keeps
    a template from having a form, it is given one that refuses such messages.

    Args:
      template: Jinja source.
      roles: what to try; those that the template never takes are left out of the form.
      variables: see `template.render`.

    Raises:
      ValueError: the template is not valid Jinja, takes no message, writes the date, or is not of
        this form; the message shows where.
    """
    sequences = [
        sequence
        for length in range(_LONGEST + 1)
        for sequence in itertools.product(roles, repeat=length)
    ]
    try:
        return _learn_from(sequences, template, variables)
    except ValueError:
        system_first = [sequence for sequence in sequences if "system" not in sequence[1:]]
        return _learn_from(system_first, template, variables)


def _learn_from(
    sequences: Sequence[Sequence[str]], template: str, variables: Mapping[str, Any]
) -> Form:
    learner, refused = _Learner(template, variables), {}
    for roles in sequences:
        try:
            learner.see(roles)
        except _NotTakenError as error:
            refused[roles] = error
    form = learner.form([roles[0] for roles in sequences if len(roles) == 1])
    if not form.roles:
        roles = next(roles for roles in sequences if roles)
        raise ValueError(
            f"The chat template cannot be compiled: it takes no messages, such as one of the role "
            f"{roles[0]!r}: {refused[roles]}"
        )
    for roles, error in refused.items():
        if form.takes(roles):
            raise ValueError(
                f"The chat template cannot be compiled: it does not take messages of the roles "
                f"{list(roles)} ({error}), though it takes each two that follow one another. "
                "Try fewer roles, such as roles=('user', 'assistant')."
            )
    return form


class _NotTakenError(Exception):
    """The template refuses the messages, or does not write each content once and in order."""


class _Learner:
    """What was seen of a template."""

    def __init__(self, template: str, variables: Mapping[str, Any]):
        self._templates = [jinja.compile_jinja(template, clock) for clock in _CLOCKS]
        self._variables = variables
        self._seen = {"texts": {}, "left": {}, "right": {}}
        self._before_blank, self._never_blank = {}, set()

    def see(self, roles: Sequence[str]) -> None:
        """Learns from messages of these roles."""
        names = [f"Content{i}Of{role.title()}" for i, role in enumerate(roles)]
        gaps = self._gaps(roles, names, names)
        before, after = _PADDING
        padded = self._gaps(roles, [before + name + after for name in names], names)
        for pair, gap, padded_gap in zip(pairs(roles), gaps, padded, strict=True):
            self._note("texts", pair, gap, roles)
            kept = {
                (right, left): (after * right) + gap + (before * left)
                for right in (False, pair[0] is not None)
                for left in (False, pair[1] is not None)
            }
            matching = [flags for flags, text in kept.items() if text == padded_gap]
            if len(matching) != 1:
                raise ValueError(
                    f"The chat template cannot be compiled: white space around the contents of "
                    f"messages of the roles {list(roles)} makes {padded_gap!r} of {gap!r}."
                )
            right, left = matching[0]
            if pair[0] is not None:
                self._note("right", pair, not right, roles)
            if pair[1] is not None:
                self._note("left", pair, not left, roles)
        for i in range(len(roles)):
            self._see_blank(roles, i, names, gaps)

    def _see_blank(self, roles, i, names, gaps) -> None:
        """Learns from the same messages where the i-th content is blank."""
        pair = list(pairs(roles))[i]
        before, after = names[:i], names[i + 1 :]
        try:
            whole = self._gaps(roles, [*before, "", *after], before + after)[i]
        except _NotTakenError:
            self._never_blank.add(pair)
            return
        text = whole.removesuffix(gaps[i + 1])
        known = self._before_blank.setdefault(pair, text)
        if known != text or not whole.endswith(gaps[i + 1]):
            self._never_blank.add(pair)

    def form(self, roles: Sequence[str]) -> Form:
        texts, left, right = (
            {pair: value for pair, (value, _) in seen.items()} for seen in self._seen.values()
        )
        blank = {p: text for p, text in self._before_blank.items() if p not in self._never_blank}
        taken = {role for pair in texts for role in pair}
        return Form(
            roles=tuple(role for role in roles if role in taken),
            texts=texts,
            texts_before_blank={p: text for p, text in blank.items() if text != texts[p]},
            never_blank=frozenset(self._never_blank),
            stripped_left=frozenset(pair for pair, strips in left.items() if strips),
            stripped_right=frozenset(pair for pair, strips in right.items() if strips),
        )

    def _gaps(self, roles, contents, names) -> list[str]:
        """What is rendered before, between and after the names, which are in the contents."""
        messages = [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=True)
        ]
        try:
            text, later = (
                jinja.run(compiled, messages, True, self._variables) for compiled in self._templates
            )
        except ValueError as error:
            raise _NotTakenError(str(error)) from error
        if text != later:
            raise ValueError(
                "The chat template cannot be compiled: it writes the date of the day (strftime_now)"
                ", which would stay what it is at export. Fix it with a variable of the template, "
                "such as date_string."
            )
        gaps = []
        for name in names:
            gap, found, text = text.partition(name)
            if not found:
                raise _NotTakenError(f"the content {name!r} is changed, or out of order: {text!r}")
            gaps.append(gap)
        gaps.append(text)
        if any(name in gap for name in names for gap in gaps):
            raise _NotTakenError(f"a content is repeated: {gaps}")
        return gaps

    def _note(self, kind: str, pair: Pair, value: str | bool, roles: Sequence[str]) -> None:
        known, where = self._seen[kind].setdefault(pair, (value, list(roles)))
        if known != value:
            what = {
                "texts": "the text between them",
                "left": "whether the second loses its leading white space",
                "right": "whether the first loses its trailing white space",
            }[kind]
            raise ValueError(
                f"The chat template cannot be compiled: for neighbours {pair} (None: the "
                f"beginning or the end), {what} depends on more than these two: {known!r} in "
                f"messages of the roles {where}, {value!r} in {list(roles)}."
            )
