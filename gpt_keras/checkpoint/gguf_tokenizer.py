"""The tokenizer inside a GGUF file."""

from gpt_keras import tokenizers

# `tokenizer.ggml.pre` -> how text is split before merging, as `ByteLevelBPE` calls it. Source:
# llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp.
PRE_TOKENIZERS = {"gpt-2": "gpt2", "smollm": "digits_gpt2"}
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # llama.cpp's llama_token_type


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
    tokens, types = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.token_type")
    special = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, types or [1] * len(tokens), strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    }
    return tokenizers.ByteLevelBPE.from_vocab_and_merges(
        {token: i for i, token in enumerate(tokens)},
        [tuple(merge.split(" ")) for merge in file.get("tokenizer.ggml.merges", [])],
        special,
        pre_tokenizer=PRE_TOKENIZERS[pre],
        bos_token_id=file.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=file.get("tokenizer.ggml.padding_token_id"),
        chat_template=file.get("tokenizer.chat_template"),
    )
