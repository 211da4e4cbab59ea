"""The classes of all code points, against the library they were asked of."""

import numpy as np
import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras.tokenizers import char_classes, pre_tokenizer, utf8

BYTE_LEVEL = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = hf.pre_tokenizers.Digits(individual_digits=True)
REFERENCES = {
    "gpt2": BYTE_LEVEL,
    "digits_gpt2": hf.pre_tokenizers.Sequence([DIGITS, BYTE_LEVEL]),
}


def code_points(start, stop):
    return [chr(c) for c in range(start, stop) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize("name", REFERENCES)
def test_every_code_point_of_the_table(name):
    """Each one next to a member of every class: where words end tells its own class."""
    split = tf.function(
        lambda texts: pre_tokenizer.NAMED[name](*utf8.to_code_points(texts))[0], autograph=False
    )
    chars = code_points(0, len(char_classes.table()))
    for i in range(0, len(chars), 70000):
        text = "".join(f"a{c}1{c}!\n{c}" for c in chars[i : i + 70000])
        ends = [end for _, (_, end) in REFERENCES[name].pre_tokenize_str(text)]
        lengths = tf.strings.length(split(tf.constant([text])), unit="UTF8_CHAR")
        np.testing.assert_array_equal(np.cumsum(lengths), ends)


def test_all_code_points_after_the_table_are_other():
    text = "!" + "".join(code_points(len(char_classes.table()) - 1, 0x110000))
    assert len(BYTE_LEVEL.pre_tokenize_str(text)) == 1
    assert len(DIGITS.pre_tokenize_str(text)) == 1
    words, *_ = pre_tokenizer.NAMED["digits_gpt2"](*utf8.to_code_points(tf.constant([text])))
    assert words.numpy().tolist() == [text.encode()]
    assert char_classes.table()[-1] == char_classes.OTHER
