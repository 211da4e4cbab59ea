"""Static look-up tables: filled once, when the graph that holds them is loaded."""

import tensorflow as tf


def lookup_table(keys, values, default, key_dtype=tf.string):
    """A `tf.lookup.StaticHashTable` to int32; only one that a `tf.Module` holds can be saved."""
    if len(keys) == 0:  # which TensorFlow refuses; "" and -1 are never looked up
        keys, values = [b"" if key_dtype == tf.string else -1], [default]
    keys, values = tf.constant(keys, key_dtype), tf.constant(values, tf.int32)
    initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
    return tf.lookup.StaticHashTable(initializer, default)
