"""The tokenizer inside a GGUF file."""

import gguf

from gpt_keras import tokenizers
from gpt_keras.tokenizers import post_processor, pre_tokenizer

# `tokenizer.ggml.pre` -> what `ByteLevelBPE.from_vocab_and_merges` is to do. Source:
# llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp, and for what llama.cpp leaves out, the
# normalizer, the tokenizer.json that the models came with.
_NFC = {"normalizer": "NFC"}
PRE_TOKENIZERS = {
    "gpt-2": {"pre_tokenizer": "gpt2"},
    "phi-2": {"pre_tokenizer": "gpt2"},
    "olmo": {"pre_tokenizer": "gpt2", **_NFC},
    "mpt": {"pre_tokenizer": "gpt2", **_NFC},
    "smollm": {"pre_tokenizer": "digits_gpt2"},
    "refact": {"pre_tokenizer": "digits_gpt2"},
    "starcoder": {"pre_tokenizer": "digits_gpt2"},
    "command-r": {"pre_tokenizer": "digits_gpt2", **_NFC},
    "llama-bpe": {"pre_tokenizer": "llama3", "ignore_merges": True},
    "llama3": {"pre_tokenizer": "llama3", "ignore_merges": True},
    "dbrx": {"pre_tokenizer": "llama3"},
    "smaug-bpe": {"pre_tokenizer": "llama3"},
    "qwen2": {"pre_tokenizer": "qwen2", **_NFC},
    "tekken": {"pre_tokenizer": "tekken", "ignore_merges": True},
    "gpt-4o": {"pre_tokenizer": "o200k"},
    "deepseek-r1-qwen": {"pre_tokenizer": "qwen2", **_NFC},
}
# Of these llama.cpp puts a token before a text where the file does not say.
_BEGIN = {"llama-bpe", "llama3", "tekken"}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # of llama.cpp's llama_token_type


def make_tokenizer(file):
    """A `tokenizers.Tokenizer` of a `gguf_file.GGUFFile`, or None if the file holds none.

    Raises:
      ValueError: a kind of tokenizer that is not supported, by name.
    """
    model = file.get("tokenizer.ggml.model")
    if model in (None, "none", "no_vocab"):
        return None
    makers = {"gpt2": _byte_level_bpe, "llama": _sentence_piece_bpe}
    if model not in makers:
        raise ValueError(
            f"{file.where}: tokenizer.ggml.model={model!r}: unsupported; supported are gpt2 "
            "(byte-level BPE) and llama (SentencePiece BPE)"
        )
    try:
        return makers[model](file)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file.where}: tokenizer: {error}") from error


def _byte_level_bpe(file):
    pre = file.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre={pre!r}: unsupported; supported are {', '.join(PRE_TOKENIZERS)}"
        )
    tokens = file.get("tokenizer.ggml.tokens", [])
    types = file.get("tokenizer.ggml.token_type", [])
    begin, end = _around(file, pre in _BEGIN)
    return tokenizers.ByteLevelBPE.from_vocab_and_merges(
        tokens,
        file.get("tokenizer.ggml.merges", []),
        [tokens[i] for i, kind in enumerate(types) if kind == _CONTROL],
        added_tokens=[tokens[i] for i, kind in enumerate(types) if kind == _USER_DEFINED],
        **PRE_TOKENIZERS[pre],
        add_prefix_space=bool(file.get("tokenizer.ggml.add_space_prefix", False)),
        bos_token_id=file.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=file.get("tokenizer.ggml.padding_token_id"),
        unk_token_id=file.get("tokenizer.ggml.unknown_token_id"),
        add_bos_token=begin is not None,
        add_eos_token=end is not None,
        chat_template=file.get("tokenizer.chat_template"),
    )


def _sentence_piece_bpe(file):
    tokens, scores, types = (
        file.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "scores", "token_type")
    )
    if not len(tokens) == len(scores) == len(types):
        raise ValueError(
            f"{len(tokens)} tokens, {len(scores)} scores and {len(types)} types: expected as many"
        )
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    config = {"clean_up_tokenization_spaces": False}
    for name in ("bos", "eos", "padding", "unknown"):
        i = file.get(f"tokenizer.ggml.{name}_token_id")
        if i is None:
            continue
        if not 0 <= i < len(tokens):
            raise ValueError(f"{name}_token_id={i}: not one of the {len(tokens)} tokens")
        config[f"{name[:3]}_token"] = tokens[i]
    if template := file.get("tokenizer.chat_template"):
        config["chat_template"] = template
    around = [None if i is None else (tokens[i], i) for i in _around(file, True)]
    node = post_processor.to_json(*around)
    text = tokenizers.bpe_json(tokens, scores, types, (), prefix, node)
    return tokenizers.SentencePieceBPE(text, config, "pieces")


def _around(file, begins: bool) -> list[int | None]:
    """The tokens put before and after a text; `begins` is whether there is one by default."""
    ids = []
    for name, default in (("bos", begins), ("eos", False)):
        token_id = file.get(f"tokenizer.ggml.{name}_token_id")
        adds = file.get(f"tokenizer.ggml.add_{name}_token", default and token_id is not None)
        if adds and token_id is None:
            raise ValueError(f"add_{name}_token is set, but there is no {name}_token_id")
        ids.append(token_id if adds else None)
    return ids


def add(writer: gguf.GGUFWriter, tokenizer, config) -> None:
    """Adds a tokenizer to a file that is being written; the model's token ids are the config's.

    Args:
      writer: of the file.
      tokenizer: a `tokenizers.ByteLevelBPE`.
      config: of the model; rows of its table without a token get one that no text has.

    Raises:
      ValueError: a tokenizer that llama.cpp has no name for, or other tokens around a text than
        those that begin and end the model's.
    """
    if not isinstance(tokenizer, tokenizers.ByteLevelBPE):
        raise ValueError(
            f"{type(tokenizer).__name__} tokenizers are not written as GGUF, byte-level BPE is; "
            "with_tokenizer=False when the model is read leaves it out"
        )
    spec = tokenizer.spec
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_name_of(spec))
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [_UNUSED] * config.vocab_size
    for token, i in spec.model.vocab.items():
        tokens[i], types[i] = token, _NORMAL
    for token, i in spec.added_tokens.items():
        tokens[i], types[i] = token.content, _CONTROL if token.special else _USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in spec.model.merges])
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    splitter = pre_tokenizer.from_json(spec.pre_tokenizer, "tokenizer.json")
    writer.add_add_space_prefix(splitter.add_prefix_space)
    single = tokenizer.post_processor.single
    for name, ids, known in (
        ("bos", single.prefix.ids, (config.bos_token_id,)),
        ("eos", single.suffix.ids, config.eos_token_ids[:1]),
    ):
        if ids not in ((), known):
            raise ValueError(
                f"tokenizer.json: post_processor adds the tokens {list(ids)}; GGUF has the model's "
                f"{name}_token_id alone, {list(known)}"
            )
        writer.add_bool(f"tokenizer.ggml.add_{name}_token", bool(ids))
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _name_of(spec) -> str:
    """llama.cpp's name of how a tokenizer splits texts."""
    splitter = pre_tokenizer.from_json(spec.pre_tokenizer, "tokenizer.json")
    for name, options in PRE_TOKENIZERS.items():
        other = pre_tokenizer.named(options["pre_tokenizer"])
        if (splitter.pattern, splitter.digits) == (other.pattern, other.digits) and (
            spec.model.ignore_merges == options.get("ignore_merges", False)
        ):
            return name
    raise ValueError(f"tokenizer.json: pre_tokenizer {splitter}: llama.cpp has no name for it")
