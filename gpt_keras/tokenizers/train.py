"""New tokenizers out of texts."""

import io
import itertools
import os

import sentencepiece
import tokenizers as hf

from gpt_keras.tokenizers import pre_tokenizer as pre_tokenizers
from gpt_keras.tokenizers import sentence_piece, tokenizer_config, tokenizer_json
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
    mask_token=None,
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
      mask_token: which of the special tokens stands for one that a model is to find, or None.
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
    blocks = _blocks(texts)
    splitter = pre_tokenizers.named(pre_tokenizer, add_prefix_space)
    untrained = tokenizer_json.write(tokenizer_json.BPEModel({}, []), (), (), splitter.to_json())
    model = hf.Tokenizer.from_str(untrained)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(ALPHABET),
        show_progress=False,
    )
    model.train_from_iterator(blocks, trainer)
    config = dict.fromkeys(tokenizer_config.NAMES[:3], special_tokens[0]) if special_tokens else {}
    if mask_token is not None:
        config[tokenizer_config.MASK] = mask_token
    if chat_template is not None:
        config["chat_template"] = chat_template
    return ByteLevelBPE(model.to_str(pretty=True), config, "trained tokenizer")


def train_sentence_piece(
    texts,
    vocab_size,
    special_tokens=(),
    *,
    model_type="bpe",
    character_coverage=0.9995,
    add_dummy_prefix=True,
    chat_template=None,
):
    """Learns a SentencePiece model with byte fallback that changes no text, as Llama 2 has one.

    <unk>, <s> and </s> have the first three ids, <s> begins and </s> ends texts. Equal input, equal
    result.

    Args:
      texts: iterable of str, each a text, and of `pathlib.Path`, each a UTF-8 file.
      vocab_size: how many tokens, with the 256 bytes and the special tokens; fewer if the texts
        have no more to learn.
      special_tokens: further strings, with the ids after </s>.
      model_type: "bpe" or "unigram".
      character_coverage: which part of the characters of the texts become tokens.
      add_dummy_prefix: put a blank before a text, so that its first word is like any other.
      chat_template: Jinja source or None.

    Returns:
      a `SentencePieceBPE`, or a `SentencePiece` for "unigram".

    Raises:
      ValueError: no texts, a vocabulary too small for bytes and characters, a missing file.
    """
    if model_type not in ("bpe", "unigram"):
        raise ValueError(f"model_type={model_type!r}: expected bpe or unigram")
    lines = (line for block in _blocks(texts) for line in block.split("\n") if line)
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=written,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            add_dummy_prefix=add_dummy_prefix,
            control_symbols=list(special_tokens),
            byte_fallback=True,
            hard_vocab_limit=False,
            max_sentence_length=_BLOCK_CHARS,
            minloglevel=2,
            normalization_rule_name="identity",
            num_threads=1,
            remove_extra_whitespaces=False,
            split_digits=True,
        )
    except RuntimeError as error:
        raise ValueError(
            f"vocab_size={vocab_size}: SentencePiece cannot learn that many or that few: {error}"
        ) from error
    config = {} if chat_template is None else {"chat_template": chat_template}
    return sentence_piece.from_bytes(written.getvalue(), config, "trained tokenizer")


def _blocks(texts):
    """Iterator over blocks of text; raises ValueError if there is none."""
    if isinstance(texts, (str, os.PathLike)):
        raise ValueError(f"texts={texts!r}: expected an iterable of strings or of pathlib.Path")
    blocks = _all_blocks(texts)
    first = next(blocks, None)
    if first is None:
        raise ValueError("texts: there is no text to learn from")
    return itertools.chain([first], blocks)


def _all_blocks(texts):
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
