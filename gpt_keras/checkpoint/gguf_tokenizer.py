"""The tokenizer inside a GGUF file."""

from gpt_keras import tokenizers

# `tokenizer.ggml.pre` -> how text is split before merging, as `ByteLevelBPE` calls it. Source:
# llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp.
PRE_TOKENIZERS = {
    "gpt-2": "gpt2",
    "olmo": "gpt2",
    "phi-2": "gpt2",
    "refact": "digits_gpt2",
    "smollm": "digits_gpt2",
    "starcoder": "digits_gpt2",
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
    if model != "gpt2":
        raise ValueError(
            f"{file.where}: tokenizer.ggml.model={model!r}: unsupported; supported is gpt2 "
            "(byte-level BPE)"
        )
    pre = file.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"{file.where}: tokenizer.ggml.pre={pre!r}: unsupported; supported are "
            f"{', '.join(PRE_TOKENIZERS)}"
        )
    tokens = file.get("tokenizer.ggml.tokens", [])
    types = file.get("tokenizer.ggml.token_type", [])
    try:
        return tokenizers.ByteLevelBPE.from_vocab_and_merges(
            tokens,
            file.get("tokenizer.ggml.merges", []),
            [tokens[i] for i, kind in enumerate(types) if kind == _CONTROL],
            added_tokens=[tokens[i] for i, kind in enumerate(types) if kind == _USER_DEFINED],
            pre_tokenizer=PRE_TOKENIZERS[pre],
            add_prefix_space=bool(file.get("tokenizer.ggml.add_space_prefix", False)),
            bos_token_id=file.get("tokenizer.ggml.bos_token_id"),
            eos_token_id=file.get("tokenizer.ggml.eos_token_id"),
            pad_token_id=file.get("tokenizer.ggml.padding_token_id"),
            unk_token_id=file.get("tokenizer.ggml.unknown_token_id"),
            chat_template=file.get("tokenizer.chat_template"),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file.where}: tokenizer: {error}") from error
