"""The JSON parser in the graph, beside Python's `json`."""

import json
import random

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_keras.chat import parse_messages, parse_strings

TEXTS = tf.TensorSpec([None], tf.string)
PARSE_MESSAGES = tf.function(parse_messages, input_signature=[TEXTS], autograph=False)
PARSE_STRINGS = tf.function(parse_strings, input_signature=[TEXTS], autograph=False)

# Characters that matter to the parser among those that do not.
CHARACTERS = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from('"\\/bfnrtu0\0\x01\x02\x03\x10\x15\x1f\x7f[]{}:, \n\té漢😀\ufeff\uffff'),
)
STRINGS = st.text(CHARACTERS, max_size=12)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": STRINGS}), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": STRINGS, "content": st.one_of(STRINGS, PARTS)}), max_size=4
)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHORT_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r"}


def write(value, dice):
    """JSON of a value, each liberty of the grammar taken at random."""

    def space():
        return "".join(dice.choices(" \t\n\r", k=dice.choice([0, 0, 0, 1, 3])))

    def character(char):
        code = ord(char)
        must = char in '"\\' or code < 0x20
        how = dice.choice(["short", "long"] if must else ["plain", "plain", "short", "long"])
        if how == "short" and char in SHORT_ESCAPES:
            return "\\" + SHORT_ESCAPES[char]
        if how == "plain" or (how == "short" and not must):
            return char
        units = char.encode("utf-16-be").hex()
        units = "".join(dice.choice([digit, digit.upper()]) for digit in units)
        return "".join("\\u" + units[i : i + 4] for i in range(0, len(units), 4))

    if isinstance(value, str):
        return '"' + "".join(map(character, value)) + '"'
    if isinstance(value, list):
        items = ",".join(space() + write(item, dice) + space() for item in value)
        return "[" + (items or space()) + "]"
    items = list(value.items())
    dice.shuffle(items)
    members = (
        space() + write(key, dice) + space() + ":" + space() + write(item, dice) + space()
        for key, item in items
    )
    return "{" + ",".join(members) + "}"


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def reference(data, of_form):
    """What Python's `json` reads, or None if it refuses or the form is another."""

    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except (ValueError, RecursionError):
        return None
    return value if of_form(value) else None


def is_strings(value):
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_messages(value):
    def is_part(part):
        return (
            isinstance(part, dict)
            and part.keys() == {"type", "text"}
            and part["type"] == "text"
            and isinstance(part["text"], str)
        )

    def is_content(content):
        return isinstance(content, str) or (
            isinstance(content, list) and all(map(is_part, content))
        )

    return isinstance(value, list) and all(
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and isinstance(message["role"], str)
        and is_content(message["content"])
        for message in value
    )


def decoded(ragged):
    return [[item.decode() for item in row] for row in ragged.to_list()]


def check_messages(batch, texts):
    roles, contents = PARSE_MESSAGES(tf.constant(texts, tf.string))
    assert decoded(roles) == [[m["role"] for m in messages] for messages in batch]
    assert decoded(contents) == [[text_of(m["content"]) for m in messages] for messages in batch]


@QUICK
@given(st.lists(MESSAGES, max_size=4), st.booleans(), st.sampled_from([None, 0, 3]))
def test_messages_as_python_writes_them(batch, ascii_only, indent):
    check_messages(batch, [json.dumps(m, ensure_ascii=ascii_only, indent=indent) for m in batch])


@QUICK
@given(st.lists(MESSAGES, max_size=4), st.integers(0, 2**32))
def test_messages_however_written(batch, seed):
    dice = random.Random(seed)
    texts = [write(messages, dice) for messages in batch]
    assert [json.loads(text) for text in texts] == batch
    check_messages(batch, texts)


@QUICK
@given(st.lists(st.lists(STRINGS, max_size=5), max_size=4), st.integers(0, 2**32))
def test_strings_however_written(batch, seed):
    dice = random.Random(seed)
    texts = [write(strings, dice) for strings in batch]
    assert decoded(PARSE_STRINGS(tf.constant(texts, tf.string))) == batch


def check_against_json(data):
    for parse, of_form, items in (
        (PARSE_STRINGS, is_strings, lambda value: [value]),
        (
            PARSE_MESSAGES,
            is_messages,
            lambda value: [[m["role"] for m in value], [text_of(m["content"]) for m in value]],
        ),
    ):
        expected = reference(data, of_form)
        # Beside a row that is fine: the fault must be found in its row.
        texts = tf.constant([b"[]", data])
        if expected is None:
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                parse(texts)
            assert "of row 1, byte " in caught.value.message
            assert ": expected " in caught.value.message
            assert "expected , found" not in caught.value.message
        else:
            got = tf.nest.flatten(parse(texts))
            assert [decoded(ragged)[1] for ragged in got] == items(expected)


