"""A new byte-level BPE tokenizer out of texts."""

import itertools
import os

import tokenizers as hf

from gpt_keras.tokenizers import pre_tokenizer as pre_tokenizers
from gpt_keras.tokenizers import tokenizer_config, tokenizer_json
from gpt_keras.tokenizers.byte_alphabet import ALPHABET
from gpt_keras.tokenizers.byte_level_bpe import ByteLevelBPE

_BLOCK_CHARS = 2**20


def train_byte_level_bpe(
    texts,
    vocab_size,
    special_tokens=("<|endoftext|>",),
    *,
    pre_tokenizer="gpt2",
    add_prefix_space=False,
    min_frequency=2,
    chat_template=None,
) -> ByteLevelBPE:
    """Learns a vocabulary and merges with Hugging Face `tokenizers`; equal input, equal result.

    Args:
      texts: iterable of str, each a text, and of `pathlib.Path`, each a UTF-8 file.
      vocab_size: how many tokens, with the 256 bytes and the special tokens; fewer if the texts
        have no more to merge.
      special_tokens: strings that get the first ids; the first one becomes the beginning, the end
        and the padding of texts.
      pre_tokenizer: a key of `pre_tokenizer.NAMED`.
      add_prefix_space: put a blank before a text that does not begin with one.
      min_frequency: a pair that is rarer is not merged.
      chat_template: Jinja source or None.

    Raises:
      ValueError: no texts, a vocabulary too small for bytes and special tokens, a missing file.
    """
    least = len(ALPHABET) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size}: expected at least {least}, the 256 bytes and "
            f"{len(special_tokens)} special tokens"
        )
    if isinstance(texts, (str, os.PathLike)):
        raise ValueError(f"texts={texts!r}: expected an iterable of strings or of pathlib.Path")
    splitter = pre_tokenizers.named(pre_tokenizer, add_prefix_space)
    untrained = tokenizer_json.write(tokenizer_json.BPEModel({}, []), (), (), splitter)
    model = hf.Tokenizer.from_str(untrained)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(ALPHABET),
        show_progress=False,
    )
    blocks = _blocks(texts)
    first = next(blocks, None)
    if first is None:
        raise ValueError("texts: there is no text to learn from")
    model.train_from_iterator(itertools.chain([first], blocks), trainer)
    config = dict.fromkeys(tokenizer_config.NAMES[:3], special_tokens[0]) if special_tokens else {}
    if chat_template is not None:
        config["chat_template"] = chat_template
    return ByteLevelBPE(model.to_str(pretty=True), config, "trained tokenizer")


def _blocks(texts):
    for text in texts:
        if isinstance(text, os.PathLike):
            yield from _file_blocks(text)
        elif not isinstance(text, str):
            raise ValueError(f"texts: expected str or pathlib.Path, received {text!r}")
        elif text:
            yield text


def _file_blocks(path):
    """Blocks of whole lines, so that a file need not fit into memory."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            while block := file.read(_BLOCK_CHARS):
                yield block + file.readline()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a UTF-8 text file") from error
