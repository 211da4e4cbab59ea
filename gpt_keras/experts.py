"""Mixture of experts (Shazeer et al., 2017): each token goes through a few feed-forwards of many.

Tokens are grouped by expert: the work grows with the experts that a token is sent to, not with all
there are; no token is dropped. In training all shapes are known if the number of tokens is, so that
XLA compiles it. Generation goes through the chosen experts in a loop, which copies no matrices.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from gpt_keras.layers import ACTIVATIONS, ConfigLayer, Projection, residual_stddev


class MixtureOfExperts(ConfigLayer):
    """Feed-forward by the `experts_per_token` experts that a token's router likes best.

    (B, T, D) -> (B, T, D). With `with_routing` also the router's probabilities (B, T, E) float32.
    """

    def build(self, input_shape):
        config = self.config
        E, D, F = config.num_experts, config.hidden_size, config.intermediate_size
        self.router = Projection(config, E, dtype=self.dtype_policy, name="router")
        self.router.build(input_shape)
        self.up = self._matrices("up", (E, D, (1 + config.gated) * F), config.initializer_range)
        self.down = self._matrices("down", (E, F, D), residual_stddev(config))

    def _matrices(self, name, shape, stddev):
        normal = keras.initializers.RandomNormal(stddev=stddev)
        return self.add_weight(name=name, shape=shape, initializer=normal)

    @property
    def matrices(self):
        """Projections that `lay_out` may split: none, experts' matrices are looked up whole."""
        return []

    def call(self, x, training=False, with_routing=False, in_loop=False):
        """With `in_loop` the experts come one after the other: for inference, not for XLA."""
        config = self.config
        probabilities = ops.softmax(ops.cast(self.router(x), "float32"))  # (B, T, E)
        weights, experts = tf.math.top_k(probabilities, config.experts_per_token)  # (B, T, k)
        if config.normalize_experts:
            weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        k, D = config.experts_per_token, x.shape[-1]
        through = self._one_by_one if in_loop else self._grouped
        y = through(tf.reshape(x, (-1, D)), tf.reshape(experts, (-1, k)))  # (N, k, D)
        y *= tf.cast(tf.reshape(weights, (-1, k, 1)), y.dtype)
        y = tf.reshape(tf.reduce_sum(y, axis=1), tf.shape(x))
        y = tf.ensure_shape(y, x.shape)
        return (y, probabilities) if with_routing else y

    def _grouped(self, x, chosen):
        """What its experts (N, k) make of each token (N, D): (N, k, D)."""
        groups = Groups.of(chosen, self.config.num_experts)
        rows = groups.spread(x)  # (P, b, D)
        up, down = (ops.cast(matrices, x.dtype) for matrices in (self.up, self.down))
        y = self._activated(tf.matmul(rows, _matrices_of(up, groups.experts)))  # (P, b, F)
        return groups.gathered(tf.matmul(y, _matrices_of(down, groups.experts)))

    def _one_by_one(self, x, chosen):
        """As `_grouped`, by views of the matrices."""
        k, D = chosen.shape[1], x.shape[1]
        flat = tf.reshape(chosen, (-1,))  # (N k,)
        order = tf.argsort(flat, stable=True)
        rows = tf.gather(x, order // k)  # (N k, D), by expert
        counts = tf.math.bincount(flat, minlength=self.config.num_experts)  # (E,)
        ends, active = tf.cumsum(counts), tf.squeeze(tf.where(counts > 0), 1)  # (E,), (A,)
        up, down = (ops.convert_to_tensor(matrices) for matrices in (self.up, self.down))

        def next_expert(i, made):
            e = active[i]
            some = rows[ends[e] - counts[e] : ends[e]]  # (n, D)
            y = self._activated(tf.matmul(some, tf.cast(up[e], x.dtype)))  # (n, F)
            return i + 1, made.write(i, tf.matmul(y, tf.cast(down[e], x.dtype)))

        made = tf.TensorArray(x.dtype, tf.size(active), infer_shape=False, element_shape=(None, D))
        _, made = tf.while_loop(
            lambda i, _: i < tf.size(active), next_expert, (tf.constant(0), made)
        )
        y = tf.gather(made.concat(), tf.math.invert_permutation(order))
        return tf.reshape(y, (-1, k, D))

    def _activated(self, y):
        """(..., 2F) -> (..., F); (..., F) if there is no gate."""
        activation = ACTIVATIONS[self.config.activation]
        if self.config.gated:
            gate, up = tf.split(y, 2, axis=-1)
            return activation(gate) * up
        return activation(y)


class Groups(NamedTuple):
    """Tokens in blocks of b, each block for one expert, as many blocks as may be needed.

    Attributes:
      slots: (N, k) int32, where in all blocks a token stands for each of its experts.
      choices: (P * b,) int32, 1 + the place in the flat (N, k) of what stands there; 0 for nothing.
      experts: (P,) int32, of each block.
    """

    slots: tf.Tensor
    choices: tf.Tensor
    experts: tf.Tensor

    @classmethod
    def of(cls, chosen, num_experts: int) -> "Groups":
        """Groups for the experts (N, k) int32 that each token has chosen."""
        flat = tf.reshape(chosen, (-1,))  # (M,)
        M, E = flat.shape[0], num_experts
        if M is None:
            M = tf.size(flat)
            block = (M + 2 * E - 1) // (2 * E)
        else:
            block = math.ceil(M / (2 * E))  # few blocks to look matrices up for, and few blanks
        P = (M + E * (block - 1)) // block
        counts = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, E)  # (E,)
        blocks = (counts + block - 1) // block
        order = tf.argsort(flat, stable=True)
        by_expert = tf.gather(flat, order)
        rank = tf.range(M) - tf.gather(tf.cumsum(counts, exclusive=True), by_expert)
        slots = tf.gather(tf.cumsum(blocks, exclusive=True), by_expert) * block + rank
        choices = tf.scatter_nd(slots[:, None], order + 1, [P * block])
        slots = tf.scatter_nd(order[:, None], slots, [M])
        experts = tf.searchsorted(tf.cumsum(blocks), tf.range(P), side="right")
        experts = tf.minimum(experts, E - 1)  # blocks that are left over stay blank
        return cls(tf.reshape(slots, tf.shape(chosen)), choices, experts)

    def spread(self, x):
        """Tokens (N, D) -> blocks (P, b, D), zeros where nobody stands."""
        k = self.slots.shape[1]

        @tf.custom_gradient
        def run(x):
            tokens = (self.choices - 1) // k + tf.cast(self.choices > 0, tf.int32)
            rows = tf.gather(tf.pad(x, [[1, 0], [0, 0]]), tokens * tf.sign(self.choices))

            def gradient(upstream):
                return tf.reduce_sum(tf.gather(upstream, self.slots), axis=1)

            return rows, gradient

        return tf.reshape(run(x), (tf.size(self.experts), -1, x.shape[1]))

    def gathered(self, rows):
        """Blocks (P, b, D) -> what each token's experts made of it, (N, k, D)."""
        D = rows.shape[2]

        @tf.custom_gradient
        def run(rows):
            def gradient(upstream):
                flat = tf.pad(tf.reshape(upstream, (-1, D)), [[1, 0], [0, 0]])
                return tf.gather(flat, self.choices)

            return tf.gather(rows, self.slots), gradient

        return run(tf.reshape(rows, (-1, D)))


