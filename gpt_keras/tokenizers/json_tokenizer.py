"""What all tokenizers that a `tokenizer.json` describes have in common."""

import abc
import dataclasses
import os
import types

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import offsets, ragged, tokenizer_config, tokenizer_json, utf8
from gpt_keras.tokenizers.added_tokens import AddedTokenFinder, Parts
from gpt_keras.tokenizers.byte_alphabet import ALPHABET
from gpt_keras.tokenizers.tokenizer import Tokenizer, Tokens, as_ids, as_texts

FILE = "tokenizer.json"


class JsonTokenizer(Tokenizer):
    """A tokenizer with the ids of Hugging Face `tokenizers`, in the graph; see `Tokenizer`.

    Added tokens are cut out of the text, what lies between is normalized, split into words, and the
    words are encoded.
    """

    _model_type = tokenizer_json.BPEModel

    def __init__(self, text, config: dict | None = None, where: str = FILE):
        """
        Args:
          text: str or bytes of a `tokenizer.json`, or the `tokenizer_json.TokenizerJson` of one.
          config: fields of a `tokenizer_config.json`.
          where: begins the message of an error.

        Raises:
          ValueError: malformed, or asks for something that is not supported, which it names.
        """
        super().__init__()
        is_read = isinstance(text, tokenizer_json.TokenizerJson)
        self._spec = text if is_read else tokenizer_json.parse(text, where)
        if not isinstance(self._spec.model, self._model_type):
            raise ValueError(
                f"{where}: {type(self._spec.model).__name__}, where {type(self).__name__} has "
                f"{self._model_type.__name__}: use gpt_keras.tokenizers.load"
            )
        self._config = types.MappingProxyType(dict(config or {}))
        self.vocab_size = max(self._spec.tokens) + 1
        self._name_tokens(where)
        self.post_processor = tokenizer_config.post_processor(
            self._config, self._spec.post_processor
        )
        around = self.post_processor
        self._trim = (
            offsets.Trim(self._spec.tokens, ALPHABET[ord(" ")], around.has_prefix)
            if around.trims
            else None
        )
        self._normalizer = self._spec.normalizer
        self._finder, self._normalized_finder = self._finders()
        self._first_bytes = (
            None  # (vocab_size,) string, of tokens that begin a text, if they differ
        )
        self._splitter, self._encoder = self._make_parts(self._spec, where)
        self._add_token_bytes()
        signature = [tf.TensorSpec([None], tf.string)]
        self._encode = tf.function(self._encode_with_special, signature, autograph=False)
        self._encode_plain = tf.function(self._encode_as_text, signature, autograph=False)
        self._locate = tf.function(self._encode_located, autograph=False, reduce_retracing=True)
        self._decode = tf.function(self._decode_ids, autograph=False)

    @abc.abstractmethod
    def _make_parts(self, spec: tokenizer_json.TokenizerJson, where: str):
        """(splitter, encoder).

        The splitter takes (C,) int32 code points, (P + 1,) int64 row splits of P texts and (P,)
        bool, those that stand at the beginning of a row, and returns `Words`. The encoder takes
        the texts of words and returns values, (v,) int32, and (W + 1,) int64 row splits; its
        `spans` takes all three and returns where the values stand, see `offsets.end_to_end`.
        """

    @abc.abstractmethod
    def _bytes_of(self, token: str) -> bytes:
        """The bytes that a token of the model stands for."""

    def _bytes_of_added(self, content: str) -> bytes:
        return content.encode()

    def _name_tokens(self, where):
        where = where.removesuffix(FILE) + tokenizer_config.FILE
        named = tokenizer_config.named_tokens(self._config, where)
        for name in tokenizer_config.NAMES:
            token = named.get(name)
            if token is not None and token not in self._spec.ids:
                raise ValueError(
                    f"{where}: {name} {token!r} is not in the vocabulary: add it to {FILE}"
                )
            setattr(self, f"{name}_id", None if token is None else self._spec.ids[token])
        self.mask_token_id = self._spec.ids.get(named.get(tokenizer_config.MASK))
        self.chat_template = tokenizer_config.chat_template(self._config, where)

    def _finders(self):
        """Of the added tokens that are found in texts as they are, and in normalized ones."""
        written = list(self._spec.added_tokens.items())
        if any(token.normalized for token, _ in written):
            contents = tf.constant([token.content for token, _ in written])
            contents = self._normalizer.of_texts(contents).numpy()
            written = [
                (dataclasses.replace(t, content=c.decode()) if t.normalized else t, i)
                for (t, i), c in zip(written, contents, strict=True)
            ]
        self._written = tuple(written)  # as texts have them, and as the reference decodes them
        plain = {t: i for t, i in written if not t.normalized}
        normalized = {}  # of those that have become equal the first one counts, special ones first
        for token, i in sorted(written, key=lambda pair: not pair[0].special):
            if token.normalized and token.content:
                normalized.setdefault(token.content, (token, i))
        return tuple(AddedTokenFinder(t) if t else None for t in (plain, dict(normalized.values())))

    def _decoded(self):
        """How texts have each token, in the order of their ids; "" for ids without one."""
        decoded = self._spec.tokens | {i: token.content for token, i in self._written}
        return [decoded.get(i, "") for i in range(self.vocab_size)]

    def _add_token_bytes(self):
        table = [b""] * self.vocab_size
        for token, i in self._spec.model.vocab.items():
            table[i] = self._bytes_of(token)
        for token, i in self._written:
            table[i] = self._bytes_of_added(token.content)
        self.token_bytes = tf.constant(table, tf.string)
        self._is_special = np.zeros(self.vocab_size, bool)
        self._is_special[list(self.special_tokens.values())] = True

    @property
    def spec(self) -> tokenizer_json.TokenizerJson:
        """What the `tokenizer.json` says."""
        return self._spec

    @property
    def special_tokens(self):
        return {t.content: i for t, i in self._spec.added_tokens.items() if t.special}

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike):
        """Reads a `tokenizer.json`, and the `tokenizer_config.json` beside it if there is one.

        Raises:
          ValueError: missing, malformed, or not supported; the message names the file.
        """
        path = os.fspath(path)
        return cls(tokenizer_json.read(path), tokenizer_config.read(os.path.dirname(path)), path)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts, allow_special=True):
        texts = as_texts(texts)
        values, splits = (self._encode if allow_special else self._encode_plain)(texts)
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

    def _encode_with_special(self, texts):
        return self._encode_texts(texts, allow_special=True)

    def _encode_as_text(self, texts):
        return self._encode_texts(texts, allow_special=False)

    @tf.autograph.experimental.do_not_convert
    def tokenize_with_offsets(self, texts, allow_special=True):
        *flat, splits = self._locate(as_texts(texts), allow_special)
        return Tokens(*(tf.RaggedTensor.from_row_splits(x, splits, validate=False) for x in flat))

    def _encode_texts(self, texts, allow_special):
        """(values (v,) int32, splits (B + 1,) int64) of (B,) string."""
        parts, words = self._cut(texts, allow_special)
        values, splits = self._encode_words(words.texts, allow_special)
        splits = tf.gather(splits, words.splits)  # (P + 1,)
        values, splits = _insert(values, splits, parts.ids >= 0, parts.ids)
        return values, tf.gather(splits, parts.splits)

    def _cut(self, texts, allow_special):
        """(B,) string -> `Parts`, and the `Words` of those that are text."""
        parts = Parts.whole(utf8.replace_invalid(texts))
        if self._finder is not None:
            parts = self._finder(parts, allow_special)
        code_points, splits, origin = self._normalizer(*parts.code_points())
        parts = parts._replace(sources=tf.gather(parts.sources, origin))
        if self._normalized_finder is not None:
            parts = parts._replace(texts=utf8.from_splits(code_points, splits))
            parts = self._normalized_finder(parts, allow_special)
            code_points, splits = parts.code_points()
        is_first_part = ragged.mark(parts.splits[:-1], tf.size(parts.ids))
        return parts, self._splitter(code_points, splits, is_first_part)

    def _encode_located(self, texts, allow_special):
        """(ids, starts, ends (v,) int32, splits (B + 1,) int64) of (B,) string."""
        parts, words = self._cut(texts, allow_special)
        values, splits = self._encode_words(words.texts, allow_special)
        starts, limits = self._spans(words.texts, values, splits, allow_special)
        # From the bytes of words to the code points of words, to those of the texts.
        lengths = utf8.lengths(words.code_points)
        owners = ragged.row_ids(tf.concat([[0], tf.cumsum(lengths)], 0))
        sources = tf.gather(parts.sources, words.origin)
        owners = tf.concat([owners, owners[-1:]], 0)  # what stands for nothing may be at the end
        begins = tf.gather(sources, tf.gather(owners, starts))
        last = tf.gather(sources, tf.gather(owners, tf.maximum(limits - 1, 0)))
        ends = tf.where(limits > starts, last + 1, begins)
        located = tf.stack([tf.cast(values, tf.int64), begins, ends], axis=1)  # (v, 3)
        added = tf.stack([tf.cast(parts.ids, tf.int64), parts.begins, parts.ends], axis=1)
        splits = tf.gather(splits, words.splits)
        located, splits = _insert(located, splits, parts.ids >= 0, added)
        splits = tf.gather(splits, parts.splits)
        ids, begins, ends = tf.unstack(located, axis=1)
        # From code points of all texts to bytes of each.
        places = utf8.boundaries(texts)
        rows = ragged.row_ids(splits)
        if self._trim is not None:
            firsts = tf.gather(places.row_splits, rows) - rows
            begins, ends = self._trim(ids, begins, ends, splits, firsts)
        begins, ends = (tf.gather(places.values, x + rows) for x in (begins, ends))
        return *(tf.cast(x, tf.int32) for x in (ids, begins, ends)), splits

    def _encode_words(self, words, allow_special):
        """Ids of words; for those whose vocabulary could give special tokens inside of them."""
        del allow_special
        return self._encoder(words)

    def _spans(self, words, values, splits, allow_special):
        """Where in the words the ids of `_encode_words` stand, see `offsets.end_to_end`."""
        del allow_special
        return self._encoder.spans(words, values, splits)

    @tf.autograph.experimental.do_not_convert
    def detokenize(self, ids, skip_special_tokens=False, continues=False):
        ids = as_ids(ids)
        return self._decode(ids.values, ids.row_splits, skip_special_tokens, continues)

    def _decode_ids(self, ids, splits, skip_special_tokens, continues):
        ids, splits = (tf.ensure_shape(x, [None]) for x in (ids, splits))
        wrong = tf.squeeze(tf.where((ids < 0) | (ids >= self.vocab_size)), 1)
        message = f"a token id is outside the vocabulary, [0, {self.vocab_size}):"
        check = tf.debugging.Assert(tf.size(wrong) == 0, [message, tf.gather(ids, wrong[:1])])
        with tf.control_dependencies([check]):
            pieces = tf.gather(self.token_bytes, ids)  # (v,)
        is_kept = tf.ones_like(ids, tf.bool)
        if skip_special_tokens:
            is_kept = ~tf.gather(self._is_special, ids)
            pieces = tf.where(is_kept, pieces, "")
        return self._join(pieces, ids, is_kept, tf.cast(splits, tf.int64), continues)

    def _join(self, pieces, ids, is_kept, splits, continues):
        """Texts of rows of tokens.

        Args:
          pieces: (v,) string, what each one stands for, "" where it is not kept.
          ids: (v,) int32 or int64.
          is_kept: (v,) bool.
          splits: (B + 1,) int64.
          continues: bool, see `detokenize`.
        """
        if self._first_bytes is not None and not continues:
            kept = tf.squeeze(tf.where(is_kept), 1)
            row_ids = tf.gather(ragged.row_ids(splits), kept)
            first = tf.squeeze(tf.where(ragged.previous(row_ids, -1) != row_ids), 1)
            first = tf.gather(kept, first)
            bare = tf.gather(self._first_bytes, tf.gather(ids, first))
            pieces = tf.tensor_scatter_nd_update(pieces, first[:, tf.newaxis], bare)
        rows = tf.size(splits) - 1
        return tf.strings.unsorted_segment_join(pieces, ragged.row_ids(splits), rows)

    def id_to_token(self, token_id):
        try:
            return self._spec.tokens[int(token_id)]
        except KeyError:
            raise ValueError(
                f"token id {token_id}: no such token; ids are in [0, {self.vocab_size})"
            ) from None

    def token_to_id(self, token):
        return self._spec.ids.get(token)

    def save(self, directory):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, FILE), "wb") as file:
            file.write(self._spec.text)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        tokenizer_config.write(config, directory)


def _insert(values, splits, is_known, added):
    """Rows of tokens, with those of (P, ...) `added` that are known in the place of the rows there.

    Args:
      values: (v, ...); splits: (P + 1,) int64; is_known: (P,) bool.
    """
    known = tf.squeeze(tf.where(is_known), 1)

    def insert():
        rows = ragged.Rows(values, splits[:-1], splits[1:])
        each = tf.range(tf.size(known, out_type=tf.int64) + 1)
        return rows.replace(known, each[:-1], tf.gather(added, known), each).to_splits()

    return tf.cond(tf.size(known) > 0, insert, lambda: (values, splits))
