"""Numbers as Hugging Face `tokenizers` reads them, which is not always to the last bit.

Its parser of JSON (https://github.com/serde-rs/json, without `float_roundtrip`) takes the digits
for a whole number, rounds that, and then divides by a power of ten, which rounds again. Where sums
of scores are equal but for that, its scores decide.
"""

_LARGEST = 2**64 - 1  # whole number of digits; further ones are dropped


def to_float(text: str) -> float:
    """The number that a JSON text with a point or an exponent stands for."""
    digits, _, exponent = text.lower().partition("e")
    whole, _, fraction = digits.lstrip("-").partition(".")
    number, power = int(whole), int(exponent or 0)
    for digit in fraction:
        if number * 10 + int(digit) > _LARGEST:
            break
        number, power = number * 10 + int(digit), power - 1
    # 1e23 as it is written, since 10.0**23 is another number.
    scale = float(f"1e{abs(power)}")
    value = float(number) * scale if power >= 0 else float(number) / scale
    return -value if text.startswith("-") else value
