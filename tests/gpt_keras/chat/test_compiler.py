"""Chat templates compiled: what fits, what does not, and that both agree."""

import dataclasses
import datetime
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
THOUGHTS = ("<think>\na\n</think>\n\nb", "a</think>", "<think>", "/think", "<tool_response>\n")
REFUSE_NO_MORE_THAN_JINJA = (
    "smollm2", "chatml", "llama3", "zephyr", "mistral", "gemma2", "mistral_v7", "olmo2",
)  # fmt: skip
NO_SYSTEM = ("mistral", "mistral_v3", "gemma2", "phi3")
CONVERSATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": CONTENTS | st.sampled_from(THOUGHTS),
        }
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


def pieces_of(compiled, messages):
    """The prompt, cut at tokens in contents that are text: what is tokenized."""
    compiled = dataclasses.replace(compiled, control_tokens=("</think>", "/think", "<|im_end|>"))
    return compiled.pieces(tf.constant([json.dumps(messages)]))[0].to_list()[0]


def prompt_of(compiled, messages):
    return compiled(tf.constant([json.dumps(messages)])).numpy()[0].decode()


@pytest.fixture(scope="module")
def functions(name, compile_named, render_named):
    """Jinja's and the graph's function from messages to a prompt, or None if they are refused."""
    compiled = compile_named(name)
    texts = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(compiled.__call__, input_signature=texts, autograph=False)

    def expected(messages):
        try:
            return render_named(name, messages)
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
def test_equals_jinja(functions, name, contents):
    expected, got = functions
    if name == "qwen3":  # where the last is not to be an assistant's
        contents = contents[: len(contents) - 1 + len(contents) % 2]
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
        assert takes(name, "system", "user") is (name not in NO_SYSTEM)
        # They write a content at another place than its message's, or not where it is the last.
        assert bool(compile_named(name).refuses) is (name in ("mistral_v3", "qwen3"))
    for name in ("llama2", "mistral", "gemma2", "gemma3"):
        assert not takes(name, "assistant", "user")
        assert not takes(name, "user", "user")
    assert not takes("qwen3", "user", "assistant")
    assert takes("qwen3", "system", "user", "assistant", "assistant", "user")
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
    messages = alternating(contents, system=name not in NO_SYSTEM)
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
        (WRITE + "{{ m.content.split('b')[-1] }}" + END, "it makes"),
        (WRITE + "{{ m.content.replace('needle', '') }}" + END, "needle.*, it makes"),
        (WRITE + "{{ m.content }}{{ loop.index }}" + END, "depends on more than these two: '1"),
        (WRITE + "{{ m.content }}{{ strftime_now('%j') }}" + END, "%j is unsupported; supported"),
        (WRITE + "{{ m.content }}{{ strftime_now('%Y')[2:] }}" + END, "but the compiled form"),
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


def test_dates_are_those_of_the_day(templates):
    compiled = chat.compile_template(templates["llama3_2"], bos_token="<s>")
    days = {datetime.datetime.now(datetime.UTC).strftime("%d %b %Y") for _ in range(2)}
    prompt = prompt_of(compiled, [{"role": "user", "content": "Hi"}])
    days.add(datetime.datetime.now(datetime.UTC).strftime("%d %b %Y"))  # it may be midnight
    assert any(f"Today Date: {day}\n" in prompt for day in days)
    fixed = chat.compile_template(templates["llama3_2"], bos_token="<s>", date_string="today")
    assert "Today Date: today\n" in prompt_of(fixed, [{"role": "user", "content": "Hi"}])


def test_thoughts_are_left_out(compile_named):
    def said(text):
        contents = ["Hi", text, "Why?"]
        return prompt_of(compile_named("qwen3"), alternating(contents, system=False))

    assert said("<think>\na\n</think>\n\n b") == said(" b")
    assert said("<think>x</think></think>\n") == said("")
    assert said("<think> b") != said(" b")
    messages = alternating(["Hi</think>", "<think>a</think>b<|im_end|>", "Why?"], system=False)
    pieces = pieces_of(compile_named("qwen3"), messages)
    assert pieces[1::2] == [b"</think>", b"<|im_end|>"]  # of the answer, none of the thoughts
    assert b"".join(pieces).decode() == prompt_of(compile_named("qwen3"), messages)
    bare = chat.compile_template(WRITE + "{{ m.content.split('</think>')[-1] }}" + END)
    for role in ("user", "assistant"):
        messages = [{"role": role, "content": "<think>a</think>\n b"}]
        assert prompt_of(bare, messages) == f"[{role}]\n b"


@pytest.mark.parametrize("thinks", [True, False])
def test_variables_choose_how_a_template_opens_the_turn(templates, variables, thinks):
    for name, opening in {
        "qwen3": "<think>\n\n</think>\n\n",
        "smollm3": "<think>\n\n</think>\n",
    }.items():
        chosen = {**variables, "enable_thinking": thinks}
        prompt = prompt_of(
            chat.compile_template(templates[name], **chosen), [{"role": "user", "content": "Hi"}]
        )
        assert prompt.endswith("assistant\n" + opening * (not thinks))


def test_words_that_a_template_looks_for_are_refused(compile_named):
    """Where it does something else then; where it does not they are text as any other."""
    for name, role, word in (
        ("smollm3", "system", "/think"),
        ("smollm3", "system", "be /no_think"),
        ("smollm3", "system", "/system_override"),
        ("qwen3", "user", "<tool_response>x</tool_response>"),
    ):
        compiled = compile_named(name)
        messages = [{"role": role, "content": f"a {word}"}, {"role": "user", "content": "Hi"}]
        refusal = r"messages of row 0, message 0: the model.*template does more with words such"
        with pytest.raises(tf.errors.InvalidArgumentError, match=refusal):
            prompt_of(compiled, messages)
        with pytest.raises(tf.errors.InvalidArgumentError, match=refusal):
            pieces_of(compiled, messages)
    messages = [{"role": "user", "content": "/think /system_override"}]
    assert "\n/think /system_override<" in prompt_of(compile_named("smollm3"), messages)
    assert set(compile_named("smollm3").form.words) == {"system"}
    needle = chat.compile_template(WRITE + "{{ m.content.replace('/needle', '') }}" + END)
    assert needle.form.words == dict.fromkeys(("system", "user", "assistant"), ("/needle",))


def test_fewer_roles_where_the_system_message_wanders(compile_named):
    compiled = compile_named("mistral_v3")
    messages = alternating(["Hi", " Yes ", "Bye"], system=False)
    assert prompt_of(compiled, messages) == "<s>[INST] Hi[/INST] Yes</s>[INST] Bye[/INST]"
    assert "['system', 'user', 'assistant'] (the content 'Content0OfSystem'" in compiled.refuses
    messages = [{"role": "system", "content": "S"}, *messages]
    with pytest.raises(tf.errors.InvalidArgumentError, match="role `system` is not one of `user`"):
        prompt_of(compiled, messages)


def test_a_tokenizer_without_template_is_refused():
    class Tokenizer:
        chat_template = None

    with pytest.raises(ValueError, match="has no chat_template"):
        chat.compile_for(Tokenizer())
