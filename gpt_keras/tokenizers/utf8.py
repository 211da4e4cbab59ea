"""UTF-8 in the graph: what is valid, and code points."""

import tensorflow as tf

SPACE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""White space as Rust's `char::is_whitespace` has it, for RE2, whose \\s knows ASCII only."""

LONGER = (0x80, 0x800, 0x10000)
"""The first code points that take 2, 3 and 4 bytes."""


def replace_invalid(texts):
    """(B,) string, as `bytes.decode("utf-8", errors="replace")` would have it, in UTF-8 again."""
    return _unless_ascii(
        texts,
        lambda _: texts,
        lambda: tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"),
    )


def is_valid_utf8(texts):
    """(B,) bool: whether `bytes.decode("utf-8")` would take each of the (B,) string `texts`.

    Surrogates, overlong forms and what lies beyond U+10FFFF are invalid; NUL is a character.
    """
    return tf.equal(texts, replace_invalid(texts))


def to_code_points(texts):
    """(C,) int32 code points of all (B,) valid `texts`, and (B + 1,) int64 row splits."""

    def from_ascii(codes):
        lengths = tf.cast(tf.strings.length(texts), tf.int64)
        return tf.concat([[0], tf.cumsum(lengths)], 0), tf.cast(codes, tf.int32)

    splits, code_points = _unless_ascii(
        texts,
        from_ascii,
        lambda: tuple(tf.raw_ops.UnicodeDecode(input=texts, input_encoding="UTF-8")),
    )
    code_points.set_shape([None])
    return code_points, splits


def from_code_points(code_points, starts):
    """(W,) string: `code_points`, (C,) int32, cut at `starts`, (W,) int64, of which one is 0."""
    return from_splits(code_points, tf.concat([starts, tf.shape(code_points, tf.int64)], 0))


def from_splits(code_points, splits):
    """(B,) string: the inverse of `to_code_points`."""
    return tf.raw_ops.UnicodeEncode(
        input_values=code_points, input_splits=splits, output_encoding="UTF-8"
    )


def escape(text: str) -> str:
    """A pattern of RE2 that matches this text alone."""
    return "".join(
        char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}" for char in text
    )


def _unless_ascii(texts, from_ascii, otherwise):
    """`from_ascii` of all bytes of the (B,) `texts` if they are ASCII, which is twice as fast."""
    codes = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
    is_ascii = tf.reduce_all(codes < 0x80)
    return tf.cond(is_ascii, lambda: from_ascii(codes), otherwise)
