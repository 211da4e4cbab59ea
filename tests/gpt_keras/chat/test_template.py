"""Templates rendered in Python; `test_oracle` compares with Hugging Face's own."""

import contextlib
import datetime

import pytest

from gpt_keras import chat
from gpt_keras.chat import template as jinja

HELLO = [{"role": "user", "content": "Hi"}]
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


def test_render(templates, variables):
    assert chat.render(templates["smollm2"], HELLO) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.render(templates["chatml"], HELLO, add_generation_prompt=False) == (
        "<|im_start|>user\nHi<|im_end|>\n"
    )
    assert chat.render(templates["llama2"], TURNS, **variables) == (
        "<s>[INST] Hi [/INST] Hello </s><s>[INST] Bye [/INST] See you </s>"
    )
    assert chat.render(templates["zephyr"], HELLO, **variables) == (
        "<|user|>\nHi</s>\n<|assistant|>\n"
    )


def test_what_transformers_offers_to_templates():
    template = (
        "{% for m in messages %}{% if m.content == 'Bye' %}{% break %}{% endif %}"
        "{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }};{% endfor %}"
        "{{ {'é': '<'} | tojson }}{{ strftime_now('%Y') }}{{ dict(a=1).a }}{{ tools is none }}"
    )
    year = datetime.datetime.now().year
    assert chat.render(template, TURNS) == f'Hi;Hello;{{"é": "<"}}{year}1True'
    namespace = "{% set ns = namespace(self=1) %}{% set ns.x = 2 %}{{ ns.self + ns.x }}"
    assert chat.render(namespace, HELLO) == "3"


def test_none_counts_as_absent():
    message = {"role": "assistant", "content": "Hi", "tool_calls": None}
    template = "{{ messages[0].tool_calls is defined }}"
    assert chat.render(template, [message]) == "False"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for %}", "is not valid Jinja: line 1"),
        ("a\n{{ x", "is not valid Jinja: line 2"),
        ("{{ raise_exception('roles must alternate') }}", "does not take .*: roles must alternate"),
        ("{{ messages[3].content + 1 }}", "does not take these messages"),
        ("{{ 'a' + 1 }}", "fails on these messages: TypeError"),
        ("{{ 1 / 0 }}", "fails on these messages: ZeroDivisionError"),
        ("{{ range(10 ** 9) | length }}", "fails on these messages: OverflowError"),
    ],
)
def test_bad_templates(template, error):
    with pytest.raises(ValueError, match=error):
        chat.render(template, HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ ''.__class__.__mro__[1] }}",
        "{{ dict.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace(__html__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ '{0.__class__}'.format(1) }}",
    ],
)
def test_sandbox(template):
    messages = [dict(HELLO[0])]
    with contextlib.suppress(ValueError):
        assert chat.render(template, messages) in ("", "None")
    assert messages == HELLO


def test_no_object_reaches_a_template():
    class Text(str):
        def secret(self):
            return "secret"

    with pytest.raises(ValueError, match="has no attribute 'secret'"):
        chat.render("{{ messages[0].content.secret() }}", [{"content": Text("x")}])
    with pytest.raises(ValueError, match="JSON values only"):
        chat.render("", [{"content": object()}])


@pytest.mark.parametrize("messages", ["Hi", ["Hi"], {"role": "user"}, 5, None])
def test_bad_messages(messages):
    with pytest.raises(ValueError, match=r"are a list of dicts like .*; got"):
        chat.render("", messages)


def test_segments(templates, variables):
    assert chat.render_segments(templates["chatml"], TURNS) == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hello<|im_end|>", True),
        ("\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", False),
        ("See you<|im_end|>", True),
        ("\n", False),
    ]
    assert chat.render_segments(templates["llama2"], TURNS, **variables) == [
        ("<s>[INST] Hi [/INST]", False),
        (" Hello </s>", True),
        ("<s>[INST] Bye [/INST]", False),
        (" See you </s>", True),
    ]
    assert chat.render_segments(templates["gemma2"], TURNS[:2], **variables) == [
        ("<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", False),
        ("Hello<end_of_turn>", True),
        ("\n", False),
    ]
    assert chat.render_segments(templates["chatml"], HELLO) == [
        ("<|im_start|>user\nHi<|im_end|>\n", False)
    ]


def test_segments_of_every_template(templates, name, variables):
    template = templates[name]
    turns = TURNS[:2] if name in ("phi3_5", "qwen3") else TURNS  # which rewrite earlier turns
    segments = chat.render_segments(template, turns, **variables)
    whole = chat.render(template, turns, add_generation_prompt=False, **variables)
    assert "".join(text for text, _ in segments) == whole
    targets = [text for text, is_target in segments if is_target]
    assert len(targets) == len(turns) // 2
    for target, message in zip(targets, turns[1::2], strict=True):
        assert message["content"] in target
        assert target != message["content"], "the end of the turn is to be learned"
        assert target == target.rstrip()
    # Each target begins where generation would.
    for i in range(1, len(turns), 2):
        prompt = chat.render(template, turns[:i], **variables)
        before = segments[: [text for text, _ in segments].index(targets[i // 2])]
        assert "".join(text for text, _ in before) == prompt


def test_white_space_of_a_content_belongs_to_the_target(templates):
    for content in ("", "\n", "a \n\n", "e", "\n<|im_end|>"):
        turns = [*HELLO, {"role": "assistant", "content": content}]
        segments = chat.render_segments(templates["chatml"], turns)
        assert segments[1:] == [(content + "<|im_end|>", True), ("\n", False)]
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    turns = [*HELLO, {"role": "assistant", "content": "a \n\n"}]
    assert chat.render_segments(bare, turns) == [("Hi", False), ("a \n\n", True)]


def test_segments_need_a_template_that_appends(templates, variables):
    forgets = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match=r"Cannot tell the assistant's turn \(message 1\)"):
        chat.render_segments(forgets, TURNS)
    with pytest.raises(ValueError, match=r"Cannot tell the assistant's turn \(message 1\)"):
        chat.render_segments(templates["phi3_5"], TURNS, **variables)  # ends a text, not a turn


def test_token_variables():
    class Tokenizer:
        bos_token_id, eos_token_id, pad_token_id, unk_token_id = 1, 2, None, None

        def id_to_token(self, token_id):
            return {1: "<s>", 2: "</s>"}[token_id]

    assert chat.token_variables(Tokenizer()) == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_template_is_compiled_once():
    assert jinja.compile_jinja("{{ x }}") is jinja.compile_jinja("{{ x }}")
