"""The unigram model of SentencePiece (Kudo, 2018, https://arxiv.org/abs/1804.10959), in the graph.

Of all ways to cut a word into tokens the one with the best sum of scores, which the algorithm of
Viterbi finds. The sums are made in float64 and in the order of Hugging Face `tokenizers`: where two
ways differ by rounding alone, the same one wins.
"""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, utf8
from gpt_keras.tokenizers.byte_fallback import byte_ids

_NEVER = np.float64(-np.inf)  # a score that no way has
_PENALTY = 10.0  # of an unknown character, below the worst score of all tokens


class Viterbi(tf.Module):
    """Words to token ids by the best sum of scores."""

    def __init__(self, model, special_ids, where, name=None):
        """
        Args:
          model: a `tokenizer_json.UnigramModel`.
          special_ids: of tokens that a text from strangers must not give.
          where: begins the message of an error.

        Raises:
          ValueError: bytes of which the vocabulary has some and lacks others.
        """
        super().__init__(name=name)
        self._unk_id = model.unk_id
        self._unk_score = np.float64(min(model.scores) - _PENALTY)
        self._byte_ids = byte_ids(model, where)
        chars = {char: i for i, char in enumerate(sorted(set("".join(model.vocab))), 1)}
        self._chars = tables.dense({ord(char): i for char, i in chars.items()})
        self._size = len(chars) + 1
        # The tokens as a tree of characters: (node, character) -> node, and 0 is its root.
        edges, ends = {}, {}
        for token, i in model.vocab.items():
            node = 0
            for char in token:
                node = edges.setdefault((node, chars[char]), len(edges) + 1)
            ends[node] = i
        keys = [node * self._size + char for node, char in edges]
        self._edges = tables.lookup_table(keys, list(edges.values()), -1, tf.int64)
        nodes = np.array(list(ends)) + 1  # place 0 is that of no node, -1
        self._ids = np.full(len(edges) + 2, -1, np.int32)
        self._ids[nodes] = list(ends.values())
        self._scores = np.full(len(edges) + 2, -np.inf)
        self._scores[nodes] = [model.scores[i] for i in ends.values()]
        self._plain = np.where(np.isin(self._ids, list(special_ids)), -np.inf, self._scores)

    def __call__(self, words, allow_special):
        """Encodes words, each once, inside a graph.

        Args:
          words: (W,) string, valid UTF-8, none empty.
          allow_special: bool; False leaves out what the special tokens are written as.

        Returns:
          (values (v,) int32, splits (W + 1,) int64).
        """
        rows = self._rows(words, allow_special, lambda ids, places: ids)
        return rows.to_splits()

    def spans(self, words, allow_special):
        """Where in the words each token stands, see `offsets.end_to_end`."""
        rows = self._rows(words, allow_special, lambda ids, places: places)
        places, splits = rows.to_splits()  # (v, 2)
        shifts = tf.cumsum(tf.cast(tf.strings.length(words), tf.int64), exclusive=True)
        places += tf.gather(shifts, ragged.row_ids(splits))[:, tf.newaxis]
        return tf.unstack(places, 2, axis=1)

    def _rows(self, words, allow_special, choose):
        """`ragged.Rows` of each word, of what is chosen of ids (v,) and places (v, 2)."""
        words, index = tf.unique(words, out_idx=tf.int64)
        ids, places, splits = tf.cond(
            tf.size(words) > 0,
            lambda: self._encode(words, self._scores if allow_special else self._plain),
            lambda: (tf.zeros([0], tf.int32), tf.zeros([0, 2], tf.int64), tf.zeros([1], tf.int64)),
        )
        ids, places = tf.ensure_shape(ids, [None]), tf.ensure_shape(places, [None, 2])
        splits = tf.ensure_shape(splits, [None])
        starts, limits = tf.gather(splits[:-1], index), tf.gather(splits[1:], index)
        return ragged.Rows(choose(ids, places), starts, limits)

    def _encode(self, words, scores):
        code_points, splits = utf8.to_code_points(words)  # (C,), (U + 1,)
        rows = ragged.row_ids(splits)  # (C,)
        nodes = self._tokens_from(code_points, tf.gather(splits[1:], rows))  # (C, L)
        choice = self._best(tf.gather(scores, nodes + 1), splits)  # (C,)
        L = tf.shape(nodes, tf.int64)[1]
        place = tf.range(tf.size(rows, tf.int64))
        starts = place - (L - choice) + 1  # (C,), of the token that ends here, if one does
        ends = tf.squeeze(tf.where(_path(starts, rows, splits)), 1)  # (t,)
        starts, rows = tf.gather(starts, ends), tf.gather(rows, ends)
        nodes = tf.gather(tf.reshape(nodes, [-1]), starts * L + ends - starts)
        ids = tf.gather(self._ids, nodes + 1)
        # A token that does not count stands where an unknown character is.
        ids = tf.where(tf.math.is_inf(tf.gather(scores, nodes + 1)), -1, ids)
        bytes_before = tf.concat([[0], tf.cumsum(utf8.lengths(code_points))], 0)  # (C + 1,)
        places = tf.stack([tf.gather(bytes_before, x) for x in (starts, ends + 1)], axis=1)
        ids, places, rows = self._unknown(code_points, places, ids, rows)
        words_before = tf.gather(bytes_before, tf.gather(splits, rows))
        places -= words_before[:, tf.newaxis]
        return ids, places, ragged.row_splits(rows, tf.size(words, tf.int64))

    def _tokens_from(self, code_points, limits):
        """(C, L) int32: the node that the 1, 2, ... L characters from each on lead to, or -1."""
        chars = tf.cast(tables.gather_dense(self._chars, code_points), tf.int64)
        place = tf.range(tf.size(chars, tf.int64))

        def step(length, last, nodes):
            following = tf.minimum(place + length, tf.size(chars, tf.int64) - 1)
            keys = tf.cast(last, tf.int64) * self._size + tf.gather(chars, following)
            is_inside = (last >= 0) & (place + length < limits)
            last = tf.ensure_shape(self._edges.lookup(tf.where(is_inside, keys, -1)), [None])
            return length + 1, last, tf.concat([nodes, last[:, tf.newaxis]], 1)

        first = self._edges.lookup(chars)
        vector, matrix = tf.TensorShape([None]), tf.TensorShape([None, None])
        _, _, nodes = tf.while_loop(
            lambda length, last, nodes: tf.reduce_any(last >= 0),
            step,
            (tf.constant(1, tf.int64), first, first[:, tf.newaxis]),
            shape_invariants=(tf.TensorShape([]), vector, matrix),
            parallel_iterations=1,
        )
        return nodes

    def _best(self, scores, splits):
        """(C,) int64: L less the length of the best way's last token, for each end of a token.

        Args:
          scores: (C, L) float64, of the tokens of 1 to L characters that begin there, or -inf.
          splits: (U + 1,) int64.
        """
        C, L = tf.unstack(tf.shape(scores, tf.int64))
        lengths = tf.range(L, 0, -1)
        starts = tf.range(C)[:, tf.newaxis] - lengths + 1  # (C, L)
        by_end = tf.gather(
            tf.reshape(scores, [-1]), tf.maximum(starts * L + lengths - 1, 0)
        )  # (C, L), the longest first
        by_end = tf.where(starts >= 0, by_end, _NEVER)
        single = tf.where(tf.math.is_inf(scores[:, :1]), self._unk_score, scores[:, :1])
        by_end = tf.concat([by_end[:, :-1], single], 1)
        # Long words first: those that are still to be read are the first k of them.
        sizes = splits[1:] - splits[:-1]
        order = tf.argsort(sizes, direction="DESCENDING", stable=True)
        offsets, ascending = tf.gather(splits[:-1], order), tf.sort(sizes)
        U = tf.size(sizes)

        def step(end, before, choices, places):
            k = U - tf.searchsorted(ascending, [end], side="right")[0]
            place = offsets[:k] + end
            sums = before[:k] + tf.gather(by_end, place)  # (k, L), of the ways that end here
            at = tf.cast(end, tf.int32)
            choices = choices.write(at, tf.argmax(sums, 1))  # of equal ones the longest token
            places = places.write(at, place)
            before = tf.concat([before[:k, 1:], tf.reduce_max(sums, 1, keepdims=True)], 1)
            return end + 1, before, choices, places

        # Best sums up to where a token of L, ..., 2, 1 characters begins that ends at `end`.
        never = tf.fill(tf.stack([U, tf.cast(L, tf.int32) - 1]), _NEVER)
        before = tf.concat([never, tf.zeros(tf.stack([U, 1]), tf.float64)], 1)
        arrays = [
            tf.TensorArray(
                tf.int64, tf.cast(ascending[-1], tf.int32), infer_shape=False, element_shape=[None]
            )
            for _ in range(2)
        ]
        _, _, choices, places = tf.while_loop(
            lambda end, *_: end < ascending[-1],
            step,
            (tf.constant(0, tf.int64), before, *arrays),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]),
                              *(tf.TensorShape(None) for _ in arrays)),
            parallel_iterations=1,
        )  # fmt: skip
        return tf.scatter_nd(places.concat()[:, tf.newaxis], choices.concat(), C[tf.newaxis])

    def _unknown(self, code_points, places, ids, rows):
        """Ids, places and words, with what unknown characters become: a run of them is one.

        Args:
          code_points: (C,) int32.
          places: (t, 2) int64, first and last byte of each token, and one more.
          ids: (t,) int32, -1 for an unknown character.
          rows: (t,) int64, the word of each.
        """
        unknown = (ids < 0) | (ids == self._unk_id)
        follows = ragged.previous(unknown, False) & (ragged.previous(rows, -1) == rows)
        goes_on = ragged.following(unknown, False) & (ragged.following(rows, -1) == rows)
        first, last = tf.unstack(places, axis=1)
        runs = tf.cumsum(tf.cast(~(unknown & follows), tf.int64)) - 1  # (t,)
        places = tf.stack([tf.math.segment_min(first, runs), tf.math.segment_max(last, runs)], 1)
        places = tf.gather(places, runs)
        if self._byte_ids is None:
            kept = tf.squeeze(tf.where(~(unknown & goes_on)), 1)
            ids = tf.where(unknown, self._unk_id, ids)
            return tuple(tf.gather(x, kept) for x in (ids, places, rows))
        # The unknown token itself, spelled out, is in the vocabulary unless it is part of a run.
        falls = unknown & ((ids < 0) | follows | goes_on)
        counts = tf.where(falls, last - first, 1)
        splits = tf.concat([[0], tf.cumsum(counts)], 0)
        owners = ragged.row_ids(splits)
        place = tf.range(tf.size(owners, tf.int64)) - tf.gather(splits, owners)
        text = utf8.from_splits(code_points, tf.stack([0, tf.size(code_points, tf.int64)]))
        codes = tf.cast(tf.io.decode_raw(text[0], tf.uint8), tf.int32)
        fallen = tf.gather(self._byte_ids, tf.gather(codes, tf.gather(first, owners) + place))
        ids = tf.where(tf.gather(falls, owners), fallen, tf.gather(ids, owners))
        return ids, tf.gather(places, owners), tf.gather(rows, owners)


def _path(starts, rows, splits):
    """(C,) bool: last characters of the tokens of each word's best way.

    Args:
      starts: (C,) int64, first character of the best token that ends at each.
      rows: (C,) int64, the word of each character.
      splits: (U + 1,) int64, of the words' characters; none is empty.
    """
    C = tf.size(starts, tf.int64)
    # The end of the token before, or C at the beginning of a word.
    before = tf.where(starts == tf.gather(splits, rows), C, starts - 1)
    before = tf.concat([before, C[tf.newaxis]], 0)

    def double(before, found, _):
        """`before` goes twice as far back, and what is found reaches as far."""
        reached = tf.gather(before, tf.squeeze(tf.where(found), 1))
        more = found | ragged.mark(reached, C)
        return tf.gather(before, before), more, tf.reduce_any(found != more)

    found = ragged.mark(splits[1:] - 1, C)
    _, found, _ = tf.while_loop(
        lambda before, found, goes_on: goes_on,
        double,
        (before, found, True),
        parallel_iterations=1,
    )
    return found
