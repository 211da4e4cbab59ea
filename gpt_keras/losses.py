"""Losses, as sums: the mean is taken once, over all replicas and micro-batches of a step."""

import math
from typing import NamedTuple

import tensorflow as tf
from keras import ops

from gpt_keras.layers import softcapped

# Logits that exist at once, in elements (32 MiB of float32). Fewer chunks mean larger products.
CHUNK_ELEMENTS = 1 << 23
MAX_CHUNKS = 16


class Loss(NamedTuple):
    """A weighted sum and what to divide it by.

    Attributes:
      total: () float32, sum of weight * loss over the targets, in nats.
      weight: () float32, sum of the weights.
      outputs: (B, ...) float32, what the task's metrics look at in each row, or None.
      rows: (B, 2) float32, `total` and `weight` of each row. For evaluation and insight: no
        gradient need go through it.
    """

    total: object
    weight: object
    outputs: object = None
    rows: object = None


class Regularizers(NamedTuple):
    """What training adds to the cross-entropy; evaluation adds nothing.

    Attributes:
      label_smoothing: share of each target that is spread evenly over all classes (Szegedy et al.,
        2016, https://arxiv.org/abs/1512.00567).
      z_loss: weight of log(Z)^2, Z the softmax's denominator, which keeps the logits from drifting
        off (Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311).
      training: that this is training, for what a task itself changes there.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    training: bool = False


PLAIN = Regularizers()


def cross_entropy(logits, targets, weights, regularizers=PLAIN, focal_gamma=0.0):
    """Weighted sum of -log softmax(logits)[target], in nats.

    Args:
      logits: (N, C) float32. targets: (N,) int32. weights: (N,) float32.
      regularizers: see `Regularizers`.
      focal_gamma: each loss is multiplied by (1 - p)^gamma, p the target's probability, so that
        what is right already counts less (Lin et al., 2017, https://arxiv.org/abs/1708.02002).

    Returns:
      () float32; and what each target adds to it (N,) float32.
    """
    smoothing, z_loss, _ = regularizers
    losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)  # (N,)
    focus = _focus(losses, focal_gamma)
    if smoothing or z_loss:
        log_z = ops.logsumexp(logits, axis=-1)  # (N,)
        losses = (1 - smoothing) * losses + smoothing * (log_z - ops.mean(logits, axis=-1))
        losses += z_loss * ops.square(log_z)
    terms = focus * losses * weights
    return ops.sum(terms), terms


def binary_cross_entropy(
    logits, targets, weights, regularizers=PLAIN, focal_gamma=0.0, positive_weights=1.0
):
    """Weighted sum of the mean, over C labels that each hold or do not, of -log p, in nats.

    Args:
      logits: (N, C) float32. targets: (N, C) float32, 1 where a label holds. weights: (N,) float32.
      regularizers: label smoothing draws targets towards 1/2; there is no z-loss.
      focal_gamma: as of `cross_entropy`, of each label.
      positive_weights: (C,), of a label where it holds.

    Returns: as of `cross_entropy`.
    """
    focus = _focus(ops.softplus(ops.where(targets > 0.5, -logits, logits)), focal_gamma)
    smoothing = regularizers.label_smoothing
    targets = (1 - smoothing) * targets + smoothing / 2
    holds = positive_weights * targets * ops.softplus(-logits)  # (N, C)
    losses = ops.mean(focus * (holds + (1 - targets) * ops.softplus(logits)), axis=-1)  # (N,)
    terms = losses * weights
    return ops.sum(terms), terms


def _focus(losses, gamma: float):
    """(1 - p)^gamma of losses -log p."""
    if not gamma:
        return 1.0
    # Not 0, where the gradient of a power below 1 has no limit.
    return ops.power(ops.maximum(1.0 - ops.exp(-losses), 1e-7), gamma)


IMPOSSIBLE = -1e9  # logit of a class that a row does not have


def cross_entropy_among(possible, logits, targets, weights, regularizers=PLAIN):
    """`cross_entropy` where each row has classes of its own.

    Args:
      possible: (N, C) bool, the classes of each row.
      logits, targets, weights, regularizers: as of `cross_entropy`.
    """
    logits = ops.where(possible, logits, IMPOSSIBLE)
    log_z = ops.logsumexp(logits, axis=-1)  # (N,)
    losses = log_z - tf.gather(logits, targets, batch_dims=1)
    smoothing, z_loss, _ = regularizers
    if smoothing or z_loss:
        count = ops.sum(ops.cast(possible, "float32"), axis=-1)
        mean = ops.sum(ops.where(possible, logits, 0.0), axis=-1) / ops.maximum(count, 1)
        losses = (1 - smoothing) * losses + smoothing * (log_z - mean)
        losses += z_loss * ops.square(log_z)
    terms = losses * weights
    return ops.sum(terms), terms


def head_cross_entropy(hidden, head, targets, weights, regularizers=PLAIN, softcap=0.0):
    """`cross_entropy` of `hidden @ head` that never holds all (N, V) logits.

    The loss is the end of the graph, so its gradient is known as soon as a chunk's logits are:
    each chunk of rows goes forward and backward at once, and its logits are dropped. Same numbers
    and same three matrix products as the plain form, but for the order of a sum (the idea of
    Liger Kernel's fused linear cross-entropy, Hsu et al., 2024, https://arxiv.org/abs/2410.10989).

    Args:
      hidden: (N, D), N known when the graph is made, or it is one chunk. The products are of its
        dtype; softmax, loss and the sum of the head's gradient over the chunks are float32.
      head: (D, V) float32.
      targets: (N,) int32. weights: (N,) float32.
      regularizers: see `Regularizers`.
      softcap: see `GPTConfig.logits_softcap`.

    Returns:
      () float32, nats; and what each target adds to it (N,) float32, which has no gradient.
    """
    chunks = _num_chunks(hidden.shape[0], head.shape[1])

    @tf.custom_gradient
    def fused(hidden, head):
        kernel = tf.cast(head, hidden.dtype)

        def run(x, targets, weights):
            """Of some rows (n, D): losses (n,), gradients of the rows (n, D), the head (D, V)."""
            logits = tf.cast(tf.matmul(x, kernel), tf.float32)  # (n, V)
            logits = softcapped(logits, softcap)
            terms, d_logits = _forward_backward(logits, targets, weights, regularizers)
            if softcap:
                d_logits *= 1 - tf.square(logits / softcap)
            d_logits = tf.cast(d_logits, x.dtype)
            d_x = tf.matmul(d_logits, kernel, transpose_b=True)  # (n, D)
            return terms, d_x, tf.cast(tf.matmul(x, d_logits, transpose_a=True), tf.float32)

        if chunks == 1:
            terms, d_hidden, d_head = run(hidden, targets, weights)
        else:
            terms, d_hidden, d_head = _one_after_the_other(
                run, chunks, head.shape, hidden, targets, weights
            )

        def gradient(upstream, _):
            return tf.cast(upstream, hidden.dtype) * d_hidden, upstream * d_head

        return (tf.reduce_sum(terms), terms), gradient

    return fused(tf.convert_to_tensor(hidden), tf.convert_to_tensor(head))


def logits_bytes(num_rows: int, vocab_size: int) -> int:
    """What `head_cross_entropy` holds at once: logits of a chunk, and their gradient."""
    return 2 * 4 * math.ceil(num_rows / _num_chunks(num_rows, vocab_size)) * vocab_size


def _one_after_the_other(run, chunks, head_shape, *rows):
    """`run` on chunks of the rows, each after the one before: `d_head` summed, the rest joined.

    In a loop, since XLA would run parts of a plain sequence side by side, with all their logits.
    """
    N = rows[0].shape[0]
    size = math.ceil(N / chunks)
    # Rows that fill the last chunk have weight 0, so they add nothing.
    filled = [tf.pad(x, [[0, chunks * size - N]] + [[0, 0]] * (len(x.shape) - 1)) for x in rows]
    filled = [tf.reshape(x, (chunks, size, *x.shape[1:])) for x in filled]  # (chunks, n, ...)

    def add(i, terms, d_x, d_head):
        more, part, product = run(*(x[i] for x in filled))
        return i + 1, terms.write(i, more), d_x.write(i, part), d_head + product

    terms = tf.TensorArray(tf.float32, chunks, element_shape=(size,))
    d_x = tf.TensorArray(rows[0].dtype, chunks, element_shape=filled[0].shape[1:])
    _, terms, d_x, d_head = tf.while_loop(
        lambda i, *_: i < chunks, add, (0, terms, d_x, tf.zeros(head_shape)), parallel_iterations=1
    )
    d_x = tf.reshape(d_x.stack(), (chunks * size, -1))
    return tf.reshape(terms.stack(), (-1,))[:N], d_x[:N], d_head


def _forward_backward(logits, targets, weights, regularizers):
    """Losses (n,) float32 of a chunk, and their gradient with respect to the logits (n, V)."""
    smoothing, z_loss, _ = regularizers
    losses, d_logits = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
        features=logits, labels=targets
    )
    if smoothing or z_loss:
        V = logits.shape[1]
        log_z = losses + tf.gather(logits, targets, batch_dims=1)  # (n,)
        losses = (1 - smoothing) * losses + smoothing * (log_z - tf.reduce_mean(logits, axis=1))
        losses += z_loss * log_z**2
        # d_logits is softmax - target so far; log Z has the gradient softmax.
        pull = (2 * z_loss * log_z)[:, None]  # (n, 1)
        d_logits += pull * d_logits + (pull + smoothing) * tf.one_hot(targets, V) - smoothing / V
    return losses * weights, d_logits * weights[:, None]


def _num_chunks(num_rows: int | None, vocab_size: int) -> int:
    """Chunks that so many logits are computed in; one if the number of rows is unknown."""
    return min(MAX_CHUNKS, math.ceil((num_rows or 1) * vocab_size / CHUNK_ELEMENTS))
