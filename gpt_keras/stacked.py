"""All blocks of a backbone as one block in a loop, for graphs that are to be small.

A graph of thirty blocks takes a session seconds to prepare, once for each set of inputs and
outputs; a graph of one block in a loop does not. It computes the same numbers, as fast: a slice of
the stacked weights along the first axis is a view.
"""

import tensorflow as tf

from gpt_keras.backbone import GPTBackbone
from gpt_keras.rotary import Rotation, head_scale, rotations


class StackedBackbone:
    """The trunk of a `GPTBackbone` for inference, its blocks' weights stacked layer by layer.

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
        self.weights = [
            tf.Variable(
                tf.stack([variable.value for variable in column]), trainable=False, name=name
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

    def _rotation_of_layer(self, positions, lengths):
        """From a layer's number, a scalar int32 tensor, to its rotation or None."""
        config = self.config
        kinds = [config.rotary_of(i) for i in range(config.num_layers)]
        turns = list(rotations(config, positions, lengths).items())
        if not turns:
            return lambda i: None
        if len({*kinds}) == 1:
            return lambda i: turns[0][1]
        if None in kinds:  # turned by no angle
            scale = head_scale(config)
            still = [tf.ones_like(x) * scale * s for x, s in zip(turns[0][1], (1, 0), strict=True)]
            turns.append((None, Rotation(*still)))
        stacks = [tf.stack(x) for x in zip(*(turn for _, turn in turns), strict=True)]
        which = [[rotary for rotary, _ in turns].index(kind) for kind in kinds]

        def of_layer(i):
            kind = tf.gather(tf.constant(which), i)
            return Rotation(*(_view(stack, kind) for stack in stacks))

        return of_layer


def _view(stack, i):
    """`stack[i]` in few ops, which count when there are so many."""
    first = tf.reshape(i, [1])
    return tf.raw_ops.StridedSlice(
        input=stack, begin=first, end=first + 1, strides=[1], shrink_axis_mask=1
    )
