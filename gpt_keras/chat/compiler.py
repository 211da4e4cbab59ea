"""Compiles a chat template to TensorFlow ops.

A server has no Jinja. The form of a template is learned from what it renders (`learn`), built from
core ops (`compiled`), and the two are compared on some hundreds of conversations before anyone
relies on it.
"""

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

_NUM_LONG = 200  # longer lists of messages to compare a template and its compiled form on
_CONTENTS = (
    "Hi", "", " ", "\n\n", "  two before", "three after   ", "\n\tboth\r\n", "a\n\nb", "None", "0",
    "&amp;<b>", "\u3000wide\xa0", "Grüße, 世界 👋🏽", "a\0b\x1f", "{{ x }}{% if %}",
    "\"it's\" \\n\\", "<think>a</think>b", "[1, 2]", '{"a": 1}', "\x85\u2028line\u2029",
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
    default system message where none is first, and the generation prompt. What it refuses for
    reasons of these two roles, such as turns that do not alternate, the graph refuses too. It also
    refuses what a template does something else with: unknown roles, and in some templates blank
    messages (`Form.never_blank`) or system messages that are not the first.

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
    control_tokens = tuple(control_tokens)
    compiled = CompiledTemplate(learn.learn(template, tuple(roles), variables), control_tokens)
    _verify(compiled, template, variables)
    return compiled


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


def _verify(compiled: CompiledTemplate, template: str, variables: Mapping[str, Any]) -> None:
    """Raises ValueError unless template and graph agree."""
    contents = [*_CONTENTS, *compiled.control_tokens, *_literals(template)]
    contents += [value for value in variables.values() if isinstance(value, str)]
    batch = _conversations(compiled.form, list(dict.fromkeys(contents)))
    batch = [messages for messages in batch if _is_taken(compiled.form, messages)]
    prompts = compiled(tf.constant([json.dumps(messages) for messages in batch])).numpy()
    for messages, prompt in zip(batch, prompts, strict=True):
        got = prompt.decode()
        try:
            expected = jinja.render(template, messages, **variables)
        except ValueError as error:
            raise ValueError(
                f"The chat template cannot be compiled: of {messages}, the compiled form makes "
                f"{got!r}, but: {error}"
            ) from error
        if got != expected:
            raise ValueError(
                f"The chat template cannot be compiled: of {messages}, it makes {expected!r}, but "
                f"the compiled form {got!r}."
            )


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
        strips = pairs[i] in form.stripped_left or pairs[i + 1] in form.stripped_right
        content = message["content"].strip() if strips else message["content"]
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


def _literals(template: str) -> list[str]:
    """The strings in a template: what it may look for in a content, and what it writes."""
    nodes = jinja.compile_jinja(template).environment.parse(template)
    texts = [node.data for node in nodes.find_all(jinja2.nodes.TemplateData)]
    texts += [n.value for n in nodes.find_all(jinja2.nodes.Const) if isinstance(n.value, str)]
    return texts
