"""Compiles a chat template to TensorFlow ops.

A server has no Jinja. The form of a template is learned from what it renders (`learn`), built from
core ops (`compiled`), and the two are compared on some hundreds of conversations before anyone
relies on it.
"""

import calendar
import dataclasses
import datetime
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2.nodes
import tensorflow as tf

from gpt_keras.chat import learn
from gpt_keras.chat import template as jinja
from gpt_keras.chat.compiled import CompiledTemplate

_MOMENTS = (
    datetime.datetime(2004, 2, 29, 4, 5, 6),
    datetime.datetime(2033, 12, 3, 23, 14, 15),
)
_MAX_WORDS = 8  # that contents of a role must not hold
_NUM_LONG = 200  # longer lists of messages to compare a template and its compiled form on
_CONTENTS = (
    "Hi", "", " ", "\n\n", "  two before", "three after   ", "\n\tboth\r\n", "a\n\nb", "None", "0",
    "&amp;<b>", "\u3000wide\xa0", "Grüße, 世界 👋🏽", "a\0b\x1f", "{{ x }}{% if %}",
    "\"it's\" \\n\\", "<think>a</think>b", "[1, 2]", '{"a": 1}',
    "<think>\na\n</think>\n\n b", "</think>", "a</think>b</think>\tc", "\x85\u2028line\u2029",
    "ﬁ İSTANBUL",
)  # fmt: skip


def compile_template(
    template: str,
    *,
    roles: Sequence[str] = ("system", "user", "assistant"),
    control_tokens: Iterable[str] = (),
    **variables: Any,
) -> CompiledTemplate:
    """Compiles a chat template to TensorFlow ops.

    What can be compiled: a template that writes every content once and in order, stripped or not,
    with texts in between that depend on the roles before and after alone, such as headers, a
    default system message where none is first, and the generation prompt; dates of the day
    (strftime_now), which the graph writes in UTC; and one that leaves out what an assistant
    thought before it answered. What it refuses for reasons of these two roles, such as turns that
    do not alternate, the graph refuses too. It also refuses what a template does something else
    with: unknown roles, and in some templates blank messages (`Form.never_blank`), contents that
    hold words which the template looks for (`Form.words`), system messages, or such that are not
    the first, and an assistant's message that is the last. `CompiledTemplate.refuses` tells why.

    Args:
      template: a Jinja chat template.
      roles: what messages may have; a role that the template never takes is dropped.
      control_tokens: strings that become tokens of their own when the template writes them, but
        stay text in the content of a message; see `CompiledTemplate.encode`.
      **variables: see `template.render`.

    Raises:
      ValueError: the template is not valid Jinja, or does more than can be compiled; the message
        holds the first example that differs.
    """
    refusal = None
    for sequences, is_known in learn.plans(tuple(roles)):
        try:
            form = learn.learn(template, sequences, variables)
            compiled = CompiledTemplate(form, tuple(control_tokens))
            form = _verify(compiled, template, variables)
        except ValueError as error:
            refusal = refusal or error
        else:
            refuses = "" if is_known else str(refusal)
            return dataclasses.replace(compiled, form=form, refuses=refuses)
    raise refusal


