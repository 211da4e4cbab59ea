"""Words to token ids by merges of characters, as SentencePiece does it."""

import itertools

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import offsets, ragged, tables, utf8
from gpt_keras.tokenizers.byte_fallback import BYTE_TOKENS, byte_ids
from gpt_keras.tokenizers.merges import Merges

_LEADS = np.array([0, 0, 0xC0, 0xE0, 0xF0], np.int32)  # of UTF-8, by the number of bytes
_FILLING = 16  # places of the table of pairs for each pair in it
_NONE, _SEVERAL, _MARKS = -1, -2, 2**15  # in a place of the table: no pair, several, one's mark


class CharEncoder(tf.Module):
    """The BPE model of a `tokenizer.json` whose tokens are written in characters.

    A whole text is one word there, nearly; `is_joined` tells where to cut it.
    """

    def __init__(self, model, where, name=None):
        """
        Args:
          model: a `tokenizer_json.BPEModel`.
          where: begins the message of an error.

        Raises:
          ValueError: bytes of which the vocabulary has some and lacks others, or merges.
        """
        super().__init__(name=name)
        self._model = model
        vocab = model.vocab
        # Of a pair that stands there twice the later rank counts, as in the reference.
        ranks = {pair: rank for rank, pair in enumerate(model.merges)}
        merges = sorted(ranks, key=ranks.get)
        # Unknown characters may vanish, and their neighbours meet, or become something that merges.
        self._unknown_merges = model.unk_token is None or any(model.unk_token in p for p in merges)
        self._byte_ids = byte_ids(model, where)
        bytes_alone = frozenset(BYTE_TOKENS if self._byte_ids is not None else ())
        if merged := [pair for pair in merges if not bytes_alone.isdisjoint(pair)]:
            raise ValueError(
                f"{where}: merge {merged[0]} of a byte that stands for itself: unsupported"
            )
        self._chars = tables.dense({ord(t): i + 1 for t, i in vocab.items() if len(t) == 1})
        self._merges = Merges(
            [(vocab[left], vocab[right]) for left, right in merges],
            [vocab[left + right] for left, right in merges],
            max(vocab.values()) + 1,
        )
        self._pairs = _pair_table({left + right for left, right in merges})
        self._sizes = offsets.size_table(
            {i: 1 if t in bytes_alone else len(t.encode()) for t, i in vocab.items()}
        )
        merge = tf.function(self._merge, [tf.TensorSpec([None], tf.string)], autograph=False)
        tokens = [token for token in vocab if token]
        self._words = tables.own_words(
            [token.encode() for token in tokens], [vocab[token] for token in tokens], merge
        )

    def __call__(self, words):
        """Encodes words, inside a graph.

        Args:
          words: (W,) string, valid UTF-8, none empty.

        Returns:
          (values (v,) int32, splits (W + 1,) int64).
        """
        return tables.encode_words(self._words, words, self._merge)

    def spans(self, words, values, splits):
        """Where in the words each token stands, see `offsets.end_to_end`."""
        sizes = tf.gather(self._sizes, values)
        model = self._model
        if self._byte_ids is None and model.unk_token is not None:
            if self._unknown_merges:
                raise ValueError(
                    f"offsets with merges of the unknown token {model.unk_token!r}: unsupported"
                )
            code_points, code_splits = utf8.to_code_points(words)
            symbols = tf.cast(tables.gather_dense(self._chars, code_points), tf.int32) - 1
            kept = self._kept(symbols, ragged.row_ids(code_splits))
            unknown = offsets.unknown_sizes(symbols < 0, kept, utf8.lengths(code_points))
            sizes = offsets.put_unknown(sizes, values, model.unk_id, unknown)
        return offsets.end_to_end(words, splits, sizes)

    def is_joined(self, code_points):
        """(C,) bool: whether a word may go on from the character before into this one.

        False where no token holds the two side by side; True now and then where none does.
        """
        before = ragged.previous(code_points, 0)
        place, mark = _hash(before, code_points, len(self._pairs))
        found = tf.gather(self._pairs, place)
        joined = (found == mark) | (found == _SEVERAL)
        if self._byte_ids is None:
            unknown = tables.gather_dense(self._chars, code_points) == 0
            was_unknown = ragged.previous(unknown, False)
            if self._unknown_merges:
                joined |= unknown | was_unknown
            elif self._model.fuse_unk:
                joined |= unknown & was_unknown
        return joined

    def _merge(self, pieces):
        """Encodes (P,) pieces, none empty, character by character."""
        code_points, splits = utf8.to_code_points(pieces)
        symbols = tf.cast(tables.gather_dense(self._chars, code_points), tf.int32) - 1
        owners = ragged.row_ids(splits)
        if self._byte_ids is not None:
            symbols, owners = self._fall_back(code_points, symbols, owners)
        else:
            kept = tf.squeeze(tf.where(self._kept(symbols, owners)), 1)
            symbols, owners = tf.gather(symbols, kept), tf.gather(owners, kept)
            if self._model.unk_id is not None:
                symbols = tf.where(symbols < 0, self._model.unk_id, symbols)
        symbols, owners = self._merges(symbols, owners)
        return symbols, ragged.row_splits(owners, tf.size(pieces, out_type=tf.int64))

    def _kept(self, symbols, owners):
        """(S,) bool: characters that become a symbol, of those that are unknown, -1."""
        unknown = symbols < 0
        if self._model.unk_id is None:
            return ~unknown
        if not self._model.fuse_unk:
            return tf.ones_like(unknown)
        goes_on = ragged.previous(unknown, False) & (ragged.previous(owners, -1) == owners)
        return ~(unknown & goes_on)

    def _fall_back(self, code_points, symbols, owners):
        """Symbols and owners with the bytes of unknown characters in their place."""
        lengths = tf.where(symbols < 0, utf8.lengths(code_points), 1)
        ends = tf.concat([[0], tf.cumsum(lengths)], 0)
        chars = ragged.row_ids(ends)  # (S,), the character of each new symbol
        place = tf.range(tf.size(chars, tf.int64)) - tf.gather(ends, chars)
        length = tf.gather(lengths, chars)
        codes = tf.bitwise.right_shift(
            tf.gather(code_points, chars), tf.cast(6 * (length - 1 - place), tf.int32)
        )
        codes = tf.where(place == 0, tf.gather(_LEADS, length) + codes, 0x80 + codes % 0x40)
        symbols = tf.gather(symbols, chars)
        # A known character takes no part in this, whatever number stands there.
        fallen = tf.gather(self._byte_ids, tf.where(symbols < 0, codes, 0))
        return tf.where(symbols < 0, fallen, symbols), tf.gather(owners, chars)


def _pair_table(tokens):
    """(n,) int16 by `_hash`: marks of all pairs of neighbours in the tokens.

    A mark spares what does not belong together from being joined because it has the place of what
    does: one frequent pair, such as the end of many words and a blank, would join most of a text.
    """
    pairs = {pair for token in tokens for pair in itertools.pairwise(token)}
    table = np.full(2 ** max(12, (_FILLING * len(pairs)).bit_length()), _NONE, np.int16)
    codes = np.array([[ord(char) for char in pair] for pair in pairs], np.int64).reshape(-1, 2)
    places, marks = _hash(codes[:, 0], codes[:, 1], len(table))
    table[places] = marks
    table[places[table[places] != marks]] = _SEVERAL
    return table


def _hash(first, second, size):
    """Place of a pair of code points in a table of that size, a power of 2, and its mark, int16."""
    if isinstance(first, tf.Tensor):
        first, second = tf.cast(first, tf.int64), tf.cast(second, tf.int64)
    code = (first * 0x9E3779B1 + second * 0x85EBCA77) // 64
    mark = code // size % _MARKS
    return code % size, tf.cast(mark, tf.int16) if isinstance(mark, tf.Tensor) else mark
