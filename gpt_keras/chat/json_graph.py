"""JSON of a fixed form, parsed inside a TensorFlow graph.

No stock op reads JSON, and a served model may use stock ops only. Here a whole batch is cut at its
unescaped quotes, the strings are checked and unescaped, and what is left, one symbol a string, is
matched by a regular expression (`json_grammar`). All steps are vectorised over the batch and take
linear time; the search for the place of a fault runs only when there is one.
The reference for what is JSON is RFC 8259 and, in the tests, Python's `json`.
"""

from typing import NamedTuple

import tensorflow as tf

from gpt_keras.chat import json_grammar as grammar
from gpt_keras.chat.json_fault import find_fault
from gpt_keras.chat.refusal import refused_if

_UNICODE_ESCAPE = "\x03"  # stands for \u while strings are unescaped


def parse_strings(texts: tf.Tensor, name: str = "stop") -> tf.RaggedTensor:
    """Reads one JSON array of strings a row.

    Args:
      texts: (B,) string, each like `["\\n", "END"]`, in UTF-8.
      name: what error messages call the input.

    Returns:
      (B, None) string in UTF-8; may hold NUL.

    Raises:
      tf.errors.InvalidArgumentError: a row is not JSON, not UTF-8 or of another form. The message
          names row, byte, what was expected there and what was found.
    """
    with tf.name_scope("parse_strings"):
        pieces = _checked_pieces(texts, grammar.strings(), name)
        return _ragged(pieces.strings, pieces.is_string, pieces.row_splits)


def parse_spans(texts: tf.Tensor, name: str) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Reads one JSON array of pairs of integers a row.

    Args:
      texts: (B,) string, each like `[[0, 3], [13, 19]]`; integers of nine digits at most.
      name: what error messages call the input.

    Returns:
      the first ones and the second ones, both (B, None) int32 with the same row splits.

    Raises:
      tf.errors.InvalidArgumentError: see `parse_strings`.
    """
    with tf.name_scope("parse_spans"):
        pieces = _checked_pieces(texts, grammar.spans(), name)
        with tf.control_dependencies([pieces.strings]):
            raw = tf.identity(pieces.raw)  # without strings each row is one piece
        digits = tf.strings.split(tf.strings.regex_replace(raw, "[^0-9]+", " "))
        numbers = tf.reshape(tf.strings.to_number(digits.values, tf.int32), (-1, 2))
        return tuple(
            tf.RaggedTensor.from_row_splits(column, digits.row_splits // 2, validate=False)
            for column in tf.unstack(numbers, axis=1)
        )


def parse_messages(
    texts: tf.Tensor, name: str = "messages"
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Reads one JSON array of chat messages a row.

    A message is an object with exactly the keys `role`, a string, and `content`: a string, or an
    array of `{"type": "text", "text": ...}`, whose texts are joined with nothing in between.

    Args:
      texts: (B,) string, each like `[{"role": "user", "content": "Hi"}]`, in UTF-8.
      name: what error messages call the input.

    Returns:
      roles and contents, both (B, None) string with the same row splits, in UTF-8; may hold NUL.

    Raises:
      tf.errors.InvalidArgumentError: a row is not JSON, not UTF-8 or of another form (repeated
          and unknown keys included). The message names row, byte, what was expected there and
          what was found.
    """
    with tf.name_scope("parse_messages"):
        pieces = _checked_pieces(texts, grammar.messages(), name)
        # Of the pieces before a value's string, the last is its colon, the last but one its key.
        colon, key = _shift(pieces.raw, 1), _shift(pieces.strings, 2)
        is_value = pieces.is_string & tf.strings.regex_full_match(colon, r"[ \t\n\r]*:[ \t\n\r]*")
        is_role = is_value & tf.equal(key, "role")
        is_text = is_value & (tf.equal(key, "content") | tf.equal(key, "text"))
        # The keys of a message come in either order, but the n-th `content` is the n-th message's.
        is_content_key = pieces.is_string & ~is_value & tf.equal(pieces.strings, "content")
        message = tf.cumsum(tf.cast(is_content_key, tf.int64)) - 1

        roles = _ragged(pieces.strings, is_role, pieces.row_splits)
        contents = tf.strings.unsorted_segment_join(
            tf.boolean_mask(pieces.strings, is_text),
            tf.boolean_mask(message, is_text),
            tf.size(roles.values),
        )
        return roles, roles.with_values(contents)


class _Pieces(NamedTuple):
    """A batch of texts, cut at the quotes of its strings into N pieces."""

    raw: tf.Tensor  # (N,) string, as in the text but for hidden escapes, without quotes
    is_string: tf.Tensor  # (N,) bool
    strings: tf.Tensor  # (N,) string, the strings unescaped, "" where malformed or not a string
    symbols: tf.Tensor  # (N,) string, the pieces of the skeletons
    row_splits: tf.Tensor  # (B + 1,) int64


def _checked_pieces(texts: tf.Tensor, rule: grammar.Rule, name: str) -> _Pieces:
    """The pieces of texts that all match the rule."""
    texts = tf.ensure_shape(tf.convert_to_tensor(texts, tf.string), [None])
    pieces, row_of_piece = _cut(texts)
    skeletons = tf.strings.unsorted_segment_join(pieces.symbols, row_of_piece, tf.size(texts))
    matches = tf.strings.regex_full_match(skeletons, rule.full)

    def fault() -> tf.Tensor:
        row = tf.argmin(tf.cast(matches, tf.int32))
        of_row = slice(pieces.row_splits[row], pieces.row_splits[row + 1])
        what = find_fault(texts[row], pieces.raw[of_row], pieces.symbols[of_row], rule)
        return tf.strings.join([f"{name} of row ", tf.strings.as_string(row), ", ", what])

    return pieces._replace(strings=refused_if(~tf.reduce_all(matches), fault, pieces.strings))


