"""Static look-up tables: filled once, when the graph that holds them is loaded."""

import tensorflow as tf


def lookup_table(keys, values, default):
    """A `tf.lookup.StaticHashTable`; assign it to a `tf.Module`, so that a SavedModel holds it."""
    keys, values = tf.constant(keys), tf.constant(values)
    initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
    return tf.lookup.StaticHashTable(initializer, default)
