"""Tokenizers that run inside the TensorFlow graph, with the ids of the reference ones."""

import json
import os

from gpt_keras.tokenizers import sentence_piece, tokenizer_config, tokenizer_json
from gpt_keras.tokenizers.byte_level_bpe import ByteLevelBPE
from gpt_keras.tokenizers.json_tokenizer import FILE
from gpt_keras.tokenizers.sentence_piece import SentencePiece, bpe_json
from gpt_keras.tokenizers.sentence_piece_bpe import SentencePieceBPE
from gpt_keras.tokenizers.tokenizer import Tokenizer, Tokens
from gpt_keras.tokenizers.train import train_byte_level_bpe, train_sentence_piece
from gpt_keras.tokenizers.unigram import Unigram
from gpt_keras.tokenizers.utf8 import is_valid_utf8
from gpt_keras.tokenizers.word_piece import WordPiece

__all__ = [
    "ByteLevelBPE",
    "SentencePiece",
    "SentencePieceBPE",
    "Tokenizer",
    "Tokens",
    "Unigram",
    "WordPiece",
    "bpe_json",
    "from_text",
    "is_valid_utf8",
    "load",
    "train_byte_level_bpe",
    "train_sentence_piece",
]


def load(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a model directory in Hugging Face layout.

    Raises:
      ValueError: no tokenizer there, or one that is malformed or not supported; the message names
        the file.
    """
    path = os.path.join(os.fspath(directory), FILE)
    model = os.path.join(os.fspath(directory), sentence_piece.FILE)
    config = tokenizer_config.read(directory)
    if not os.path.isfile(path) and os.path.isfile(model):
        return sentence_piece.read(model, config)
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file; copy it from where the model came from")
    return from_text(tokenizer_json.read(path), config, path)


def from_text(text, config: dict | None = None, where: str = FILE) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes, of whatever kind.

    Args, raises: see `JsonTokenizer`.
    """
    if not isinstance(text, tokenizer_json.TokenizerJson):
        text = tokenizer_json.parse(text, where)
    if isinstance(text.model, tokenizer_json.WordPieceModel):
        return WordPiece(text, config, where)
    if isinstance(text.model, tokenizer_json.UnigramModel):
        return Unigram(text, config, where)
    is_bytes = '"ByteLevel"' in json.dumps([text.pre_tokenizer, text.decoder])
    return (ByteLevelBPE if is_bytes else SentencePieceBPE)(text, config, where)