def _matrices_of(matrices, experts):
    """Matrices (E, m, n) of the experts (P,) -> (P, m, n), with a gradient that is no slices."""

    @tf.custom_gradient
    def run(matrices):
        def gradient(upstream):
            return tf.math.unsorted_segment_sum(upstream, experts, matrices.shape[0])

        return tf.gather(matrices, experts), gradient

    return run(matrices)


def load_balancing(routing, mask, experts_per_token: int):
    """How unevenly the tokens are sent to the experts: k if all get the same, more otherwise.

    Over all layers together, as `load_balancing_loss_func` of Hugging Face transformers has it
    (Fedus et al., 2021, https://arxiv.org/abs/2101.03961, equations 4 to 6).

    Args:
      routing: list of (B, T, E) float32, the router's probabilities in each layer.
      mask: (B, T) bool, the tokens that count; None for all.
      experts_per_token: k.

    Returns:
      () float32. Its gradient goes through the probabilities alone.
    """
    probabilities = tf.stack(routing)  # (L, B, T, E)
    E = probabilities.shape[-1]
    _, chosen = tf.math.top_k(probabilities, experts_per_token)
    sent = tf.reduce_sum(tf.one_hot(chosen, E), axis=-2)  # (L, B, T, E)
    counts = tf.ones(tf.shape(probabilities)[1:3]) if mask is None else tf.cast(mask, tf.float32)
    tokens = tf.maximum(len(routing) * tf.reduce_sum(counts), 1.0)
    counts = counts[None, :, :, None]
    share = tf.reduce_sum(sent * counts, axis=(0, 1, 2)) / tokens  # (E,)
    mean = tf.reduce_sum(probabilities * counts, axis=(0, 1, 2)) / tokens  # (E,)
    return E * tf.reduce_sum(share * mean)
