"""Chat templates rendered in Python, as Hugging Face renders them.

A chat template is a Jinja program that comes with a model, written by strangers: it runs in Jinja's
immutable sandbox and sees nothing but plain JSON data.
Reference: `transformers` 5.23, `utils/chat_template_utils.py`.
"""

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

Message = dict[str, Any]


def render(
    template: str,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """Renders messages as the text the model was trained on.

    Args:
      template: a Jinja chat template, as in `tokenizer_config.json`.
      messages: like `[{"role": "user", "content": "Hi"}]`; keys whose value is None count as
          absent, other keys reach the template as they are.
      add_generation_prompt: end with what opens the assistant's turn.
      **variables: what else the template uses: `bos_token`, `eos_token`, `date_string`, ...

    Returns:
      The text. Its special tokens are written out; tokenize it without adding more.

    Raises:
      ValueError: the template is not valid Jinja, fails on these messages or refuses them, or
          the messages are not a list of dicts of JSON values.
    """
    return run(compile_jinja(template), messages, add_generation_prompt, variables)


def render_segments(
    template: str, messages: Sequence[Message], **variables: Any
) -> list[tuple[str, bool]]:
    """Renders messages for training, cut at the borders of the assistant's turns.

    A turn that is a target begins where the generation prompt ends and includes the end-of-turn
    token, but not white space that follows it. Tokenize the segments one by one: generation starts
    at the same border, so the model sees the same tokens in training and in use.

    Args:
      template: see `render`.
      messages: see `render`.
      **variables: see `render`.

    Returns:
      Segments (text, is_target) that alternate in is_target and join to the rendered text.

    Raises:
      ValueError: as `render`, or the template rewrites earlier turns once others follow, so that
          no part of the text is what the model would have to write.
    """
    whole = render(template, messages, add_generation_prompt=False, **variables)
    segments, end = [], 0
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        prompt = render(template, messages[:i], add_generation_prompt=True, **variables)
        through = render(template, messages[: i + 1], add_generation_prompt=False, **variables)
        if not (through.startswith(prompt) and whole.startswith(through)):
            raise ValueError(
                f"Cannot tell the assistant's turn (message {i}) from its context: the chat "
                "template renders that turn, or what comes before it, in another way once more "
                "messages follow. Use a template that only appends, or end with this turn."
            )
        turn = through[len(prompt) :]
        # The turn ends with its end-of-turn token. White space belongs to it only as content.
        content = message.get("content")
        least = turn.find(content) + len(content) if isinstance(content, str) else 0
        turn = turn[: max(len(turn.rstrip()), least)]
        segments += [(whole[end : len(prompt)], False), (turn, True)]
        end = len(prompt) + len(turn)
    segments.append((whole[end:], False))
    return [(text, is_target) for text, is_target in segments if text]


def token_variables(tokenizer) -> dict[str, str]:
    """The special tokens of a tokenizer under the names that templates know: `eos_token`, ..."""
    tokens = {
        f"{name}_token": getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad", "unk")
    }
    return {name: tokenizer.id_to_token(i) for name, i in tokens.items() if i is not None}


def run(
    compiled: jinja2.Template,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
    """`render` for a compiled template."""
    data = {"tools": None, "documents": None, **variables}
    data |= {"messages": _plain(messages), "add_generation_prompt": add_generation_prompt}
    try:
        return compiled.render(data)
    except jinja2.TemplateError as error:
        raise ValueError(f"The chat template does not take these messages: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"The chat template fails on these messages: {type(error).__name__}: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def compile_jinja(
    template: str, now: Callable[[], datetime.datetime] = datetime.datetime.now
) -> jinja2.Template:
    """Compiles a chat template in its sandbox; `now` is the clock behind `strftime_now`."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: now().strftime(form),
        # In place of Jinja's own: nothing whose attributes lead out of the sandbox.
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _Namespace,
    }
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"The chat template is not valid Jinja: line {error.lineno}: {error.message}"
        ) from error


def _plain(messages: Sequence[Message]) -> list[Message]:
    """The messages rebuilt from JSON types alone: objects could lead out of the sandbox."""
    if not (
        isinstance(messages, Sequence) and all(isinstance(message, dict) for message in messages)
    ):
        raise ValueError(
            f"Chat messages are a list of dicts like {{'role': 'user', 'content': 'Hi'}}; got"
            f" {messages!r:.200}"
        )
    try:
        plain = json.loads(json.dumps(list(messages)))
    except TypeError as error:
        raise ValueError(f"Chat messages hold JSON values only: {error}") from error
    return [{k: v for k, v in message.items() if v is not None} for message in plain]


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: marks the assistant's text; renders its body."""

    tags = frozenset({"generation"})

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without dunder attributes, which Python would call outside the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be a variable of the template
        for name in dict(*args[1:], **kwargs):
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.sandbox.SecurityError(
                f"a namespace cannot hold {name!r}: names with a leading underscore are not allowed"
            )
