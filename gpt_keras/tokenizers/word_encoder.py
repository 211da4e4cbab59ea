"""Words to token ids: whole words by a table, the rest by merges."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import offsets, ragged, tables, utf8
from gpt_keras.tokenizers.byte_alphabet import ALPHABET, to_bytes
from gpt_keras.tokenizers.merges import Merges

_NUM_CHARS = 2**16  # characters below are in a table: the Basic Multilingual Plane


class WordEncoder(tf.Module):
    """The byte-level BPE model of a `tokenizer.json`, without what comes before and after.

    Most words of a text are tokens, and are found in a table of the tokens that merging yields for
    their own bytes. What is not found, each different word once, is cut between characters that no
    token joins: Chinese falls into single characters, nearly, unless the vocabulary is Chinese
    itself. Single characters are found in a table again, and only what is left merges byte by byte.
    """

    def __init__(self, model, name=None):
        """
        Args:
          model: a `tokenizer_json.BPEModel`.
        """
        super().__init__(name=name)
        self._byte_ids, self._is_unknown = _byte_ids(model)
        self._unknown_id, self._fuse_unknown = model.unk_id, model.fuse_unk
        size = max(model.vocab.values()) + 1
        token_bytes = {token: to_bytes(token) for token in model.vocab}
        ranks = {pair: rank for rank, pair in enumerate(model.merges)}
        usable = sorted(
            (rank, left, right)
            for (left, right), rank in ranks.items()
            if token_bytes[left] is not None and token_bytes[right] is not None
        )
        merged = [left + right for _, left, right in usable]
        self._merges = Merges(
            [(model.vocab[left], model.vocab[right]) for _, left, right in usable],
            [model.vocab[token] for token in merged],
            size,
        )
        self._joined = _joined_bytes([token_bytes[token] for token in merged], self._is_unknown)
        self._sizes = offsets.size_table(
            {model.vocab[t]: len(content or b"") for t, content in token_bytes.items()}
        )
        merge = tf.function(self._merge, [tf.TensorSpec([None], tf.string)], autograph=False)
        tokens = [token for token, content in token_bytes.items() if content]
        self._words = tables.own_words(
            [token_bytes[token] for token in tokens],
            [model.vocab[token] for token in tokens],
            None if model.ignore_merges else merge,
        )
        # U+D800 to U+DFFF are no characters; whatever stands for them is never asked for.
        chars = [chr(c).encode("utf-8", "replace") for c in range(_NUM_CHARS)]
        self._char_values, self._char_splits = merge(tf.constant(chars))

    def __call__(self, words):
        """Encodes words, inside a graph.

        Args:
          words: (W,) string, valid UTF-8, none empty.

        Returns:
          (values (v,) int32, splits (W + 1,) int64).
        """
        return tables.encode_words(self._words, words, self._encode_in_pieces)

    def spans(self, words, values, splits):
        """Where in the words each token stands, see `offsets.end_to_end`.

        As in the reference, bytes that vanish shift what comes after them in their word.
        """
        sizes = tf.gather(self._sizes, values)
        if self._unknown_id is not None and self._is_unknown.any():
            codes, owners = self._codes(words)
            unknown = offsets.unknown_sizes(
                tf.gather(self._is_unknown, codes),
                self._kept(codes, owners),
                tf.ones_like(codes, tf.int64),
            )
            sizes = offsets.put_unknown(sizes, values, self._unknown_id, unknown)
        return offsets.end_to_end(words, splits, sizes)

    def _encode_in_pieces(self, words):
        """(values, splits) of words that are not in the table."""
        code_points, splits = utf8.to_code_points(words)
        size = tf.size(code_points, out_type=tf.int64)
        starts = ragged.mark(splits[:-1], size) | ~self._is_joined(code_points)
        starts = tf.squeeze(tf.where(starts), 1)  # (P,)
        limits = tf.concat([starts[1:], splits[-1:]], 0)
        chars = tf.gather(code_points, starts)  # the first one of each piece
        is_single = (limits - starts == 1) & (chars < _NUM_CHARS)
        chars = tf.where(is_single, chars, 0)
        found = ragged.Rows(
            self._char_values,
            tf.gather(self._char_splits, chars),
            tf.gather(self._char_splits, chars + 1),
        )
        missing = tf.squeeze(tf.where(~is_single), 1)
        rest = tf.ragged.range(tf.gather(starts, missing), tf.gather(limits, missing))
        rest = utf8.from_code_points(tf.gather(code_points, rest.values), rest.row_splits[:-1])
        rest, index = tf.unique(rest, out_idx=tf.int64)
        values, piece_splits = found.replace(missing, index, *self._merge(rest)).to_splits()
        return values, tf.gather(piece_splits, tf.searchsorted(starts, splits, out_type=tf.int64))

    def _merge(self, pieces):
        """Encodes (P,) pieces, none empty, byte by byte."""
        codes, owners = self._codes(pieces)
        if self._is_unknown.any():
            kept = tf.squeeze(tf.where(self._kept(codes, owners)), 1)
            codes, owners = tf.gather(codes, kept), tf.gather(owners, kept)
        symbols = tf.gather(self._byte_ids, codes)
        symbols, owners = self._merges(symbols, owners)
        return symbols, ragged.row_splits(owners, tf.size(pieces, out_type=tf.int64))

    def _codes(self, pieces):
        """The bytes of (P,) pieces, (S,) int32, and the piece of each, (S,) int64."""
        codes = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(pieces), tf.uint8), tf.int32)
        lengths = tf.cast(tf.strings.length(pieces), tf.int64)
        return codes, ragged.row_ids(tf.concat([[0], tf.cumsum(lengths)], 0))

    def _kept(self, codes, owners):
        """(S,) bool: bytes that become a symbol. Those that the vocabulary lacks vanish, or become
        the unknown token, one for each run of them where the model says so."""
        unknown = tf.gather(self._is_unknown, codes)
        if self._unknown_id is None:
            return ~unknown
        if not self._fuse_unknown:
            return tf.ones_like(unknown)
        continues = (owners[1:] == owners[:-1]) & unknown[:-1]
        return ~(unknown & tf.concat([unknown[:1] & False, continues], 0))

    def _is_joined(self, code_points):
        """(C,) bool: whether some token holds the end of the character before and this one's start.

        By the last byte of the one and the first byte of the other.
        """
        before = tf.concat([code_points[:1], code_points[:-1]], 0)
        last = tf.where(before < 0x80, before, before % 0x40 + 0x80)
        start = code_points
        for limit, step, lead in (
            (0x80, 0x40, 0xC0),
            (0x800, 0x1000, 0xE0),
            (0x10000, 0x40000, 0xF0),
        ):
            start = tf.where(code_points < limit, start, code_points // step + lead)
        return tf.gather(self._joined, last * 256 + start)


def _byte_ids(model):
    """(256,) int32 symbols of the bytes, and (256,) bool: which of them the vocabulary lacks."""
    unknown = np.array([char not in model.vocab for char in ALPHABET])
    default = -1 if model.unk_id is None else model.unk_id
    return np.array([model.vocab.get(char, default) for char in ALPHABET], np.int32), unknown


def _joined_bytes(tokens, is_unknown):
    """(65536,) bool: whether one byte may be joined to the next, at 256 * byte + next.

    Bytes without a symbol of their own count as joined to all: they may vanish, and their
    neighbours meet.
    """
    joined = np.zeros((256, 256), bool)
    joined[is_unknown], joined[:, is_unknown] = True, True
    for token in tokens:
        codes = np.frombuffer(token, np.uint8)
        joined[codes[:-1], codes[1:]] = True
    return joined.reshape(-1)
