"""Learns what a chat template does, from what it renders.

A template is a program, and a graph cannot run it. But what it writes between two messages nearly
always depends on the roles of these two alone: `Form` is that table. It is learned from short lists
of messages with known contents; whoever uses it compares it with the template on many more.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt_keras.chat import clock
from gpt_keras.chat import template as jinja

Border = str | None  # a role, or None for the beginning or the end of the list
Pair = tuple[Border, Border]  # of neighbours

_LONGEST = 4  # messages in a list to learn from
_PADDING = ("\n\t\n", " \t")  # around a content, to see whether it is stripped
_WITHOUT_NEWLINES = "\t\n"  # the first, without its leading newlines
THOUGHT = "</think>"  # ends what an assistant thinks before it answers


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
      newlines_left: pairs whose second content loses its leading newlines.
      stripped_right: pairs whose first content loses its trailing white space.
      without_thoughts: roles whose contents lose all up to the last `THOUGHT`, and whether they
        lose newlines after it too.
      words: role -> strings that its contents must not hold, for the template does something then
        that is not of this form.
    """

    roles: tuple[str, ...]
    texts: Mapping[Pair, str]
    texts_before_blank: Mapping[Pair, str]
    never_blank: frozenset[Pair]
    stripped_left: frozenset[Pair]
    newlines_left: frozenset[Pair]
    stripped_right: frozenset[Pair]
    without_thoughts: Mapping[str, bool]
    words: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def text(self, pair: Pair, blank: bool = False) -> str | None:
        """What stands between two neighbours, the second blank or not; None: refused."""
        if blank and pair in self.never_blank:
            return None
        if blank and pair in self.texts_before_blank:
            return self.texts_before_blank[pair]
        return self.texts.get(pair)

    def left_of(self, content: str, pair: Pair, following: Pair) -> str:
        """What the template writes of a content, by the pairs it is the second and the first of."""
        if pair[1] in self.without_thoughts and THOUGHT in content:
            content = content.rpartition(THOUGHT)[2]
            content = content.lstrip("\n") if self.without_thoughts[pair[1]] else content
        content = content.lstrip() if pair in self.stripped_left else content
        content = content.lstrip("\n") if pair in self.newlines_left else content
        return content.rstrip() if following in self.stripped_right else content

    def takes(self, roles: Sequence[str]) -> bool:
        """Whether messages of these roles are rendered, if none is blank."""
        return all(pair in self.texts for pair in pairs(roles))


def pairs(roles: Sequence[str]) -> Iterator[Pair]:
    """All neighbours in a list of messages, the two ends included."""
    return itertools.pairwise([None, *roles, None])


def plans(roles: Sequence[str]) -> Iterator[tuple[list[tuple[str, ...]], bool]]:
    """Lists of the roles of messages to learn from, the most first; whether they are the usual.

    Some templates do odd things with a system message that is not the first or with any, or with
    an assistant's that is the last. If that is what keeps a template from having a form, it may
    have one that refuses such messages; a system message is usually the first, if there is one.
    """
    every = [s for n in range(_LONGEST + 1) for s in itertools.product(roles, repeat=n)]
    system_first = [s for s in every if "system" not in s[1:]]
    without_system = [s for s in every if "system" not in s]
    yield every, True
    yield system_first, True
    yield [s for s in system_first if s[-1:] != ("assistant",)], False
    yield without_system, False
    yield [s for s in without_system if s[-1:] != ("assistant",)], False


def learn(
    template: str, sequences: Sequence[tuple[str, ...]], variables: Mapping[str, Any]
) -> Form:
    """Learns the form of a template.

    Args:
      template: Jinja source.
      sequences: roles of messages to try, see `plans`; roles that the template never takes are
        left out of the form.
      variables: see `template.render`.

    Raises:
      ValueError: the template is not valid Jinja, takes no message, or is not of this form; the
        message shows where.
    """
    learner, refused = _Learner(template, variables), {}
    for roles in sequences:
        try:
            learner.see(roles)
        except _NotTakenError as error:
            refused[roles] = error
    form = learner.form(list(dict.fromkeys(role for roles in sequences for role in roles)))
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
                f"{list(roles)} ({error}), though it takes each two that follow one another."
            )
    return form


class _NotTakenError(Exception):
    """The template refuses the messages, or does not write each content once and in order."""


class _Learner:
    """What was seen of a template."""

    def __init__(self, template: str, variables: Mapping[str, Any]):
        self._template = jinja.compile_jinja(template, clock.Marks)
        self._looks_for_thoughts = THOUGHT in template
        self._variables = variables
        self._seen = {"texts": {}, "left": {}, "newlines": {}, "right": {}, "thoughts": {}}
        self._before_blank, self._never_blank = {}, set()

    def see(self, roles: Sequence[str]) -> None:
        """Learns from messages of these roles."""
        names = [f"Content{i}Of{role.title()}" for i, role in enumerate(roles)]
        gaps = self._gaps(roles, names, names)
        before, after = _PADDING
        padded = self._gaps(roles, [before + name + after for name in names], names)
        for pair, gap, padded_gap in zip(pairs(roles), gaps, padded, strict=True):
            self._note("texts", pair, gap, roles)
            lefts = {"all": "", "newlines": _WITHOUT_NEWLINES, "none": before}  # what is stripped
            if pair[1] is None:
                lefts = {"none": ""}
            kept = {
                (right, left): (after * right) + gap + text
                for right in (False, pair[0] is not None)
                for left, text in lefts.items()
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
                self._note("left", pair, left == "all", roles)
                self._note("newlines", pair, left == "newlines", roles)
        for i in range(len(roles)):
            self._see_blank(roles, i, names, gaps)
            if self._looks_for_thoughts:
                self._see_thoughts(roles, i, names, gaps)

    def _see_thoughts(self, roles, i, names, gaps) -> None:
        """Learns from the same messages where the i-th content has thoughts before it."""
        thinking = [*names[:i], f"<think>a{THOUGHT}\n\t{names[i]}", *names[i + 1 :]]
        try:
            gap = self._gaps(roles, thinking, names)[i].removeprefix(gaps[i])
        except _NotTakenError:
            return
        lost = {"\n\t": "thoughts", "\t": "newlines", "": "newlines"}.get(gap, "nothing")
        self._note("thoughts", roles[i], lost, roles)

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
        texts, left, newlines, right, thoughts = (
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
            newlines_left=frozenset(pair for pair, strips in newlines.items() if strips),
            stripped_right=frozenset(pair for pair, strips in right.items() if strips),
            without_thoughts={
                role: lost == "newlines" for role, lost in thoughts.items() if lost != "nothing"
            },
        )

    def _gaps(self, roles, contents, names) -> list[str]:
        """What is rendered before, between and after the names, which are in the contents."""
        messages = [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=True)
        ]
        try:
            text = jinja.run(self._template, messages, True, self._variables)
        except ValueError as error:
            raise _NotTakenError(str(error)) from error
        clock.formats(text)  # refuses one that is not supported
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
                "newlines": "whether the second loses its leading newlines",
                "thoughts": f"what is left of a content with {THOUGHT}",
                "right": "whether the first loses its trailing white space",
            }[kind]
            raise ValueError(
                f"The chat template cannot be compiled: for neighbours {pair} (None: the "
                f"beginning or the end), {what} depends on more than these two: {known!r} in "
                f"messages of the roles {where}, {value!r} in {list(roles)}."
            )
