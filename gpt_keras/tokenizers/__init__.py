"""Tokenizers that run inside the TensorFlow graph, with the ids of the reference ones."""

import os

from gpt_keras.tokenizers.byte_level_bpe import FILE, ByteLevelBPE
from gpt_keras.tokenizers.tokenizer import Tokenizer
from gpt_keras.tokenizers.train import train_byte_level_bpe
from gpt_keras.tokenizers.utf8 import is_valid_utf8

__all__ = ["ByteLevelBPE", "Tokenizer", "is_valid_utf8", "load", "train_byte_level_bpe"]


def load(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a model directory in Hugging Face layout.

    Raises:
      ValueError: no tokenizer there, or one that is malformed or not supported; the message names
        the file.
    """
    path = os.path.join(os.fspath(directory), FILE)
    if not os.path.isfile(path):
        found = os.path.join(os.fspath(directory), "tokenizer.model")
        problem = (
            f"{found}: SentencePiece models are unsupported; convert it to a byte-level BPE {FILE}"
            if os.path.isfile(found)
            else f"{path}: no such file; copy it from where the model came from"
        )
        raise ValueError(problem)
    return ByteLevelBPE.from_tokenizer_json(path)
