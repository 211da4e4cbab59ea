"""The normalizer `Precompiled`: SentencePiece's table of characters and what they become.

Hugging Face `tokenizers` looks up whole clusters of characters, such as a letter with its accents
(https://www.unicode.org/reports/tr29/), if they have less than six bytes: the shortest key that a
cluster begins with replaces all of it. Else each character by itself is looked up.
"""

import base64
import binascii

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, unicode_data, utf8
from gpt_keras.tokenizers.char_map import CharMap, unchanged

CONTROL, PREPEND, PICTURE, CONSONANT, SPACING, NON_JOINER, EXTEND, JOINER, LINKER = range(1, 10)
"""Classes of characters that decide where a cluster ends, see `unicode_data.clusters`.

Those from SPACING on belong to the character before them, and those from NON_JOINER on may stand
between two that are one cluster: pictures, or consonants of Indic scripts.
"""

_MAX_BYTES = 5  # of a cluster that is looked up as a whole


class Precompiled(tf.Module):
    """A step of a `normalizer.Normalizer`."""

    def __init__(self, keys, where):
        """
        Args:
          keys: dict str -> str; none begins another, or has more than `_MAX_BYTES`.
          where: begins the message of an error.

        Raises:
          ValueError: a key whose clusters are not told apart here.
        """
        super().__init__(name="precompiled")
        for key in keys:
            if key[0] in "©®" or 0x1100 <= ord(key[0]) < 0x1200 or 0xAC00 <= ord(key[0]) < 0xD800:
                raise ValueError(
                    f"{where}: normalizer Precompiled with the key {key!r}: unsupported; supported "
                    "are keys that begin with no Hangul, © or ®"
                )
        chars = {ord(key): _points(text) for key, text in keys.items() if len(key) == 1}
        clusters = {key: _points(text) for key, text in keys.items() if len(key) > 1}
        self._map = CharMap(chars, [*clusters.values(), ()])
        self._lengths = sorted({len(key) for key in clusters})
        rows = [self._map.row_of[text] for text in clusters.values()]
        self._clusters = tables.lookup_table([key.encode() for key in clusters], rows, 0)
        self._classes = tables.dense(unicode_data.clusters())

    def __call__(self, code_points, splits):
        rows = self._map.rows(code_points)
        classes = tables.gather_dense(self._classes, code_points)
        joins = classes >= SPACING
        joins |= ragged.previous((classes == PREPEND) | (code_points == ord("\r")), False)
        rows = tf.cond(
            tf.reduce_any(joins),
            lambda: self._of_clusters(code_points, splits, rows, classes),
            lambda: rows,
        )
        return tf.cond(
            tf.reduce_any(rows > 0),
            lambda: self._replace(code_points, splits, rows),
            lambda: unchanged(code_points, splits),
        )

    def _replace(self, code_points, splits, rows):
        new, new_splits, owners = self._map.replace(code_points, splits, rows)
        # The characters that stand for a cluster come from its own, one after the other.
        size = tf.size(code_points, tf.int64)
        stays = (rows != self._map.row_of[()]) | ragged.mark(splits[:-1], size)
        last = tf.concat([tf.where(stays)[1:, 0], size[tf.newaxis]], 0) - 1
        last = tf.gather(last, tf.maximum(tf.cumsum(tf.cast(stays, tf.int64)) - 1, 0))
        begins = tf.squeeze(tf.where(ragged.previous(owners, -1) != owners), 1)
        place = tf.range(tf.size(owners, tf.int64))
        place -= tf.gather(begins, tf.searchsorted(begins, place, side="right") - 1)
        return new, new_splits, tf.minimum(owners + place, tf.gather(last, owners))

    def _of_clusters(self, code_points, splits, rows, classes):
        """`rows`, (C,) int32 of `CharMap.rows`, with those of clusters that are looked up whole."""
        size = tf.size(code_points, tf.int64)
        first = ragged.mark(splits[:-1], size)
        begins = first | ~_joined(code_points, classes, first)
        starts = tf.squeeze(tf.where(begins), 1)  # (G,)
        limits = tf.concat([starts[1:], size[tf.newaxis]], 0)
        offsets = tf.concat([[0], tf.cumsum(utf8.lengths(code_points))], 0)  # (C + 1,), in bytes
        num_bytes = tf.gather(offsets, limits) - tf.gather(offsets, starts)
        whole = tf.squeeze(tf.where((num_bytes <= _MAX_BYTES) & (limits - starts > 1)), 1)
        starts, limits = tf.gather(starts, whole), tf.gather(limits, whole)  # (g,)
        found = tf.gather(rows, starts)
        for length in self._lengths:
            ends = tf.minimum(starts + length, limits)
            spans = tf.ragged.range(starts, ends)
            texts = utf8.from_splits(tf.gather(code_points, spans.values), spans.row_splits)
            found = tf.where(found > 0, found, self._clusters.lookup(texts))
        hit = tf.squeeze(tf.where(found > 0), 1)
        spans = tf.ragged.range(tf.gather(starts, hit), tf.gather(limits, hit)).values
        rows = tf.tensor_scatter_nd_update(
            rows, spans[:, tf.newaxis], tf.fill(tf.shape(spans), self._map.row_of[()])
        )
        return tf.tensor_scatter_nd_update(
            rows, tf.gather(starts, hit)[:, tf.newaxis], tf.gather(found, hit)
        )


