"""What each code point is to the regular expressions of the reference tokenizer.

`char_classes.json` was asked of Hugging Face `tokenizers` itself, code point by code point
(`python -m tests.golden.write_char_classes`), because its `\\p{L}`, `\\p{N}` and `\\s` follow the
Unicode version that it was built with, which is neither Python's nor TensorFlow's.
"""

import functools
import json
import pathlib
import re

import numpy as np

OTHER, LETTER, NUMBER, SPACE, DIGIT = range(5)
"""`DIGIT` is what the `Digits` pre-tokenizer cuts out though it is not in `\\p{N}`: the two
libraries inside `tokenizers` know different versions of Unicode."""
CODES = "OLNSD"
FILE = pathlib.Path(__file__).with_name("char_classes.json")


@functools.cache
def table() -> np.ndarray:
    """(last + 1,) uint8: class of each code point; all those after the last one are `OTHER`."""
    runs = "".join(json.loads(FILE.read_text(encoding="utf-8"))["runs"])
    pairs = re.findall(r"([A-Z])(\d+)", runs)
    classes = np.repeat(
        np.array([CODES.index(code) for code, _ in pairs], np.uint8),
        np.array([int(length) for _, length in pairs]),
    )
    return np.append(classes, np.uint8(OTHER))
