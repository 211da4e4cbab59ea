"""The tokenizer inside a GGUF file."""

from gpt_keras import tokenizers

# `tokenizer.ggml.pre` -> what `ByteLevelBPE.from_vocab_and_merges` is to do. Source:
# llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp, and for what llama.cpp leaves out, the
# normalizer, the tokenizer.json that the models came with.
_NFC = {"normalizer": "NFC"}
PRE_TOKENIZERS = {
    "gpt-2": {"pre_tokenizer": "gpt2"},
    "phi-2": {"pre_tokenizer": "gpt2"},
    "olmo": {"pre_tokenizer": "gpt2", **_NFC},
    "mpt": {"pre_tokenizer": "gpt2", **_NFC},
    "refact": {"pre_tokenizer": "digits_gpt2"},
    "smollm": {"pre_tokenizer": "digits_gpt2"},
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
_CONTROL, _USER_DEFINED = 3, 4  # of llama.cpp's llama_token_type


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
    text = tokenizers.bpe_json(tokens, scores, types, dummy_prefix=prefix)
    return tokenizers.SentencePieceBPE(text, config, "pieces")