def _joined(code_points, classes, first):
    """(C,) bool: characters that belong to the cluster of the one before them.

    `first`, (C,) bool, marks those that begin a text, of which this says nothing.
    """
    before = ragged.previous(classes, CONTROL)
    joined = (before != CONTROL) & (classes >= SPACING)
    joined |= (before == PREPEND) & (classes != CONTROL)
    joined |= (ragged.previous(code_points, 0) == ord("\r")) & (code_points == ord("\n"))
    bases = tf.squeeze(tf.where((classes < NON_JOINER) | first), 1)  # (b,)
    kinds = tf.gather(classes, bases)

    def between(kind):  # (b,) int32, how many such stand between a base and the one before it
        counts = tf.gather(tf.cumsum(tf.cast(classes == kind, tf.int32)), bases)
        return counts - ragged.previous(counts, 0)

    # A picture goes on after a joiner, a consonant after a linker, with what extends either.
    pictures = (kinds == PICTURE) & (tf.gather(before, bases) == JOINER) & (between(JOINER) == 1)
    conjuncts = (kinds == CONSONANT) & (between(LINKER) > 0) & (between(NON_JOINER) == 0)
    goes_on = (kinds == ragged.previous(kinds, 0)) & (pictures | conjuncts)
    on = tf.gather(bases, tf.squeeze(tf.where(goes_on), 1))
    return joined | ragged.mark(on, tf.size(classes))


def _points(text):
    return tuple(map(ord, text))


def from_json(node, where: str) -> Precompiled:
    """The step of a `tokenizer.json`'s node.

    Raises:
      ValueError: a damaged table; the message begins with `where`.
    """
    try:
        return Precompiled(_keys(base64.b64decode(node["precompiled_charsmap"])), where)
    except (binascii.Error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{where}: normalizer Precompiled: damaged table: {error!r}; get the file anew"
        ) from error


def _keys(table: bytes) -> dict[str, str]:
    """What stands for each key of a table that can count.

    Of a key and one that begins with it the shorter counts, and none longer than clusters are. A
    table holds the length of a double array of Darts (https://github.com/s-yata/darts-clone), that
    array, and texts that end with zero bytes. An entry of the array has a byte as its label, a bit
    that says if a key ends there, and where to go on.
    """
    if not table:
        return {}
    size = int.from_bytes(table[:4], "little")
    array = np.frombuffer(table[4 : 4 + size], "<u4").astype(np.int64)
    texts, keys, labels = table[4 + size :], {}, np.arange(1, 256)

    def offset(unit):
        return (unit >> 10) << ((unit & 0x200) >> 6)

    stack = [(b"", offset(int(array[0])))]
    while stack:
        key, base = stack.pop()
        places = base ^ labels
        units = array[np.minimum(places, len(array) - 1)]
        for i in np.flatnonzero((units & 0x800000FF == labels) & (places < len(array))):
            longer, here = key + bytes([labels[i]]), int(places[i]) ^ offset(int(units[i]))
            if units[i] & 0x100:
                start = int(array[here]) & 0x7FFFFFFF
                keys[longer.decode()] = texts[start : texts.index(b"\0", start)].decode()
            elif len(longer) < _MAX_BYTES:
                stack.append((longer, here))
    return keys
