"""Where a malformed JSON text goes wrong: the message of the error, made in the graph."""

import tensorflow as tf

from gpt_keras.chat import json_grammar as grammar

_SHOWN_BYTES = 24  # of what was found
_WORD_OF = {symbol: word for word, symbol in grammar.WORDS.items()}
_IN_STRING = 'more of a string (UTF-8; ", \\ and control characters escaped) or its end'
_IN_ESCAPE = 'an escape: one of " \\ / b f n r t or uXXXX after \\, surrogates in pairs'


def find_fault(
    text: tf.Tensor, raw: tf.Tensor, symbols: tf.Tensor, rule: grammar.Rule
) -> tf.Tensor:
    """Says what is wrong with a text that does not match the rule.

    Args:
      text: () string.
      raw: (N,) string, the pieces of the text, cut at its unescaped quotes, same length as in it.
      symbols: (N,) string, the pieces of its skeleton, in whose terms the rule is written.
      rule: what the text does not match.

    Returns:
      () string, like ``byte 17: expected `]` or `,`, found `oops` ``.
    """
    skeleton = tf.strings.reduce_join(symbols)
    place = _viable_length(skeleton, rule)
    expected, string_expected = _expected_after(tf.strings.substr(skeleton, 0, place), rule)

    # From the place in the skeleton to the piece there and to the byte in the text.
    lengths, bytes_of_raw = tf.strings.length(symbols), tf.strings.length(raw)  # (N,)
    piece = tf.reduce_sum(tf.cast(tf.cumsum(lengths) <= place, tf.int32))
    piece = tf.minimum(piece, tf.size(symbols) - 1)  # the fault may be that the text ends
    start = tf.cumsum(bytes_of_raw + 1, exclusive=True)[piece]
    is_string = piece % 2
    byte = start - is_string + place - tf.cumsum(lengths, exclusive=True)[piece]

    # A malformed string where a string was expected: the fault lies inside.
    rest = tf.strings.regex_replace(
        raw[piece], rf"\A{grammar.CHARACTERS}", "", replace_global=False
    )
    inside = string_expected & tf.equal(symbols[piece], grammar.MALFORMED)
    byte = tf.where(inside, start + bytes_of_raw[piece] - tf.strings.length(rest), byte)
    in_escape = tf.equal(tf.strings.substr(rest, 0, 1), "\\")
    expected = tf.where(inside, tf.where(in_escape, _IN_ESCAPE, _IN_STRING), expected)

    found = tf.strings.substr(text, byte, _SHOWN_BYTES)
    found = tf.strings.unicode_transcode(found, "UTF-8", "UTF-8", errors="replace")
    found = tf.where(tf.equal(found, ""), "the end", tf.strings.join(["`", found, "`"]))
    byte = tf.strings.as_string(byte)
    return tf.strings.join(["byte ", byte, ": expected ", expected, ", found ", found])


def _viable_length(skeleton: tf.Tensor, rule: grammar.Rule) -> tf.Tensor:
    """Length of the longest prefix that can grow into a word of the rule; () int32."""

    # Every prefix of a viable text is viable, so the length can be found by halving.
    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = (low + high + 1) // 2
        viable = tf.strings.regex_full_match(tf.strings.substr(skeleton, 0, middle), rule.prefix)
        return tf.where(viable, middle, low), tf.where(viable, high, middle - 1)

    return tf.while_loop(tf.less, halve, [tf.constant(0), tf.strings.length(skeleton)])[0]


def _expected_after(prefix: tf.Tensor, rule: grammar.Rule) -> tuple[tf.Tensor, tf.Tensor]:
    """What could have come next, () string, and whether any string could, () bool."""
    symbols = [grammar.STRING, *_WORD_OF, *"[]{},:", "1"]
    answers = ["a string"] + [f"`{_WORD_OF.get(symbol, symbol)}`" for symbol in symbols[1:-1]]
    answers.append("an integer")
    viable = tf.strings.regex_full_match(tf.strings.join([prefix, symbols]), rule.prefix)
    string_expected = viable[0]
    is_word = tf.constant([symbol in _WORD_OF for symbol in symbols])
    viable &= ~(is_word & string_expected)
    # A fault after a complete text is that there is more of it.
    complete = tf.strings.regex_full_match(prefix, rule.full)
    answers = tf.boolean_mask([*answers, "the end"], tf.concat([viable, [complete]], axis=0))
    return tf.strings.reduce_join(answers, separator=" or "), string_expected
