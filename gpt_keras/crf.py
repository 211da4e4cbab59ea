"""Linear-chain conditional random field (Lafferty et al., 2001), and the best path of a chain.

Chains of B rows have T places, of which the first `lengths` count; C tags.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras.layers import ConfigLayer

NEVER = np.float32(-1e9)  # a score that no path of a chain takes if there is another


class Transitions(ConfigLayer):
    """What it is worth that one tag follows another, and that one begins or ends a text."""

    def __init__(self, config, num_tags: int, **kwargs):
        super().__init__(config, **kwargs)
        self.num_tags = num_tags

    def get_config(self):
        return {**super().get_config(), "num_tags": self.num_tags}

    def build(self, input_shape=None):
        C = self.num_tags
        for name, shape in (("moves", (C, C)), ("first", (C,)), ("last", (C,))):
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros"))

    def losses_of(self, logits, tags, lengths):
        """-log p(tags), (B,) float32, in nats; 0 for a chain without places.

        Args:
          logits: (B, T, C) float32. tags: (B, T) int32. lengths: (B,) int32.
        """
        C, real = self.num_tags, tf.sequence_mask(lengths, tf.shape(tags)[1])  # (B, T)
        moves, first, last = (x.value for x in (self.moves, self.first, self.last))
        scores = tf.reduce_sum(tf.one_hot(tags, C) * logits, axis=2)  # (B, T)
        # As products: gathers of variables have sparse gradients.
        one_hot = tf.one_hot(tags, C)  # (B, T, C)
        steps = tf.reduce_sum(tf.matmul(one_hot[:, :-1], moves) * one_hot[:, 1:], axis=2)
        scores += tf.pad(steps, [[0, 0], [1, 0]])
        at_end = tf.one_hot(tf.maximum(lengths - 1, 0), tf.shape(tags)[1])  # (B, T)
        ends = tf.linalg.matvec(one_hot, first) * tf.one_hot(0, tf.shape(tags)[1])
        ends += tf.linalg.matvec(one_hot, last) * at_end
        total = tf.reduce_sum(tf.where(real, scores + ends, 0.0), axis=1)  # (B,)

        def step(alpha, place):
            logits, is_real = place
            sums = tf.reduce_logsumexp(alpha[:, :, tf.newaxis] + moves, axis=1) + logits
            return tf.where(is_real[:, tf.newaxis], sums, alpha)

        by_place = tf.transpose(logits, (1, 0, 2))  # (T, B, C)
        alphas = tf.scan(
            step, (by_place[1:], tf.transpose(real)[1:]), by_place[0] + first
        )  # (T - 1, B, C)
        alpha = tf.concat([by_place[:1] + first, alphas], axis=0)[-1]  # (B, C)
        return tf.where(lengths > 0, tf.reduce_logsumexp(alpha + last, axis=1) - total, 0.0)


def best_path(logits, lengths, moves, first, last):
    """The tags with the best sum of scores, by the algorithm of Viterbi (1967).

    Args:
      logits: (B, T, C) float32. lengths: (B,) int32.
      moves: (C, C) float32, of one tag (row) before another. first, last: (C,) float32.

    Returns:
      (B, T) int32; behind the end of a chain its last tag.
    """
    # One place more, that is none, since a scan of no steps has no shape.
    logits = tf.pad(logits, [[0, 0], [0, 1], [0, 0]])
    real = tf.transpose(tf.sequence_mask(lengths, tf.shape(logits)[1]))  # (T, B)
    by_place = tf.transpose(logits, (1, 0, 2))  # (T, B, C)
    C = tf.shape(logits)[2]
    stay = tf.range(C)[tf.newaxis]  # (1, C)

    def step(state, place):
        best, _ = state
        logits, is_real = place
        sums = best[:, :, tf.newaxis] + moves  # (B, C, C)
        is_real = is_real[:, tf.newaxis]
        choice = tf.where(is_real, tf.argmax(sums, axis=1, output_type=tf.int32), stay)
        return tf.where(is_real, tf.reduce_max(sums, axis=1) + logits, best), choice

    start = by_place[0] + first  # (B, C)
    state = (start, tf.zeros_like(start, tf.int32))
    bests, choices = tf.scan(step, (by_place[1:], real[1:]), state)  # (T - 1, B, C)
    tags = tf.argmax(bests[-1] + last, axis=1, output_type=tf.int32)  # (B,)
    before = tf.scan(
        lambda tags, choice: tf.gather(choice, tags, batch_dims=1), choices, tags, reverse=True
    )  # (T - 1, B)
    return tf.transpose(before)  # of all places but that one


def log_scores(flags):
    """0 where a flag is set, else `NEVER`."""
    return ops.where(flags, np.float32(0), NEVER)