def _cut(texts: tf.Tensor) -> tuple[_Pieces, tf.Tensor]:
    """The pieces of any texts, valid or not, and the row (N,) int64 each belongs to."""
    # Same length each, so that places in the text are kept. Control characters first: they have no
    # place in JSON, and afterwards they can stand for other things.
    texts = tf.strings.regex_replace(texts, r"[\x01-\x08\x0b\x0c\x0e-\x1f]", "\0")
    texts = tf.strings.regex_replace(texts, r"\\\\", grammar.HIDDEN_BACKSLASH)  # pairs from left
    texts = tf.strings.regex_replace(texts, r'\\"', grammar.HIDDEN_QUOTE)
    pieces = tf.strings.split(texts, '"')  # (B, None): outside, string, outside, ...
    raw, row = pieces.values, pieces.value_rowids()

    place_in_row = tf.range(tf.size(raw, tf.int64)) - tf.gather(pieces.row_splits, row)
    is_string = tf.equal(place_in_row % 2, 1)
    is_closed = tf.not_equal(place_in_row + 1, tf.gather(pieces.row_lengths(), row))
    is_sound = is_string & is_closed & tf.strings.regex_full_match(raw, grammar.CHARACTERS)
    strings = _unescape(tf.where(is_sound, raw, ""))

    symbols = tf.where(is_sound, grammar.STRING, grammar.MALFORMED)
    for word, symbol in grammar.WORDS.items():
        symbols = tf.where(tf.equal(strings, word), symbol, symbols)
    symbols = tf.where(is_string, symbols, raw)
    return _Pieces(raw, is_string, strings, symbols, pieces.row_splits), row


def _shift(values: tf.Tensor, by: int) -> tf.Tensor:
    """values[i - by] at place i, "" before the first: (N,) -> (N,) string."""
    return tf.concat([[""] * by, values], axis=0)[:-by]


def _ragged(values: tf.Tensor, mask: tf.Tensor, row_splits: tf.Tensor) -> tf.RaggedTensor:
    """What the mask (N,) keeps of the values (N,), in the rows they are in."""
    kept = tf.concat([[0], tf.cumsum(tf.cast(mask, tf.int64))], axis=0)
    return tf.RaggedTensor.from_row_splits(
        tf.boolean_mask(values, mask), tf.gather(kept, row_splits), validate=False
    )


def _unescape(strings: tf.Tensor) -> tf.Tensor:
    """Replaces the escapes of sound strings, cut by `_cut`: (N,) -> (N,) string."""
    # Every backslash left opens an escape. \u is marked before escaped backslashes become plain.
    replacements = {r"\\/": "/", r"\\b": "\b", r"\\f": "\f", r"\\n": "\n", r"\\r": "\r"}
    replacements |= {r"\\t": "\t", r"\\u": _UNICODE_ESCAPE}
    replacements |= {grammar.HIDDEN_BACKSLASH: r"\\", grammar.HIDDEN_QUOTE: '"'}
    for escape, char in replacements.items():
        strings = tf.strings.regex_replace(strings, escape, char)
    return _decode_utf16(strings)


def _decode_utf16(strings: tf.Tensor) -> tf.Tensor:
    """Replaces each mark + four hexadecimal digits, UTF-16 code units: (N,) -> (N,) string."""
    pieces = tf.strings.split(strings, _UNICODE_ESCAPE)  # (N, None)
    flat, row = pieces.values, pieces.value_rowids()  # (P,)
    # All pieces but the first of a string begin with a code unit.
    has_unit = tf.equal(row, tf.concat([[-1], row], axis=0)[:-1])
    digits = tf.strings.substr(tf.boolean_mask(flat, has_unit), 0, 4)
    digits = tf.reshape(tf.io.decode_raw(digits, tf.uint8), [-1, 4])  # (U, 4) ASCII
    digits = tf.cast(digits, tf.int32)
    digits = tf.where(digits <= ord("9"), digits - ord("0"), digits % 0x20 + 9)  # A-F, a-f
    units = tf.reduce_sum(digits * [0x1000, 0x100, 0x10, 1], axis=1)  # (U,)
    # A high surrogate takes the low one after it in; the low one itself becomes nothing.
    is_high, is_low = (tf.equal(units // 0x400, first // 0x400) for first in (0xD800, 0xDC00))
    following = tf.concat([units, [0]], axis=0)[1:]
    joined = 0x10000 + (units - 0xD800) * 0x400 + (following - 0xDC00)
    codes = tf.boolean_mask(tf.where(is_high, joined, units), ~is_low)

    units_so_far = tf.concat([[0], tf.cumsum(tf.cast(has_unit, tf.int64))], axis=0)  # (P + 1,)
    codes_so_far = tf.concat([[0], tf.cumsum(tf.cast(~is_low, tf.int64))], axis=0)  # (U + 1,)
    characters = tf.raw_ops.UnicodeEncode(
        input_values=codes,
        input_splits=tf.gather(codes_so_far, units_so_far),
        errors="strict",
        output_encoding="UTF-8",
    )  # (P,), "" where a piece has no code
    skipped = tf.where(has_unit, 4, 0)
    rest = tf.strings.substr(flat, skipped, tf.strings.length(flat) - skipped)
    return tf.strings.unsorted_segment_join(
        tf.strings.join([characters, rest]), row, tf.size(strings)
    )
