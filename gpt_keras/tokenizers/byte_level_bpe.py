"""Byte-level BPE (Radford et al., 2019): GPT-2, SmolLM2 and most that came after."""

import json
import os
import types

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import pre_tokenizer as pre_tokenizers
from gpt_keras.tokenizers import ragged, tokenizer_config, tokenizer_json, utf8
from gpt_keras.tokenizers.added_tokens import AddedTokenFinder
from gpt_keras.tokenizers.byte_alphabet import to_bytes
from gpt_keras.tokenizers.tokenizer import Tokenizer, as_ids, as_texts
from gpt_keras.tokenizers.word_encoder import WordEncoder

FILE = "tokenizer.json"


class ByteLevelBPE(Tokenizer):
    """Byte-level BPE with the ids of Hugging Face `tokenizers`, in the graph.

    See `Tokenizer`. All bytes that the vocabulary has come back from `detokenize` as they went in;
    what it lacks (SmolLM2's lacks some control characters) is dropped, as in the reference.
    """

    def __init__(self, text: str | bytes, config: dict | None = None, where: str = FILE):
        """
        Args:
          text: of a `tokenizer.json`.
          config: fields of a `tokenizer_config.json`.
          where: begins the message of an error.

        Raises:
          ValueError: malformed, or asks for something that is not supported, which it names.
        """
        super().__init__(name="byte_level_bpe")
        self._text = text.encode() if isinstance(text, str) else text
        self._spec = tokenizer_json.parse(self._text, where)
        self._config = types.MappingProxyType(dict(config or {}))
        self._ids = types.MappingProxyType(self._spec.ids())
        self._tokens = types.MappingProxyType({i: token for token, i in self._ids.items()})
        self.vocab_size = max(self._tokens) + 1
        self._name_tokens(where)
        self._splitter = self._spec.pre_tokenizer
        self._finder = AddedTokenFinder(self._spec.added_tokens)
        self._encoder = WordEncoder(self._spec.model)
        self._add_token_bytes()
        signature = [tf.TensorSpec([None], tf.string)]
        self._encode = tf.function(self._encode_with_special, signature, autograph=False)
        self._encode_plain = tf.function(self._encode_as_text, signature, autograph=False)
        self._decode = tf.function(self._decode_ids, autograph=False)

    def _name_tokens(self, where):
        where = where.removesuffix(FILE) + tokenizer_config.FILE
        named = tokenizer_config.named_tokens(self._config, where)
        for name in tokenizer_config.NAMES:
            token = named.get(name)
            if token is not None and token not in self._ids:
                raise ValueError(
                    f"{where}: {name} {token!r} is not in the vocabulary: add it to {FILE}"
                )
            setattr(self, f"{name}_id", None if token is None else self._ids[token])
        self.chat_template = tokenizer_config.chat_template(self._config, where)

    def _add_token_bytes(self):
        table = [b""] * self.vocab_size
        for token, i in self._spec.model.vocab.items():
            content = to_bytes(token)
            table[i] = token.encode() if content is None else content
        for token, i in self._spec.added_tokens.items():
            table[i] = token.content.encode()
        self.token_bytes = tf.constant(table, tf.string)
        self._is_special = np.zeros(self.vocab_size, bool)
        self._is_special[list(self.special_tokens.values())] = True

    @property
    def special_tokens(self):
        return {t.content: i for t, i in self._spec.added_tokens.items() if t.special}

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike) -> "ByteLevelBPE":
        """Reads a `tokenizer.json`, and the `tokenizer_config.json` beside it if there is one.

        Raises:
          ValueError: missing, malformed, or not supported; the message names the file.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise ValueError(
                f"{path}: {error.strerror}; expected the {FILE} of a byte-level BPE tokenizer"
            ) from error
        return cls(text, tokenizer_config.read(os.path.dirname(path)), path)

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
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        unk_token_id=None,
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
          bos_token_id, eos_token_id, pad_token_id, unk_token_id: ids or None.
          chat_template: Jinja source or None.

        Raises:
          ValueError: an unknown pre-tokenizer, a token id outside the vocabulary, a merge of tokens
            that are not in it.
        """
        splitter = pre_tokenizers.named(pre_tokenizer, add_prefix_space)
        vocab = dict(vocab) if hasattr(vocab, "keys") else {t: i for i, t in enumerate(vocab)}
        text = tokenizer_json.write(
            tokenizer_json.BPEModel(vocab, list(merges)), special_tokens, added_tokens, splitter
        )
        config = {"clean_up_tokenization_spaces": False}
        names = {i: token for token, i in vocab.items()}
        named = (bos_token_id, eos_token_id, pad_token_id, unk_token_id)
        for name, token_id in zip(tokenizer_config.NAMES, named, strict=True):
            if token_id is not None:
                if token_id not in names:
                    raise ValueError(f"{name}_id={token_id}: not an id of the vocabulary")
                config[name] = names[token_id]
        if chat_template is not None:
            config["chat_template"] = chat_template
        return cls(text, config, "vocab and merges")

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts, allow_special=True):
        texts = as_texts(texts)
        values, splits = (self._encode if allow_special else self._encode_plain)(texts)
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

    def _encode_with_special(self, texts):
        return self._encode_texts(texts, allow_special=True)

    def _encode_as_text(self, texts):
        return self._encode_texts(texts, allow_special=False)

    def _encode_texts(self, texts, allow_special):
        """(values (v,) int32, splits (B + 1,) int64) of (B,) string."""
        texts = utf8.replace_invalid(texts)
        parts, part_ids, part_splits = self._finder(texts, allow_special)
        # An added token takes part as a word, whatever it is, of which the id is known.
        words, word_splits = self._splitter(tf.where(part_ids >= 0, "!", parts))
        known = tf.where(part_ids >= 0)[:, 0]
        values, splits = self._encoder(
            words, tf.gather(word_splits, known), tf.gather(part_ids, known)
        )
        return values, tf.gather(splits, tf.gather(word_splits, part_splits))

    @tf.autograph.experimental.do_not_convert
    def detokenize(self, ids, skip_special_tokens=False):
        ids = as_ids(ids)
        return self._decode(ids.values, ids.row_splits, skip_special_tokens)

    def _decode_ids(self, ids, splits, skip_special_tokens):
        wrong = tf.where((ids < 0) | (ids >= self.vocab_size))[:, 0]
        message = f"a token id is outside the vocabulary, [0, {self.vocab_size}):"
        check = tf.debugging.Assert(tf.size(wrong) == 0, [message, tf.gather(ids, wrong[:1])])
        with tf.control_dependencies([check]):
            pieces = tf.gather(self.token_bytes, ids)  # (v,)
        if skip_special_tokens:
            pieces = tf.where(tf.gather(self._is_special, ids), "", pieces)
        splits = tf.cast(splits, tf.int64)
        rows = tf.size(splits) - 1
        return tf.strings.unsorted_segment_join(pieces, ragged.row_ids(splits), rows)

    def id_to_token(self, token_id):
        try:
            return self._tokens[int(token_id)]
        except KeyError:
            raise ValueError(
                f"token id {token_id}: no such token; ids are in [0, {self.vocab_size})"
            ) from None

    def token_to_id(self, token):
        return self._ids.get(token)

    def save(self, directory):
        os.makedirs(directory, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        with open(os.path.join(directory, FILE), "wb") as file:
            file.write(self._text)
        path = os.path.join(directory, tokenizer_config.FILE)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file, ensure_ascii=False, indent=2)
            file.write("\n")
