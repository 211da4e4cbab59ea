"""Byte-level BPE (Radford et al., 2019): GPT-2, SmolLM2, Llama 3, Qwen and most that came after."""

from gpt_keras.tokenizers import post_processor, tokenizer_config, tokenizer_json
from gpt_keras.tokenizers import pre_tokenizer as pre_tokenizers
from gpt_keras.tokenizers.byte_alphabet import to_bytes
from gpt_keras.tokenizers.json_tokenizer import JsonTokenizer
from gpt_keras.tokenizers.word_encoder import WordEncoder


class ByteLevelBPE(JsonTokenizer):
    """Byte-level BPE with the ids of Hugging Face `tokenizers`, in the graph.

    See `Tokenizer`. All bytes that the vocabulary has come back from `detokenize` as they went in;
    what it lacks (SmolLM2's lacks some control characters) is dropped, as in the reference.
    """

    def _make_parts(self, spec, where):
        decoder = (spec.decoder or {}).get("type")
        if decoder != "ByteLevel":
            raise ValueError(f"{where}: decoder {decoder}: unsupported; supported is ByteLevel")
        if spec.model.byte_fallback:
            raise ValueError(f"{where}: model with byte_fallback=True: unsupported with ByteLevel")
        splitter = pre_tokenizers.from_json(spec.pre_tokenizer, where)
        return splitter, WordEncoder(spec.model)

    def _bytes_of(self, token):
        content = to_bytes(token)
        return token.encode() if content is None else content

    @classmethod
    def from_vocab_and_merges(
        cls,
        vocab,
        merges,
        special_tokens=(),
        *,
        added_tokens=(),
        pre_tokenizer="gpt2",
        add_prefix_space=False,
        normalizer=None,
        ignore_merges=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        unk_token_id=None,
        add_bos_token=False,
        add_eos_token=False,
        chat_template=None,
    ) -> "ByteLevelBPE":
        """A tokenizer from the parts that a GGUF file or the files of GPT-2 hold.

        Args:
          vocab: dict token -> id, or the tokens in the order of their ids, in the byte alphabet.
          merges: pairs of tokens, or strings with a blank between the two, best first.
          special_tokens: strings, in a sequence or the keys of a dict; those that are not in
            `vocab` get the ids after it.
          added_tokens: likewise, found in texts but not special.
          pre_tokenizer: a key of `pre_tokenizer.NAMED`.
          add_prefix_space: put a blank before a text that does not begin with one.
          normalizer: None, or what texts are brought into first, such as "NFC".
          ignore_merges: a word that is in the vocabulary is that token, whatever the merges say.
          bos_token_id, eos_token_id, pad_token_id, unk_token_id: ids or None.
          add_bos_token, add_eos_token: whether `encode` puts them before and after a text.
          chat_template: Jinja source or None.

        Raises:
          ValueError: an unknown pre-tokenizer, a token id outside the vocabulary or one to add that
            is not given, a merge of tokens that are not in the vocabulary.
        """
        splitter = pre_tokenizers.named(pre_tokenizer, add_prefix_space)
        vocab = dict(vocab) if hasattr(vocab, "keys") else {t: i for i, t in enumerate(vocab)}
        config = {"clean_up_tokenization_spaces": False}
        names = {i: token for token, i in vocab.items()}
        named = (bos_token_id, eos_token_id, pad_token_id, unk_token_id)
        for name, token_id in zip(tokenizer_config.NAMES, named, strict=True):
            if token_id is not None:
                if token_id not in names:
                    raise ValueError(f"{name}_id={token_id}: not an id of the vocabulary")
                config[name] = names[token_id]
        around = []
        for name, token_id, adds in zip(
            ("bos", "eos"), named[:2], (add_bos_token, add_eos_token), strict=True
        ):
            if adds and token_id is None:
                raise ValueError(f"add_{name}_token=True: there is no {name}_token_id to add")
            around.append((names[token_id], token_id) if adds else None)
        text = tokenizer_json.write(
            tokenizer_json.BPEModel(vocab, list(merges), ignore_merges),
            special_tokens,
            added_tokens,
            splitter.to_json(),
            None if normalizer is None else {"type": normalizer},
            post_processor=post_processor.to_json(*around),
        )
        if chat_template is not None:
            config["chat_template"] = chat_template
        return cls(text, config, "vocab and merges")
