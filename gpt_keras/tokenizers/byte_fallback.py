"""Byte fallback: a character that is not in the vocabulary becomes the tokens of its bytes."""

import numpy as np

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""How a vocabulary with byte fallback writes the bytes."""


def byte_ids(model, where: str) -> np.ndarray | None:
    """(256,) int32 ids of the bytes, or None where unknown characters are not taken apart.

    Args:
      model: has `vocab` and `byte_fallback`, see `tokenizer_json`.
      where: begins the message of an error.

    Raises:
      ValueError: the vocabulary has some of the bytes alone.
    """
    ids = [model.vocab.get(token) for token in BYTE_TOKENS]
    missing = ids.count(None)
    if not model.byte_fallback or missing == 256:
        return None
    if missing:
        raise ValueError(
            f"{where}: byte_fallback with {256 - missing} of the 256 bytes in the vocabulary: "
            f"unsupported; add {BYTE_TOKENS[ids.index(None)]} and the others"
        )
    return np.array(ids, np.int32)
