"""Asks Hugging Face `tokenizers` what its normalizers do to every code point; see `unicode_data`.

Run it as `python -m tests.golden.write_unicode_data`.
"""

import json
import textwrap
import unicodedata

import tokenizers
from tokenizers import normalizers

from gpt_keras.tokenizers import precompiled, unicode_data

HANGUL = range(0xAC00, 0xAC00 + 11172)  # whose decomposition is arithmetic
CHARS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def changes(normalizer):
    """Character -> what it becomes, of those that change."""
    made = ((char, normalizer.normalize_str(char)) for char in CHARS)
    return {char: text for char, text in made if text != char}


def combining_classes(normalize):
    """Code point -> canonical combining class, of those that are not 0.

    Python knows the numbers; which characters the reference gives one to shows in the order that it
    puts them into, beside one of the lowest class and one of the highest.
    """
    lowest, highest = "\u0334", "\u0345"
    marks = [
        char
        for char in CHARS
        if normalize(char) == char
        and (
            normalize("a" + highest + char) != "a" + highest + char
            or normalize("a" + char + lowest) != "a" + char + lowest
        )
    ]
    classes = {char: unicodedata.combining(char) for char in marks}
    probes = {number: char for char, number in classes.items()}
    for char, number in classes.items():
        for other, probe in probes.items():
            is_moved = normalize("a" + probe + char) == "a" + char + probe != "a" + probe + char
            assert is_moved == (number < other), (char, number, other)
    return {ord(char): number for char, number in classes.items()}


def word_chars():
    """Code points that keep an added token beside them from being a word by itself."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.add_tokens([tokenizers.AddedToken("x", single_word=True, normalized=False)])
    return [ord(char) for char in CHARS if not tokenizer.encode("x" + char).ids]


def _bert(**steps):
    """A BERT normalizer of these steps alone."""
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False}
    return normalizers.BertNormalizer(**off | {"lowercase": False} | steps)


def bert_classes():
    """Code point -> 1, white space, or 2, punctuation, to `BertPreTokenizer`."""
    split = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = {char: len(split(f"a{char}a")) for char in CHARS}
    return {ord(char): count - 1 for char, count in words.items() if count > 1}


def cases():
    """Code point -> the number of the first of these expressions that matches it."""
    patterns = (r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]", r"\p{M}")
    numbers = {}
    for number, pattern in enumerate(patterns, 1):
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"{pattern}+"), "removed")
        for i in range(0, len(CHARS), 256):
            block = "".join(CHARS[i : i + 256])
            left = {char for piece, _ in split.pre_tokenize_str(block) for char in piece}
            numbers |= {ord(char): number for char in block if char not in left}
    return numbers


def clusters():
    """Code point -> class of `precompiled`.

    A table with one key, which becomes "b", shows where clusters end: all of a cluster of less than
    six bytes becomes what stands for its beginning.
    """
    accent, joiner, sign, linker, letter = "\u0301", "\u200d", "\u2122", "\u094d", "\u0958"
    of_a, of_sign, of_letter = table("a"), table(sign), table(letter)
    classes = {}
    for char in CHARS:
        if of_a("a" + char) == "b":
            # What goes on after a picture or a conjunct is in a cluster too long to be looked up.
            if of_letter("\u0915" + char + letter + accent).endswith(accent):
                classes[char] = precompiled.LINKER
            elif of_letter("\u0915" + linker + char + letter + accent).endswith(accent):
                classes[char] = precompiled.EXTEND
            elif of_sign(f"\u263a{char}{joiner}{sign}{accent}").endswith(accent):
                classes[char] = precompiled.NON_JOINER
            else:
                classes[char] = precompiled.SPACING
        elif of_sign(f"{char}{joiner}{sign}{accent}").endswith(accent):
            classes[char] = precompiled.PICTURE
        elif of_sign(char + sign + accent).endswith(accent):
            classes[char] = precompiled.PREPEND
        elif of_letter(char + linker + letter + accent).endswith(accent):
            classes[char] = precompiled.CONSONANT
        elif len(char.encode()) < 4 and table(char)(char + accent) != "b":
            classes[char] = precompiled.CONTROL
    assert classes[joiner] == precompiled.EXTEND
    classes[joiner] = precompiled.JOINER
    return {ord(char): number for char, number in classes.items()}


def table(key):
    """str -> str by `Precompiled` with this key alone, which becomes "b"."""
    # A double array whose every node has 256 places of its own; see `precompiled`.
    units, here = {0: 256 << 10}, 256
    for i, label in enumerate(key.encode()):
        place, here = here + label, 256 * (i + 2)
        units[place] = label | (place ^ here) << 10
    units[place] |= 0x100
    units[here] = 0x80000000
    array = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(here + 256))
    data = len(array).to_bytes(4, "little") + array + b"b\0"
    return normalizers.Precompiled(data).normalize_str


def _runs(numbers):
    """ "first length number" of runs of neighbours that have the same number, in lines."""
    made = []
    for code_point, number in sorted(numbers.items()):
        if made and made[-1][0] + made[-1][1] == code_point and made[-1][2] == number:
            made[-1][1] += 1
        else:
            made.append([code_point, 1, number])
    return textwrap.wrap(" ; ".join(" ".join(map(str, run)) for run in made), 94)


def main():
    nfd, nfkd = changes(normalizers.NFD()), changes(normalizers.NFKD())
    nfc = normalizers.NFC().normalize_str
    hangul = {chr(c) for c in HANGUL}
    assert all(nfc(char) == char for char in hangul)
    assert hangul <= nfd.keys()
    content = {
        "source": f"tokenizers {tokenizers.__version__}, by tests/golden/write_unicode_data.py",
        "decompositions": _pairs({c: t for c, t in nfd.items() if c not in hangul}),
        "compatibility": _pairs({c: t for c, t in nfkd.items() if nfd.get(c) != t}),
        "composites": textwrap.wrap("".join(c for c in nfd if nfc(c) == c and c not in hangul), 90),
        "combining_classes": _runs(combining_classes(normalizers.NFD().normalize_str)),
        "lowercase": _pairs(changes(normalizers.Lowercase())),
        "accents": _runs(dict.fromkeys(map(ord, changes(normalizers.StripAccents())), 1)),
        "bert_cleaned": _runs(
            {ord(c): 2 if text else 1 for c, text in changes(_bert(clean_text=True)).items()}
        ),
        "chinese": _runs(dict.fromkeys(map(ord, changes(_bert(handle_chinese_chars=True))), 1)),
        "bert_accents": _runs(
            {ord(c): 1 for c, text in changes(_bert(strip_accents=True)).items() if not text}
        ),
        "bert_classes": _runs(bert_classes()),
        "cases": _runs(cases()),
        "clusters": _runs(clusters()),
        "word": _runs(dict.fromkeys(word_chars(), 1)),
    }
    # In ASCII: combining marks cannot be read by themselves.
    unicode_data.FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pairs(changes):
    entries = (
        f"{ord(char):x}={'+'.join(f'{ord(x):x}' for x in text)}" for char, text in changes.items()
    )
    return textwrap.wrap(" ".join(entries), 94)


if __name__ == "__main__":
    main()
