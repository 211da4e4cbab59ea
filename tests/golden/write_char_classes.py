"""Asks Hugging Face `tokenizers` for the class of every code point; see `char_classes`.

Run it as `python -m tests.golden.write_char_classes`.
"""

import itertools
import json
import textwrap

import tokenizers
from tokenizers import pre_tokenizers

from gpt_keras.tokenizers import char_classes

# A code point belongs to the class in whose run it is one word with a member of that class.
_MEMBERS = {"L": "a", "N": "1", "S": "\n", "O": "!"}


def main():
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    digits = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str
    codes = []
    for code_point in range(0x110000):
        if 0xD800 <= code_point < 0xE000:  # surrogates are no characters
            codes.append("O")
            continue
        char = chr(code_point)
        (code,) = (code for code, member in _MEMBERS.items() if len(words(member + char)) == 1)
        is_digit = len(digits("a" + char)) == 2
        if code == "O" and is_digit:
            code = "D"
        elif is_digit != (code == "N"):
            raise SystemExit(f"U+{code_point:04X}: {code} and digit={is_digit}: add a class")
        codes.append(code)
    runs = [(code, len(list(group))) for code, group in itertools.groupby(codes)]
    assert runs[-1][0] == "O"
    text = " ".join(f"{code}{length}" for code, length in runs[:-1])
    content = {
        "source": f"tokenizers {tokenizers.__version__}, by tests/golden/write_char_classes.py",
        "classes": "O other, L letter, N number, S white space, D other but cut out by Digits",
        "runs": textwrap.wrap(text, 94),
    }
    char_classes.FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
