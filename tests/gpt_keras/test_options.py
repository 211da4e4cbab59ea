"""Ranges and defaults of a generation's options."""

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras.generation import GenerationOptions
from gpt_keras.options import Option, generation_options


def test_they_are_the_fields_of_generation_options():
    names = tuple(option.name for option in generation_options(64))
    assert names == GenerationOptions._fields
    values = GenerationOptions.make(1)
    for option, value in zip(generation_options(64), values, strict=True):
        assert option.dtype == value.dtype.name
        assert option.default == value[0]


def test_defaults_can_be_set_within_the_range():
    options = {o.name: o.default for o in generation_options(32, top_k=5, temperature=1)}
    assert options == {
        "max_new_tokens": 32, "temperature": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": -1,
        "logprobs": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="max_new_tokens=33: expected at least 1 and at most 32"):
        generation_options(32, max_new_tokens=33)
    with pytest.raises(ValueError, match="beam: no such option; there are max_new_tokens, temp"):
        generation_options(32, beam=3)


@pytest.mark.parametrize("convert", [np.array, tf.constant])
def test_allows_elementwise(convert):
    option = Option("x", "float32", 1.0, above=0, high=1)
    values = convert([0.0, 1e-9, 0.5, 1.0, 1.0001, -1.0, np.nan, np.inf])
    expected = [False, True, True, True, False, False, False, False]
    assert np.asarray(option.allows(values)).tolist() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "n=1.5: expected whole numbers, one or one a row"),
        ("3", "n='3': expected whole numbers, one or one a row"),
        (True, "n=True: expected whole numbers"),
        ([[1]], r"n=\[\[1\]\]: expected whole numbers, one or one a row"),
        (2**40, "n=1099511627776: expected at least 0 and at most 9"),
        ([1, 10], r"n=\[1, 10\]: expected at least 0 and at most 9 \(0 is off\)"),
    ],
)
def test_checked_names_option_and_value(value, message):
    with pytest.raises(ValueError, match=message):
        Option("n", "int32", 0, low=0, high=9, note="0 is off").checked(value)


def test_checked_gives_the_dtype():
    option = Option("x", "float32", 0.0, low=0)
    assert option.checked(3).dtype == "float32"
    assert option.checked([1, 2.5]).tolist() == [1.0, 2.5]
