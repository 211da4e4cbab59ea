"""LossScale: what keeps the small gradients of float16 from vanishing."""

import keras
import tensorflow as tf

INITIAL, LEAST, GROWTH_STEPS = 2.0**15, 2.0**-14, 2000


class LossScale:
    """Dynamic loss scale (Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740).

    The loss is multiplied by it before the gradient is taken. A step whose gradients are not finite
    is left out and halves it; after GROWTH_STEPS good ones in a row it doubles.

    Args:
      optimizer: built; it keeps the state among its variables, so that checkpoints have it.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        def variable(name, value, dtype):
            start = keras.initializers.Constant(value)
            return optimizer.add_variable((), initializer=start, dtype=dtype, name=name)

        self.value = variable("loss_scale", INITIAL, "float32")
        self.good_steps = variable("good_steps", 0, "int64")

    def count(self) -> None:
        """After a good step."""
        steps = int(tf.convert_to_tensor(self.good_steps)) + 1
        if steps == GROWTH_STEPS:
            self.value.assign(2 * self._value())
        self.good_steps.assign(steps % GROWTH_STEPS)

    def halve(self) -> float:
        """After a step that was left out; the scale from now on.

        Raises:
          ValueError: it has shrunk so far that the gradients are not finite at all.
        """
        scale = self._value() / 2
        self.value.assign(scale)
        self.good_steps.assign(0)
        if scale < LEAST:
            raise ValueError(
                f"--mixed_precision=float16: gradients are not finite even at a loss scale of "
                f"{scale:g}; lower --learning_rate, or take bfloat16"
            )
        return scale

    def _value(self) -> float:
        return float(tf.convert_to_tensor(self.value))