@QUICK
@given(
    st.one_of(MESSAGES, st.lists(STRINGS, max_size=5)),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 2**16), min_size=1, max_size=2),
)
def test_damaged_json_is_refused_when_python_refuses(value, seed, places):
    dice = random.Random(seed)
    data = bytearray(write(value, dice).encode())
    for place in places:
        at = place % (len(data) + 1)
        data[at : at + dice.randrange(2)] = dice.choice(
            [b"", b'"', b"\\", b"\\u12", b"\xff", b"\xed\xa0\x80", b"\n", b",", b"]", b"{", b"x"]
        )
    check_against_json(bytes(data))


@QUICK
@given(st.lists(st.sampled_from([
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b'\\"', b" ", b"\n", b"\0", b"\xc3", b"\xa9",
    b'"role"', b'"content"', b'"type"', b'"text"', b'"role":"a"', b'"content":"b"', b"null",
    b"\\ud83d", b"\\ude00", b"\\u0041", b"\x10", b"\x11",
]), max_size=12))  # fmt: skip
def test_json_like_bytes_are_refused_when_python_refuses(tokens):
    check_against_json(b"".join(tokens))


def test_sizes():
    empty = tf.constant([], tf.string)
    assert PARSE_STRINGS(empty).to_list() == []
    assert [ragged.to_list() for ragged in PARSE_MESSAGES(empty)] == [[], []]
    many = [{"role": "user", "content": str(i)} for i in range(1000)]
    long = [{"role": "user", "content": 'a"\\\n漢' * 50_000}]
    check_messages([many, [], long], [json.dumps(m) for m in (many, [], long)])


def test_adversarial_texts_take_linear_time():
    for text in ("[" * 100_000, '["' + '\\"' * 100_000, '"' * 100_000, "[" + "\\" * 100_001):
        with pytest.raises(tf.errors.InvalidArgumentError):
            PARSE_MESSAGES(tf.constant([text]))


GOOD = '[{"role":"a","content":'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "byte 0: expected `[`, found the end"),
        ("hello", "byte 0: expected `[`, found `hello`"),
        ("[", "byte 1: expected `]` or `{`, found the end"),
        ("[]x", "byte 2: expected the end, found `x`"),
        ("\ufeff[]", "byte 0: expected `[`, found `\ufeff[]`"),
        ("[null]", "byte 1: expected `]` or `{`, found `null]`"),
        ('[{"name":1}]', r"byte 2: expected `role` or `content`, found `\"name\":1}]`"),
        ('[{"role":"a"}]', "byte 12: expected `,`, found `}]`"),
        ('[{"role":"a","role":"b"}]', r"byte 13: expected `content`, found `\"role\":\"b\"}]`"),
        (GOOD + "null}]", "byte 23: expected a string or `[`, found `null}]`"),
        (GOOD + '"b","name":"x"}]', r"byte 26: expected `}`, found `,\"name\":\"x\"}]`"),
        (GOOD + '"b"},]', "byte 28: expected `{`, found `]`"),
        (GOOD + '[{"type":"image_url"}]}]', r"byte 32: expected `text`, found `\"image_url\"}]}]`"),
        (GOOD + '"é', "byte 26: expected more of a string"),
        (GOOD + '"é\n"}]', r"found `\n\"}]`"),
        (GOOD + '"é\\x"}]', r"byte 26: expected an escape: one of \" \\ / b f n r t or uXXXX"),
        (GOOD + '"\\ud800"}]', r"found `\\ud800\"}]`"),
        (GOOD.encode() + b'"\xff"}]', "byte 24: expected more of a string (UTF-8;"),
    ],
)
def test_faults_are_located(text, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        PARSE_MESSAGES(tf.constant(["[]", text, "also wrong"]))
    assert "messages of row 1, " in caught.value.message
    assert message in caught.value.message


def test_name_of_the_input_is_in_the_message():
    with pytest.raises(tf.errors.InvalidArgumentError, match="stop of row 0, byte 1"):
        parse_strings(tf.constant(["[1]"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="words of row 0, byte 1"):
        parse_strings(tf.constant(["[1]"]), name="words")


def test_wrong_rank_is_refused():
    for texts in ("[]", [["[]"]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="hape"):
            parse_messages(tf.constant(texts))
