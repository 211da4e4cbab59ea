"""UTF-8 in the graph: what is valid, and code points."""

import tensorflow as tf

SPACE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""White space as Rust's `char::is_whitespace` has it, for RE2, whose \\s knows ASCII only."""

MARK = b"\xff"
"""To put between strings: it is in no valid UTF-8."""

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


def lengths(code_points):
    """(C,) int64 bytes that each of the (C,) int32 takes."""
    return 1 + sum(tf.cast(code_points >= least, tf.int64) for least in LONGER)


def boundaries(texts):
    """Where the characters of (B,) string begin, and the end of each text, in bytes.

    Returns:
      ragged (B, None) int64, one more than the characters of the text; what is not valid UTF-8
      counts as `bytes.decode(errors="replace")` has it.
    """
    decoded = tf.raw_ops.UnicodeDecodeWithOffsets(input=texts, input_encoding="UTF-8")
    starts = tf.RaggedTensor.from_row_splits(
        decoded.char_to_byte_starts, decoded.row_splits, validate=False
    )
    ends = tf.cast(tf.strings.length(texts), tf.int64)[:, tf.newaxis]
    return tf.concat([starts, ends], axis=1)


def byte_positions(texts, positions):
    """Positions in characters of (B,) `texts` -> in bytes, both ragged (B, None) of one type.

    One beyond the end of a text becomes its end.
    """
    ends = boundaries(texts)
    first = tf.gather(ends.row_splits, positions.value_rowids())
    last = tf.gather(ends.row_splits, positions.value_rowids() + 1) - 1
    at = tf.minimum(first + tf.cast(positions.values, tf.int64), last)
    return positions.with_values(tf.cast(tf.gather(ends.values, at), positions.dtype))


def char_positions(texts, positions):
    """The inverse of `byte_positions`; one inside a character becomes the end of it."""
    ends = boundaries(texts)
    # All texts one after the other, a byte apart, so that no two boundaries are the same.
    shifts = tf.cumsum(tf.cast(tf.strings.length(texts), tf.int64) + 1, exclusive=True)
    rows = positions.value_rowids()
    values = tf.cast(positions.values, tf.int64) + tf.gather(shifts, rows)
    found = tf.searchsorted(ends.values + tf.gather(shifts, ends.value_rowids()), values)
    found = tf.cast(found, tf.int64) - tf.gather(ends.row_splits, rows)
    return positions.with_values(tf.cast(found, positions.dtype))


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
