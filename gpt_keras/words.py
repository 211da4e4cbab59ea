"""Words of raw texts, and which token of a text is the first of a word; in the graph."""

import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, unicode_data, utf8

_SPACE = 1  # of `unicode_data.bert_classes`


def split(texts, separator: str):
    """Where the words of texts stand, in bytes.

    Args:
      texts: (B,) string.
      separator: what stands between words: " ", and punctuation marks and Chinese characters are
        words too; or "", and each character is one.

    Returns:
      starts, ends: ragged (B, None) int32.
    """
    decoded = tf.raw_ops.UnicodeDecodeWithOffsets(input=texts, input_encoding="UTF-8")
    code_points, splits = decoded.char_values, decoded.row_splits
    table = tables.dense(dict.fromkeys(unicode_data.chinese(), 2) | unicode_data.bert_classes())
    classes = tables.gather_dense(table, code_points)
    is_space = classes == _SPACE
    first = ragged.mark(splits[:-1], tf.size(code_points)) | (ragged.previous(classes, _SPACE) > 0)
    first |= (classes > 0) | (separator == "")
    places = utf8.boundaries(texts)
    rows = ragged.row_ids(splits)
    ends = tf.gather(places.values, tf.range(tf.size(rows, tf.int64)) + rows + 1)
    words = tf.cumsum(tf.cast(first & ~is_space, tf.int64)) - 1  # (C,), the word of each
    kept = tf.squeeze(tf.where(~is_space), 1)
    ends = tf.math.segment_max(tf.gather(ends, kept), tf.gather(words, kept))
    begins = tf.squeeze(tf.where(first & ~is_space), 1)
    row_splits = ragged.row_splits(tf.gather(rows, begins), tf.size(texts, tf.int64))
    return tuple(
        tf.RaggedTensor.from_row_splits(tf.cast(x, tf.int32), row_splits, validate=False)
        for x in (tf.gather(decoded.char_to_byte_starts, begins), ends)
    )


def first_tokens(words, tokens):
    """Which token of a text is the first that reaches into a word, and into none before it.

    Args:
      words: (starts, ends), ragged (B, None) int32, in bytes, one after the other.
      tokens: (starts, ends), likewise; one that stands for nothing is of no word.

    Returns:
      word_ids: ragged, as the tokens: the number of the word in the text, or -1 for other tokens.
      token_ids: ragged, as the words: the number of the token in the text, or -1 for none.
    """
    word_starts, word_ends = (_end_to_end(x, words[1], tokens[1]) for x in words)
    starts, ends = (_end_to_end(x, words[1], tokens[1]) for x in tokens)
    real = tf.squeeze(tf.where(ends > starts), 1)  # whose ends ascend
    # One more, behind all, that no word reaches.
    behind = tf.constant([tf.int64.max], tf.int64)
    starts = tf.concat([tf.gather(starts, real), behind], 0)
    found = tf.searchsorted(tf.gather(ends, real), word_starts, side="right", out_type=tf.int64)
    reaches = tf.gather(starts, found) < word_ends
    is_shared = (ragged.previous(found, -1) == found) & ragged.previous(reaches, False)
    own = tf.squeeze(tf.where(reaches & ~is_shared), 1)
    found = tf.gather(real, tf.gather(found, own))[:, tf.newaxis]  # (w, 1), among all tokens
    word_rows, token_rows = words[0].value_rowids(), tokens[0].value_rowids()
    word_places = tf.range(tf.size(word_rows, tf.int64)) - tf.gather(words[0].row_splits, word_rows)
    token_places = tf.range(tf.size(token_rows, tf.int64)) - tf.gather(
        tokens[0].row_splits, token_rows
    )
    none = tf.fill([tf.size(token_rows)], tf.constant(-1, tf.int64))
    word_ids = tf.tensor_scatter_nd_update(none, found, tf.gather(word_places, own))
    none = tf.fill([tf.size(word_rows)], tf.constant(-1, tf.int64))
    token_ids = tf.tensor_scatter_nd_update(
        none, own[:, tf.newaxis], tf.gather(token_places, found[:, 0])
    )
    return (
        tokens[0].with_values(tf.cast(word_ids, tf.int32)),
        words[0].with_values(tf.cast(token_ids, tf.int32)),
    )


def apart(starts, ends):
    """(v,) bool: tokens that stand for something of their own, at ragged `starts` to `ends`.

    Of several that share a character the first alone does.
    """
    rows = starts.value_rowids()
    follows = ragged.previous(rows, -1) == rows
    shares = follows & (ragged.previous(ends.values, 0) > starts.values)
    return (ends.values > starts.values) & ~shares


def _end_to_end(places, *ends):
    """Ragged places in texts -> (v,) int64 in all texts, as if these were one after the other."""
    longest = [tf.reduce_max(tf.concat([x.values, [0]], 0)) for x in ends]
    length = tf.cast(tf.reduce_max(longest), tf.int64) + 1
    return tf.cast(places.values, tf.int64) + places.value_rowids() * length
