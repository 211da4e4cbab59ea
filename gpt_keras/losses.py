"""Losses, as sums: the mean is taken once, over all replicas and micro-batches of a step."""

import math
from typing import NamedTuple

import tensorflow as tf
from keras import ops

# Logits that exist at once, in elements (64 MiB of float32). Fewer chunks mean larger products.
CHUNK_ELEMENTS = 1 << 24
MAX_CHUNKS = 16


class Loss(NamedTuple):
    """A weighted sum and what to divide it by.

    Attributes:
      total: () float32, sum of weight * loss over the targets, in nats.
      weight: () float32, sum of the weights.
      logits: (B, C) float32 of a classifier, else None.
    """

    total: object
    weight: object
    logits: object = None


def cross_entropy(logits, targets, weights):
    """Weighted sum of -log softmax(logits)[target], in nats.

    Args:
      logits: (N, C) float32. targets: (N,) int32. weights: (N,) float32.
    """
    losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)  # (N,)
    return ops.sum(losses * weights)


def head_cross_entropy(hidden, head, targets, weights):
    """`cross_entropy` of `hidden @ head` that never holds all (N, V) logits.

    The loss is the end of the graph, so its gradient is known as soon as a chunk's logits are:
    each chunk of rows goes forward and backward at once, and its logits are dropped. Same numbers
    and same three matrix products as the plain form, but for the order of a sum (the idea of
    Liger Kernel's fused linear cross-entropy, Hsu et al., 2024, https://arxiv.org/abs/2410.10989).

    Args:
      hidden: (N, D), N known when the graph is made, or it is one chunk.
      head: (D, V), of the dtype of `hidden`.
      targets: (N,) int32. weights: (N,) float32.

    Returns:
      () float32, nats.
    """
    rows = _chunk_rows(hidden.shape[0], head.shape[1])

    @tf.custom_gradient
    def fused(hidden, head):
        totals, d_hidden, d_head = [], [], None
        for start in range(0, hidden.shape[0] or 1, rows or 1):
            chunk = slice(start, start + rows if rows else None)
            # One chunk after the other: run side by side they would hold all logits again.
            with tf.control_dependencies(d_hidden[-1:]):
                x = tf.identity(hidden[chunk])  # (n, D)
            total, d_logits = _forward_backward(x, head, targets[chunk], weights[chunk])
            totals.append(total)
            d_hidden.append(tf.matmul(d_logits, head, transpose_b=True))  # (n, D)
            product = tf.matmul(x, d_logits, transpose_a=True)  # (D, V)
            d_head = product if d_head is None else d_head + product

        def gradient(upstream):
            factor = tf.cast(upstream, hidden.dtype)
            return factor * tf.concat(d_hidden, 0), factor * d_head

        return tf.add_n(totals), gradient

    return fused(tf.convert_to_tensor(hidden), tf.convert_to_tensor(head))


def logits_bytes(num_rows: int, vocab_size: int) -> int:
    """What `head_cross_entropy` holds at once: logits of a chunk, and their gradient."""
    return 2 * 4 * _chunk_rows(num_rows, vocab_size) * vocab_size


def _forward_backward(x, head, targets, weights):
    """Loss of a chunk, () float32, and its gradient with respect to the logits (n, V)."""
    logits = tf.cast(tf.matmul(x, head), tf.float32)  # (n, V)
    losses, d_logits = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
        features=logits, labels=targets
    )
    total = tf.reduce_sum(losses * weights)
    return total, tf.cast(d_logits * weights[:, None], x.dtype)


def _chunk_rows(num_rows: int | None, vocab_size: int) -> int | None:
    """Rows of a chunk; None for all at once."""
    if num_rows is None:
        return None
    chunks = min(MAX_CHUNKS, math.ceil(num_rows * vocab_size / CHUNK_ELEMENTS))
    return math.ceil(num_rows / chunks)
