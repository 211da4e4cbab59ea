"""Static look-up tables: filled once, when the graph that holds them is loaded."""

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import ragged


def lookup_table(keys, values, default, key_dtype=tf.string):
    """A `tf.lookup.StaticHashTable` to int32; only one that a `tf.Module` holds can be saved."""
    if len(keys) == 0:  # which TensorFlow refuses; "" and -1 are never looked up
        keys, values = [b"" if key_dtype == tf.string else -1], [default]
    keys, values = tf.constant(keys, key_dtype), tf.constant(values, tf.int32)
    initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
    return tf.lookup.StaticHashTable(initializer, default)


def dense(mapping) -> np.ndarray:
    """(highest key + 2,): the number of each key, 0 for others; see `gather_dense`.

    Of the smallest of uint8, uint16 and int32 that holds the numbers: it goes into the graph.
    """
    highest = max(mapping.values(), default=0)
    dtype = np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.int32
    table = np.zeros(max(mapping, default=-1) + 2, dtype)
    table[list(mapping)] = list(mapping.values())
    return table


def gather_dense(table, keys):
    """Rows of a table by int32 keys; those beyond it have the last row."""
    return tf.gather(table, tf.minimum(keys, len(table) - 1))


def own_words(words, ids, encode):
    """Table of the words, bytes, that `encode` makes into their own id, or of all without it."""
    ids = np.array(ids, np.int32)
    known = np.ones(len(ids), bool)
    if encode is not None:
        values, splits = (x.numpy() for x in encode(tf.constant(words, tf.string)))
        known = np.diff(splits) == 1
        known[known] = values[splits[:-1][known]] == ids[known]
    words = [word for word, keep in zip(words, known, strict=True) if keep]
    return lookup_table(words, ids[known], default=-1)


def encode_words(table, words, encode):
    """Ids of words: from a table those that are one token, the others, each once, by a function.

    Args:
      table: word -> id or -1.
      words: (W,) string.
      encode: (U,) string -> (values, (U + 1,) splits).

    Returns:
      (values (v,) int32, splits (W + 1,) int64).
    """
    ids = table.lookup(words)
    missing = tf.squeeze(tf.where(ids < 0), 1)
    rest, index = tf.unique(tf.gather(words, missing), out_idx=tf.int64)
    starts = tf.range(tf.size(ids, out_type=tf.int64))
    found = ragged.Rows(ids, starts, starts + 1)
    return found.replace(missing, index, *encode(rest)).to_splits()
