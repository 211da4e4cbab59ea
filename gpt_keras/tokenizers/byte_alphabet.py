"""The 256 printable characters that byte-level BPE writes bytes with, in vocabularies and merges.

Source: `bytes_to_unicode` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
"""

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

# ALPHABET[byte] is its character: itself where that can be printed, else one from U+0100 on.
ALPHABET = "".join(
    chr(byte if byte in _PRINTABLE else 0x100 + _OTHER.index(byte)) for byte in range(256)
)
_BYTES = {char: byte for byte, char in enumerate(ALPHABET)}


def to_bytes(token: str) -> bytes | None:
    """The bytes that a vocabulary entry stands for, or None if it has other characters."""
    try:
        return bytes([_BYTES[char] for char in token])
    except KeyError:
        return None
