"""Chat templates compiled: what fits, what does not, and that both agree."""

import json

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_keras import chat

CONTENTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(" \t\n\r\x0b\x1c\x85\xa0\u3000\u2028x", max_size=4),
    st.sampled_from(["", "<|im_end|>", "[INST]", "<<SYS>>\n", "</s>", "<|user|>\n", "{{ x }}"]),
)
REFUSE_NO_MORE_THAN_JINJA = ("smollm2", "chatml", "llama3", "zephyr", "mistral", "gemma2")
CONVERSATIONS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENTS}
    ),
    max_size=7,
)


def alternating(contents, system):
    """Messages in an order that every template takes."""
    roles = ["system"] * system + ["user", "assistant"] * len(contents)
    return [
        {"role": role, "content": content}
        for role, content in zip(roles, contents, strict=False)
        if role != "system" or content
    ]


def prompt_of(compiled, messages):
    return compiled(tf.constant([json.dumps(messages)])).numpy()[0].decode()


@pytest.fixture(scope="module")
def functions(templates, name, variables, compile_named):
    """Jinja's and the graph's function from messages to a prompt, or None if they are refused."""
    compiled = compile_named(name)
    texts = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(compiled.__call__, input_signature=texts, autograph=False)

    def expected(messages):
        try:
            return chat.render(templates[name], messages, **variables)
        except ValueError:
            return None

    def got(messages):
        try:
            return prompt_of(graph, messages)
        except tf.errors.InvalidArgumentError:
            return None

    return expected, got


QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(contents=st.lists(CONTENTS, min_size=1, max_size=8))
def test_equals_jinja(functions, contents):
    expected, got = functions
    assert got(alternating(contents, system=False)) == expected(alternating(contents, system=False))


@QUICK
@given(messages=CONVERSATIONS)
def test_equals_jinja_or_refuses(functions, name, messages):
    expected, got = functions
    prompt = got(messages)
    if prompt is not None or name in REFUSE_NO_MORE_THAN_JINJA:
        assert prompt == expected(messages)


def test_forms(templates, compile_named):
    """What each template takes, as its authors meant it."""

    def takes(name, *roles):
        return compile_named(name).form.takes(roles)

    for name in templates:
        assert takes(name, "user")
        assert takes(name, "user", "assistant", "user")
    for name in ("smollm2", "llama2", "llama3", "zephyr", "gemma3", "qwen2_5", "phi3_5"):
        assert takes(name, "system", "user")
    for name in ("llama2", "mistral", "gemma2", "gemma3"):
        assert not takes(name, "assistant", "user")
        assert not takes(name, "user", "user")
    for name in ("mistral", "gemma2"):
        assert not takes(name, "system", "user")
    assert not takes("llama2", "user", "system")
    assert not takes("llama2", "system")
    assert takes("smollm2", "user", "system", "system", "assistant", "assistant")


def test_blank_messages(compile_named):
    llama2 = compile_named("llama2")
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "\n"}]
    assert prompt_of(llama2, messages) == "<s>[INST] <<SYS>>\nS\n<</SYS>> [/INST]"
    phi = compile_named("phi3_5")  # drops a blank system message
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": ""}]
    with pytest.raises(tf.errors.InvalidArgumentError, match="a blank `system` cannot be the firs"):
        phi(tf.constant([json.dumps(messages)]))


def test_blank_messages_that_the_template_refuses():
    refuses = "{% if not m.content %}{{ raise_exception('blank') }}{% endif %}"
    compiled = chat.compile_template(WRITE + refuses + "{{ m.content }}" + END)
    assert prompt_of(compiled, [{"role": "user", "content": " "}]) == "[user] "
    with pytest.raises(tf.errors.InvalidArgumentError, match="a blank `user` cannot be the first"):
        prompt_of(compiled, [{"role": "user", "content": ""}])


def test_long_conversations(functions, name):
    expected, got = functions
    contents = [f" {i} " for i in range(300)]
    messages = alternating(contents, system=name not in ("mistral", "gemma2"))
    assert got(messages) == expected(messages) is not None


WRITE = "{% for m in messages %}[{{ m.role }}]"
END = "{% endfor %}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for %}", "is not valid Jinja: line 1"),
        (WRITE + "{{ m.content }}{{ m.content }}" + END, "a content is repeated"),
        ("Hello", r"takes no messages, .* 'system': the content 'Content0OfSystem' is changed"),
        (WRITE + "{{ m.content | upper }}" + END, "takes no messages"),
        (WRITE + "{{ m.content | e }}" + END, "it makes '.system.&amp;amp;"),
        (WRITE + "{{ m.content.split('</think>')[-1] }}" + END, "it makes"),
        (WRITE + "{{ m.content.replace('needle', '') }}" + END, "needle.*, it makes"),
        (WRITE + "{{ m.content }}{{ loop.index }}" + END, "depends on more than these two: '1"),
        (WRITE + "{{ m.content }}{{ strftime_now('%d') }}" + END, "it writes the date of the day"),
        (WRITE + "{{ m.content.center(40) }}" + END, "white space around the contents"),
        (
            "{% if messages | length == 3 %}{{ raise_exception('three') }}{% endif %}"
            + WRITE + "{{ m.content }}" + END,
            r"does not take messages of the roles \[.*three\), though it takes each two",
        ),
        (
            WRITE + "{% if loop.index > 6 %}{{ raise_exception('many') }}{% endif %}{{ m.content }}"
            + END,
            "compiled form makes .*: many",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled(template, error):
    with pytest.raises(ValueError, match=error):
        chat.compile_template(template)


def test_the_date_can_be_fixed(templates):
    with pytest.raises(ValueError, match="date_string"):
        chat.compile_template(templates["llama3_2"], bos_token="<s>")
    compiled = chat.compile_template(templates["llama3_2"], bos_token="<s>", date_string="today")
    assert "Today Date: today" in prompt_of(compiled, [{"role": "user", "content": "Hi"}])


def test_fewer_roles_where_the_system_message_wanders():
    template = (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.s = m.content %}{% elif m.role == 'user' %}[INST] "
        "{% if loop.last %}{{ ns.s }}{% endif %}{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match=r"Try fewer roles, such as roles=\('user', 'assistant'\)"):
        chat.compile_template(template)
    compiled = chat.compile_template(template, roles=("user", "assistant"))
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    assert prompt_of(compiled, messages[1:]) == "[INST] Hi[/INST]"
    with pytest.raises(tf.errors.InvalidArgumentError, match="role `system` is not one of `user`"):
        compiled(tf.constant([json.dumps(messages)]))


def test_a_tokenizer_without_template_is_refused():
    class Tokenizer:
        chat_template = None

    with pytest.raises(ValueError, match="has no chat_template"):
        chat.compile_for(Tokenizer())
