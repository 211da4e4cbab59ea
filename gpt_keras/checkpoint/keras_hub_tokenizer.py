"""Tokenizers of KerasHub's presets: byte-level BPE of GPT-2, SentencePiece of Llama."""

import json
import os

from gpt_keras import tokenizers
from gpt_keras.checkpoint.fields import Fields
from gpt_keras.tokenizers import pre_tokenizer, sentence_piece

CONFIG, PREPROCESSOR = "tokenizer.json", "preprocessor.json"
ASSETS = os.path.join("assets", "tokenizer")
VOCABULARY, MERGES, PROTO = "vocabulary.json", "merges.txt", "vocabulary.spm"
END_OF_TEXT = "<|endoftext|>"  # begins and ends GPT-2's texts
CLASSES = {
    "GPT2Tokenizer": tokenizers.ByteLevelBPE, "LlamaTokenizer": tokenizers.SentencePieceBPE,
}  # fmt: skip
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
_REMEDY = "; with_tokenizer=False when the model is read leaves the tokenizer out"


def read(preset: str):
    """The `tokenizers.Tokenizer` of a preset, or None if it has none.

    Raises:
      ValueError: missing, malformed or unsupported; the message names the file.
    """
    fields = _fields(preset)
    if fields is None:
        return None
    folder, kind, begins = os.path.join(preset, ASSETS), _kind(fields), _adds_start(preset)
    if kind == "GPT2Tokenizer":
        return _byte_level_bpe(folder, Fields(fields.get("config", dict), fields.where), begins)
    if kind == "LlamaTokenizer":
        config = {**_NAMED, "add_bos_token": begins}
        return sentence_piece.read(os.path.join(folder, PROTO), config)
    known = ", ".join(f"keras_hub>{known}" for known in CLASSES)
    raise fields.error("registered_name", f"unsupported; supported are {known}")


def token_ids(preset: str) -> tuple[int | None, int | None]:
    """Ids of the tokens that begin and end a text, without making the tokenizer."""
    fields = _fields(preset)
    kind = fields and _kind(fields)
    if kind == "GPT2Tokenizer":
        end = Fields.read(os.path.join(preset, ASSETS, VOCABULARY)).get(END_OF_TEXT, int, None)
        return end, end
    if kind == "LlamaTokenizer":
        pieces = sentence_piece.pieces(os.path.join(preset, ASSETS, PROTO))
        return tuple(pieces.index(t) if t in pieces else None for t in ("<s>", "</s>"))
    return None, None


def _fields(preset) -> Fields | None:
    path = os.path.join(preset, CONFIG)
    return Fields.read(path) if os.path.isfile(path) else None


def _kind(fields: Fields) -> str:
    """Name of the tokenizer's class."""
    return fields.get("registered_name", str).split(">")[-1]


def _adds_start(preset) -> bool:
    """Whether the token of beginning goes before a text; KerasHub puts it before prompts always."""
    path = os.path.join(preset, PREPROCESSOR)
    config = Fields.read(path).get("config", dict, {}) if os.path.isfile(path) else {}
    return Fields(config, f"{path}: config").get("add_start_token", bool, True)


def _byte_level_bpe(folder: str, config: Fields, begins: bool):
    path = os.path.join(folder, MERGES)
    try:
        with open(path, encoding="utf-8") as file:
            merges = [line for line in file.read().split("\n") if line]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
    vocab = Fields.read(os.path.join(folder, VOCABULARY)).values
    special = config.get("unsplittable_tokens", list, [END_OF_TEXT])
    end = vocab.get(END_OF_TEXT)
    try:
        return tokenizers.ByteLevelBPE.from_vocab_and_merges(
            vocab,
            [merge for merge in merges if not merge.startswith("#version:")],
            special,
            add_prefix_space=config.get("add_prefix_space", bool, False),
            bos_token_id=end,
            eos_token_id=end,
            add_bos_token=begins and end is not None,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def write(preset: str, tokenizer, kind: str) -> dict:
    """Writes the assets of a tokenizer into a preset, returns the options of its class.

    Args:
      kind: name of the class, a key of `CLASSES`.

    Raises:
      ValueError: the class cannot do what the tokenizer does.
    """
    folder = os.path.join(preset, ASSETS)
    os.makedirs(folder)
    expected = CLASSES[kind]
    if not isinstance(tokenizer, expected):
        raise ValueError(
            f"{type(tokenizer).__name__} tokenizers are not written for KerasHub's {kind}, "
            f"{expected.__name__} is{_REMEDY}"
        )
    if kind == "GPT2Tokenizer":
        return _write_byte_level_bpe(folder, tokenizer)
    missing = [t for t in ("<s>", "</s>") if tokenizer.token_to_id(t) is None]
    if missing:
        raise ValueError(f"the tokenizer lacks {missing[0]}, which KerasHub asks for{_REMEDY}")
    try:
        data = sentence_piece.to_bytes(tokenizer)
    except ValueError as error:
        raise ValueError(f"{error}{_REMEDY}") from error
    with open(os.path.join(folder, PROTO), "wb") as file:
        file.write(data)
    return {"proto": None, "sequence_length": None, "add_bos": False, "add_eos": False}


def _write_byte_level_bpe(folder: str, tokenizer) -> dict:
    spec = tokenizer.spec
    splitter = pre_tokenizer.from_json(spec.pre_tokenizer, CONFIG)
    gpt2 = pre_tokenizer.named("gpt2")
    odd = [t.content for t in spec.added_tokens if t.lstrip or t.rstrip or t.single_word]
    if (splitter.pattern, splitter.digits) != (gpt2.pattern, gpt2.digits):
        fault = "splits texts otherwise than GPT-2's"
    elif json.loads(spec.text).get("normalizer") or spec.model.ignore_merges:
        fault = "normalizes texts or ignores merges"
    elif odd:
        fault = f"has the added token {odd[0]!r} that takes what is around it"
    elif END_OF_TEXT not in spec.ids:
        fault = f"lacks {END_OF_TEXT}, which KerasHub asks for: add it to the vocabulary"
    else:
        fault = None
    if fault:
        raise ValueError(f"KerasHub's GPT2Tokenizer cannot be this tokenizer, it {fault}{_REMEDY}")
    with open(os.path.join(folder, VOCABULARY), "w", encoding="utf-8") as file:
        json.dump(spec.ids, file)
    with open(os.path.join(folder, MERGES), "w", encoding="utf-8") as file:
        file.writelines(f"{' '.join(merge)}\n" for merge in spec.model.merges)
    special = [token.content for token in spec.added_tokens]
    return {
        "sequence_length": None,
        "add_prefix_space": splitter.add_prefix_space,
        "unsplittable_tokens": list(dict.fromkeys([END_OF_TEXT, *special])),
    }


def around(tokenizer) -> dict[str, bool]:
    """Which of its two tokens KerasHub is to put around a text, as options of a preprocessor.

    Raises:
      ValueError: the tokenizer puts others there.
    """
    single = tokenizer.post_processor.single
    is_bytes = isinstance(tokenizer, tokenizers.ByteLevelBPE)
    start, end = (END_OF_TEXT, END_OF_TEXT) if is_bytes else ("<s>", "</s>")
    for ids, token in ((single.prefix.ids, start), (single.suffix.ids, end)):
        if ids not in ((), (tokenizer.token_to_id(token),)):
            raise ValueError(
                f"tokenizer.json: post_processor adds the tokens {list(ids)}; KerasHub adds "
                f"{token} alone{_REMEDY}"
            )
    return {"add_start_token": bool(single.prefix.ids), "add_end_token": bool(single.suffix.ids)}
