"""Validity and replacement, against Python's decoder."""

import random

import numpy as np
import tensorflow as tf

from gpt_keras import tokenizers
from gpt_keras.tokenizers import utf8

# Where valid sequences begin and end: leads, their allowed second bytes, and what is next to them.
EDGES = (
    b"\x00\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4"
    b"\xf5\xf8\xfe\xff\xbb\xbd"
)


def strings():
    rng = random.Random(3)
    some = [bytes(rng.choices(EDGES, k=rng.randrange(9))) for _ in range(40000)]
    some += [rng.randbytes(rng.randrange(12)) for _ in range(10000)]
    some += [chr(c).encode("utf-8", "surrogatepass") for c in range(0xD700, 0xE100)]
    return [*some, b"", b"\0", b"a\0b", b"\xef\xbb\xbfa", b"\xf4\x90\x80\x80", b"\xc0\x80"]


def is_valid(text):
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_valid_is_what_python_decodes():
    texts = strings()
    expected = [is_valid(text) for text in texts]
    assert 100 < sum(expected) < len(texts) - 100
    got = tf.function(tokenizers.is_valid_utf8)(tf.constant(texts))
    np.testing.assert_array_equal(got, expected)


def test_replacement_is_that_of_python():
    texts = strings()
    expected = [text.decode("utf-8", errors="replace").encode() for text in texts]
    got = tf.function(utf8.replace_invalid)(tf.constant(texts))
    assert got.numpy().tolist() == expected


def test_code_points():
    for texts in (["aé日🙂\0", "", "b"], ["ascii", "", "\0"], [""], []):
        code_points, splits = utf8.to_code_points(tf.constant(texts, tf.string))
        assert code_points.numpy().tolist() == [ord(c) for text in texts for c in text]
        assert np.diff(splits).tolist() == [len(text) for text in texts]