def compile_for(tokenizer, **options: Any) -> CompiledTemplate:
    """`compile_template` for the template and the special tokens of a tokenizer.

    Raises:
      ValueError: as `compile_template`, or the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError("The tokenizer has no chat_template: add one to tokenizer_config.json")
    options = {
        "control_tokens": tokenizer.special_tokens,
        **jinja.token_variables(tokenizer),
        **options,
    }
    return compile_template(tokenizer.chat_template, **options)


def _verify(compiled: CompiledTemplate, template: str, variables: Mapping[str, Any]) -> learn.Form:
    """The form with its words; raises ValueError unless template and graph agree."""
    looked_for, refused = _literals(template)
    contents = [*_CONTENTS, *compiled.control_tokens, *looked_for]
    contents += [value for value in variables.values() if isinstance(value, str)]
    batch = _conversations(compiled.form, list(dict.fromkeys(contents)))
    batch = [messages for messages in batch if _is_taken(compiled.form, messages)]
    texts = tf.constant([json.dumps(messages) for messages in batch])
    problems = []  # and the messages
    for moment in _MOMENTS if "strftime_now" in template else _MOMENTS[:1]:
        seconds = tf.constant(calendar.timegm(moment.timetuple()), tf.float64)
        prompts = dataclasses.replace(compiled, now=lambda s=seconds: s)(texts).numpy()
        clock = jinja.compile_jinja(template, _Clock(moment))
        for messages, prompt in zip(batch, prompts, strict=True):
            if problem := _difference(clock, messages, prompt.decode(), variables):
                problems.append((problem, messages))
    words = {role: set(refused) for role in compiled.form.roles}
    for _, messages in problems:
        said = [(m["role"], m["content"]) for m in messages if m["content"] != _CONTENTS[0]]
        for role, content in said if len(said) == 1 else ():  # no other can be to blame
            if content in looked_for and not content.isalnum():  # plain words are in many texts
                words[role].add(content)
    words = {
        role: tuple(sorted(w for w in found if not any(v in w for v in found - {w})))
        for role, found in words.items()
        if found
    }
    for problem, messages in problems:
        if not _holds(messages, words) or max(map(len, words.values())) > _MAX_WORDS:
            raise ValueError(problem)
    return dataclasses.replace(compiled.form, words=words)


@dataclasses.dataclass(frozen=True)
class _Clock:
    """A clock that stands still."""

    moment: datetime.datetime

    def __call__(self) -> datetime.datetime:
        return self.moment


def _difference(compiled, messages, got: str, variables) -> str:
    """What is wrong with a prompt; "" where it is what the template makes."""
    start = f"The chat template cannot be compiled: of {messages}, "
    try:
        expected = jinja.run(compiled, messages, True, variables)
    except ValueError as error:
        return f"{start}the compiled form makes {got!r}, but: {error}"
    if got == expected:
        return ""
    return f"{start}it makes {expected!r}, but the compiled form {got!r}."


def _holds(messages: Sequence[dict], words: Mapping[str, Sequence[str]]) -> bool:
    """Whether a content holds a word that its role must not have."""
    return any(word in m["content"] for m in messages for word in words.get(m["role"], ()))


def _conversations(form: learn.Form, contents: Sequence[str]) -> Iterator[list[dict]]:
    """Lists of messages that the form takes: each content in each role, and longer lists."""
    for length in (0, 1, 2):
        for roles in itertools.product(form.roles, repeat=length):
            for content in contents:
                yield _messages(roles, [content] * length)
                for place in range(length):
                    said = ["Hi"] * length
                    said[place] = content
                    yield _messages(roles, said)
    dice = random.Random(0)
    for _ in range(_NUM_LONG):
        roles = _walk(form, dice)
        yield _messages(roles, dice.choices(contents, k=len(roles)))


def _is_taken(form: learn.Form, messages: Sequence[dict]) -> bool:
    pairs = list(learn.pairs([message["role"] for message in messages]))
    for i, message in enumerate(messages):
        content = form.left_of(message["content"], pairs[i], pairs[i + 1])
        if form.text(pairs[i], blank=not content) is None:
            return False
    return form.text(pairs[-1]) is not None


def _messages(roles: Sequence[str], contents: Sequence[str]) -> list[dict]:
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]


def _walk(form: learn.Form, dice: random.Random) -> list[str]:
    """The roles of a random list of messages that the form takes."""
    roles = []
    while True:
        following = [role for first, role in form.texts if first == (roles or [None])[-1]]
        role = dice.choice(following)
        if role is None and (len(roles) >= 5 or following == [None]):
            return roles
        if role is not None:
            roles.append(role)


def _literals(template: str) -> tuple[list[str], list[str]]:
    """The strings in a template: those it writes or looks for, and those of its `startswith`.

    What follows from how a content begins may show in other messages alone, so such contents are
    refused unseen.
    """
    nodes = jinja.compile_jinja(template).environment.parse(template)
    texts = [node.data for node in nodes.find_all(jinja2.nodes.TemplateData)]
    texts += [n.value for n in nodes.find_all(jinja2.nodes.Const) if isinstance(n.value, str)]
    begins = [
        argument.value
        for call in nodes.find_all(jinja2.nodes.Call)
        if isinstance(call.node, jinja2.nodes.Getattr) and call.node.attr == "startswith"
        for argument in call.args
        if isinstance(argument, jinja2.nodes.Const) and isinstance(argument.value, str)
        if not argument.value.isalnum()  # as names of roles are
    ]
    texts = [text for text in texts if text.strip()]
    return list(dict.fromkeys(texts)), list(dict.fromkeys(begins))
