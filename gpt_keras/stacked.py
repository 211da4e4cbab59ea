"""All blocks of a backbone as one block in a loop, for graphs that are to be small.

A graph of thirty blocks takes a session seconds to prepare, once for each set of inputs and
outputs; a graph of one block in a loop does not. It computes the same numbers, as fast: a slice of
the stacked weights along the first axis is a view.
"""

import numpy as np
import tensorflow as tf

from gpt_keras.backbone import GPTBackbone
from gpt_keras.rotary import PairedRotation, Rotation, head_scale, pair_order, rotations


class StackedBackbone:
    """The trunk of a `GPTBackbone` for inference, its blocks' weights stacked layer by layer.

    In float32 the numbers of queries and keys stand in another order, pair by pair as rotary
    positions turn them. Their products are the same.

    Attributes:
      weights: the stacks, each (L, ...), in the order of a block's variables.
    """

    def __init__(self, backbone: GPTBackbone):
        self.config = backbone.config
        self._backbone = backbone
        # Trainable or not, as `stateless_call` wants them: a block in panels has both kinds.
        self._counts = [
            len(backbone.blocks[0].trainable_variables),
            len(backbone.blocks[0].non_trainable_variables),
        ]
        columns = zip(
            *(b.trainable_variables + b.non_trainable_variables for b in backbone.blocks),
            strict=True,
        )
        # TensorFlow's complex numbers are of 32 bits or more.
        self._paired = backbone.compute_dtype == "float32" and self.config.head_dim % 2 == 0
        orders = self._orders() if self._paired else {}
        self.weights = [
            tf.Variable(
                tf.stack([_ordered(variable, orders.get(variable.path)) for variable in column]),
                trainable=False,
                name=name,
            )
            for column in columns
            for name in [column[0].path.split("/", 1)[-1].replace("/", "_")]
        ]

    def decode(self, token_ids, positions, cache_of_layer, lengths=None):
        """Hidden states of new tokens, as `GPTBackbone.decode` gives them.

        Args:
          token_ids, positions: (B, T) int.
          cache_of_layer: from a layer's number, a scalar int32 tensor, to its LayerCache, which
            keeps new tokens by itself: what its `attend` returns as the next cache is dropped.
          lengths: as of `GPTBackbone.decode`.

        Returns:
          (B, T, D) after the last norm.
        """
        block, backbone = self._backbone.blocks[0], self._backbone
        turn_of = self._rotation_of_layer(positions, lengths)

        def layer(i, x):
            values = [_view(weight, i) for weight in self.weights]
            split = self._counts[0]
            (x, _), _ = block.stateless_call(
                values[:split], values[split:], x, rotation=turn_of(i), cache=cache_of_layer(i)
            )
            return i + 1, x

        x = backbone.embedding(token_ids, positions)
        _, x = tf.while_loop(
            lambda i, _: i < self.config.num_layers,
            layer,
            (tf.constant(0), x),
            shape_invariants=(tf.TensorShape([]), x.shape),
            parallel_iterations=1,
        )
        return backbone.final_norm(x)

    def _orders(self):
        """By path of a variable, the order that columns of it are to have, (F,) int."""
        config, orders = self.config, {}
        H, K, h = config.num_heads, config.num_kv_heads, config.head_dim
        for i, block in enumerate(self._backbone.blocks):
            rotary, attention = config.rotary_of(i), block.attention
            if not rotary:
                continue
            order = pair_order(rotary, h)
            heads = np.arange(H + K)[:, None] * h + order  # (H+K, h)
            values = np.arange((H + K) * h, (H + 2 * K) * h)
            for variable in attention.qkv.variables:
                orders[variable.path] = np.concatenate([heads.ravel(), values])
            if config.qk_norm:
                for norm in (attention.q_norm, attention.k_norm):
                    orders[norm.scale.path] = heads.ravel()[: norm.scale.shape[0]]
        return orders

    def _rotation_of_layer(self, positions, lengths):
        """From a layer's number, a scalar int32 tensor, to its rotation or None."""
        config = self.config
        kinds = [config.rotary_of(i) for i in range(config.num_layers)]
        turns = list(rotations(config, positions, lengths).items())
        if not turns:
            return lambda i: None
        if None in kinds:  # turned by no angle
            scale = head_scale(config)
            still = [tf.ones_like(x) * scale * s for x, s in zip(turns[0][1], (1, 0), strict=True)]
            turns.append((None, Rotation(*still)))
        if self._paired:
            turns = [(rotary, PairedRotation.of(turn)) for rotary, turn in turns]
        if len(turns) == 1:
            return lambda i: turns[0][1]
        form = type(turns[0][1])
        stacks = [tf.stack(x) for x in zip(*(turn for _, turn in turns), strict=True)]
        which = [[rotary for rotary, _ in turns].index(kind) for kind in kinds]

        def of_layer(i):
            kind = tf.gather(tf.constant(which), i)
            return form(*(_view(stack, kind) for stack in stacks))

        return of_layer


def _ordered(variable, order):
    """Its value, the columns of the matrix or vector in another order if one is given."""
    value = variable.value
    if order is None:
        return value
    if len(value.shape) < 3:
        return tf.gather(value, order, axis=-1)
    # In parts, see `layers.split_columns`; what they are padded with stays at the end.
    P, D, n = value.shape
    order = np.concatenate([order, np.arange(len(order), P * n)])
    columns = tf.reshape(tf.transpose(value, (0, 2, 1)), (P * n, D))
    return tf.transpose(tf.reshape(tf.gather(columns, order), (P, n, D)), (0, 2, 1))


def _view(stack, i):
    """`stack[i]` in few ops, which count when there are so many."""
    first = tf.reshape(i, [1])
    return tf.raw_ops.StridedSlice(
        input=stack, begin=first, end=first + 1, strides=[1], shrink_axis_mask=1
    )
