"""The tokenizer inside a GGUF file."""

import json

import gguf

from gpt_keras import tokenizers
from gpt_keras.tokenizers import (
    byte_fallback,
    metaspace,
    post_processor,
    pre_tokenizer,
    sentence_piece,
)

# `tokenizer.ggml.pre` -> what `ByteLevelBPE.from_vocab_and_merges` is to do. Source: llama.cpp's
# src/llama-vocab.cpp, `llm_tokenizer_bpe` for the words and `llama_vocab::impl::load` for
# ignore_merges. It normalizes nothing; NFC is what the tokenizers do that the models were trained
# with: GPT-NeoX's (OLMo, MPT), Cohere's and Qwen's, see transformers' tokenization_gpt_neox.py,
# tokenization_cohere.py and tokenization_qwen2.py; DeepSeek-R1-Distill-Qwen has the last one too,
# https://github.com/huggingface/transformers/pull/48211.
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
    "llama-v3": {"pre_tokenizer": "llama3", "ignore_merges": True},
    "falcon3": {"pre_tokenizer": "llama3", "ignore_merges": True},
    "dbrx": {"pre_tokenizer": "llama3"},
    "smaug-bpe": {"pre_tokenizer": "llama3"},
    "qwen2": {"pre_tokenizer": "qwen2", **_NFC},
    "stablelm2": {"pre_tokenizer": "qwen2"},
    "tekken": {"pre_tokenizer": "tekken", "ignore_merges": True},
    "gpt-4o": {"pre_tokenizer": "o200k"},
    "deepseek-r1-qwen": {"pre_tokenizer": "qwen2", **_NFC},
}
# Of these llama.cpp puts a token before a text where the file does not say.
_BEGIN = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}
# Of llama.cpp's llama_token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


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
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
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
      tokenizer: a `tokenizers.ByteLevelBPE` or `tokenizers.SentencePieceBPE`.
      config: of the model; rows of its table without a token get one that no text has.

    Raises:
      ValueError: a tokenizer that llama.cpp has no name for, or other tokens around a text than
        those that begin and end the model's.
    """
    makers = {
        tokenizers.ByteLevelBPE: _add_byte_level_bpe,
        tokenizers.SentencePieceBPE: _add_sentence_piece_bpe,
    }
    if type(tokenizer) not in makers:
        raise ValueError(
            f"{type(tokenizer).__name__} tokenizers are not written as GGUF, byte-level and "
            "SentencePiece BPE are; with_tokenizer=False when the model is read leaves it out"
        )
    spec = tokenizer.spec
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [_UNUSED] * config.vocab_size
    for token, i in spec.model.vocab.items():
        tokens[i], types[i] = token, _NORMAL
    for token, i in spec.added_tokens.items():
        tokens[i], types[i] = token.content, _CONTROL if token.special else _USER_DEFINED
    makers[type(tokenizer)](writer, spec, types)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
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


def _add_byte_level_bpe(writer, spec, types):
    del types
    splitter = pre_tokenizer.from_json(spec.pre_tokenizer, "tokenizer.json")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_name_of(spec, splitter))
    writer.add_token_merges([" ".join(pair) for pair in spec.model.merges])
    writer.add_add_space_prefix(splitter.add_prefix_space)


def _name_of(spec, splitter) -> str:
    """llama.cpp's name of how a tokenizer splits texts; one that normalizes alike if there is."""
    steps = _normalizers(spec)
    if len(steps) > 1 or any(step != {"type": "NFC"} for step in steps):
        raise ValueError(f"tokenizer.json: normalizer {steps}: llama.cpp has no name for it")
    found = {}
    for name, options in PRE_TOKENIZERS.items():
        other = pre_tokenizer.named(options["pre_tokenizer"])
        if (splitter.pattern, splitter.digits) == (other.pattern, other.digits) and (
            spec.model.ignore_merges == options.get("ignore_merges", False)
        ):
            found.setdefault("normalizer" in options, name)
    if not found:
        raise ValueError(f"tokenizer.json: pre_tokenizer {splitter}: llama.cpp has no name for it")
    return found.get(bool(steps)) or next(iter(found.values()))


def _add_sentence_piece_bpe(writer, spec, types):
    model = spec.model
    if not model.byte_fallback:
        raise ValueError("tokenizer.json: no byte_fallback, without which llama.cpp cannot do")
    try:
        scores = dict(zip(model.vocab.values(), sentence_piece.scores(model), strict=True))
    except ValueError as error:
        raise ValueError(f"tokenizer.json: {error}: not written as GGUF") from None
    for token in byte_fallback.BYTE_TOKENS:
        if token in model.vocab:
            types[model.vocab[token]] = _BYTE
    if model.unk_id is not None:
        types[model.unk_id] = _UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # Scores of tokens that are never merged are of no use; the converter's is this.
    writer.add_token_scores([scores.get(i, -1000.0) for i in range(len(types))])
    writer.add_add_space_prefix(_dummy_prefix(spec))


def _dummy_prefix(spec) -> bool:
    """Whether a blank is put before a text; all other blanks are to become ▁ where they are."""
    prepend = {"type": "Prepend", "prepend": metaspace.MARK}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": metaspace.MARK}
    steps, node = _normalizers(spec), spec.pre_tokenizer
    # Gemma's file splits at blanks, of which the normalizer has left none.
    idle = node is None or (node["type"] == "Split" and node["pattern"] == {"String": " "})
    if idle and steps in ([replace], [prepend, replace]):
        return steps[0] == prepend
    if steps in ([], [replace]) and node and node["type"] == "Metaspace" and not node.get("split"):
        return metaspace.scheme(node, "tokenizer.json") != "never"
    raise ValueError(
        f"tokenizer.json: normalizer {steps} with pre_tokenizer {node}: llama.cpp has no name for "
        "it"
    )


def _normalizers(spec) -> list[dict]:
    node = json.loads(spec.text).get("normalizer")
    if node is None:
        return []
    return node["normalizers"] if node["type"] == "Sequence" else [node]
