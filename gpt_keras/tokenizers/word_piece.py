"""WordPiece (Wu et al., 2016, https://arxiv.org/abs/1609.08144), as BERT has it."""

import tensorflow as tf
import tensorflow_text as tf_text

from gpt_keras.tokenizers import metaspace, offsets, tables, tokenizer_json
from gpt_keras.tokenizers.json_tokenizer import JsonTokenizer

# What `cleanup` of the decoder takes the blank from, one after the other. Source: `cleanup` in
# tokenizers/src/decoders/wordpiece.rs of https://github.com/huggingface/tokenizers.
_CLEAN = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
_MAX_BYTES = 2**30  # of a word: its characters are counted, as the reference does it


class WordPiece(JsonTokenizer):
    """WordPiece with the ids of Hugging Face `tokenizers`, in the graph.

    See `Tokenizer`. It does not keep white space, so `detokenize` gives other text than went in, as
    in the reference.
    """

    _model_type = tokenizer_json.WordPieceModel

    def _make_parts(self, spec, where):
        node = spec.decoder or {}
        if node.get("type") != "WordPiece" or node["prefix"] != spec.model.prefix:
            raise ValueError(
                f"{where}: decoder {node}: unsupported; supported is WordPiece with the prefix "
                f"{spec.model.prefix!r}"
            )
        self._cleans_up = bool(node["cleanup"])
        steps = metaspace.from_json(spec.pre_tokenizer, where)
        self._first_bytes = tf.constant([self._clean(token) for token in self._decoded()])
        return metaspace.CharSplitter(steps), LongestPieces(spec.model)

    def _bytes_of(self, token):
        prefix = self._spec.model.prefix
        is_inside = token.startswith(prefix)
        return self._clean(token.removeprefix(prefix) if is_inside else f" {token}").encode()

    _bytes_of_added = _bytes_of  # they pass the same decoder

    def _clean(self, token):
        for old, new in _CLEAN if self._cleans_up else ():
            token = token.replace(old, new)
        return token


class LongestPieces(tf.Module):
    """Words to ids: the longest token that begins a word, then the longest that goes on."""

    def __init__(self, model, name=None):
        """
        Args:
          model: a `tokenizer_json.WordPieceModel`.
        """
        super().__init__(name=name)
        self._unk_id, self._max_chars = model.vocab[model.unk_token], model.max_chars
        ids = tf.constant(list(model.vocab.values()), tf.int64)
        initializer = tf.lookup.KeyValueTensorInitializer(list(model.vocab), ids)
        self._table = tf.lookup.StaticHashTable(initializer, self._unk_id)
        self._op = tf_text.WordpieceTokenizer(
            self._table,
            suffix_indicator=model.prefix,
            max_bytes_per_word=_MAX_BYTES,
            token_out_type=tf.int64,
            unknown_token=model.unk_token,
        )
        self._sizes = offsets.size_table(
            {i: len(token.removeprefix(model.prefix).encode()) for token, i in model.vocab.items()}
        )
        tokens = [token for token in model.vocab if 0 < len(token) <= model.max_chars]
        self._words = tables.own_words(tokens, [model.vocab[token] for token in tokens], None)

    def __call__(self, words):
        """(W,) string -> (values (v,) int32, splits (W + 1,) int64)."""
        return tables.encode_words(self._words, words, self._cut)

    def spans(self, words, values, splits):
        """Where in the words each token stands, see `offsets.end_to_end`."""
        sizes = tf.gather(self._sizes, values)
        # The unknown token stands for a whole word.
        unknown = tf.cast(tf.strings.length(words), tf.int64)
        unknown = tf.boolean_mask(unknown, tf.gather(values, splits[:-1]) == self._unk_id)
        sizes = offsets.put_unknown(sizes, values, self._unk_id, unknown)
        return offsets.end_to_end(words, splits, sizes)

    def _cut(self, words):
        is_long = tf.strings.length(words, unit="UTF8_CHAR") > self._max_chars
        ids = self._op.tokenize(tf.where(is_long, "", words))  # (W, None)
        unknown = tf.fill([tf.size(words), 1], tf.constant(self._unk_id, tf.int64))
        ids = tf.concat([ids, tf.ragged.boolean_mask(unknown, is_long[:, tf.newaxis])], axis=1)
        return tf.cast(ids.values, tf.int32), tf.cast(ids.row_splits, tf.int64)
