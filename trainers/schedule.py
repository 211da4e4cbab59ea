"""Learning-rate schedules: a pure function of the step."""

import math

import keras
from keras import ops

SCHEDULES = ("cosine", "linear", "constant")


@keras.saving.register_keras_serializable("gpt_keras")
class WarmUpThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then cosine or linear decay to a share of it, or none.

    Step 0 is the first update and already learns: with `warmup_steps` W the rates are peak/W,
    2 peak/W ... peak; the last of `total_steps` is just short of the minimum. Cosine decay is that
    of Loshchilov & Hutter (2017, https://arxiv.org/abs/1608.03983) without restarts.

    Args:
      kind: one of SCHEDULES.
      peak: learning rate after the warm-up.
      total_steps: updates of the whole run, warm-up included.
      warmup_steps: updates of the warm-up.
      min_ratio: the rate that is decayed to, as a share of the peak.
    """

    def __init__(
        self,
        kind: str,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        min_ratio: float = 0.0,
    ):
        if kind not in SCHEDULES:
            raise ValueError(f"schedule={kind!r}: give one of {', '.join(SCHEDULES)}")
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps}: give 0 to the {total_steps} steps of the run"
            )
        if not 0.0 <= min_ratio <= 1.0:
            raise ValueError(f"min_learning_rate_ratio={min_ratio}: give a share from 0 to 1")
        self.kind, self.peak, self.min_ratio = kind, peak, min_ratio
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = ops.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        if self.kind == "constant":
            return self.peak * warmup
        span = max(self.total_steps - self.warmup_steps, 1)
        progress = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        left = 0.5 * (1 + ops.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        return self.peak * warmup * (self.min_ratio + (1 - self.min_ratio) * left)

    def get_config(self):
        return {
            "kind": self.kind,
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "min_ratio": self.min_ratio,
        }
