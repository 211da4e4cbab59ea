"""Learning-rate schedules: a pure function of the step."""

import math

import keras
from keras import ops

SCHEDULES = ("cosine", "linear", "constant", "wsd", "inverse_sqrt")


@keras.saving.register_keras_serializable("gpt_keras")
class WarmUpThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then decay to a share of it, or none.

    Step 0 is the first update and already learns: with `warmup_steps` W the rates are peak/W,
    2 peak/W ... peak; the last of `total_steps` is just short of the minimum. `cosine` is the decay
    of Loshchilov & Hutter (2017, https://arxiv.org/abs/1608.03983) without restarts; `wsd` stays
    at the peak and decays linearly in the last `decay_steps` (warm-up-stable-decay, Hu et al.,
    2024, https://arxiv.org/abs/2404.06395); `inverse_sqrt` falls as peak x sqrt(W / step)
    (Vaswani et al., 2017), W at least 1, but not below the minimum.

    Args:
      kind: one of SCHEDULES.
      peak: learning rate after the warm-up.
      total_steps: updates of the whole run, warm-up included.
      warmup_steps: updates of the warm-up.
      min_ratio: the rate that is decayed to, as a share of the peak.
      decay_steps: updates of the decay of `wsd`.
    """

    def __init__(
        self,
        kind: str,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        min_ratio: float = 0.0,
        decay_steps: int = 0,
    ):
        if kind not in SCHEDULES:
            raise ValueError(f"schedule={kind!r}: give one of {', '.join(SCHEDULES)}")
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps}: give 0 to the {total_steps} steps of the run"
            )
        if not 0.0 <= min_ratio <= 1.0:
            raise ValueError(f"min_learning_rate_ratio={min_ratio}: give a share from 0 to 1")
        if kind == "wsd" and warmup_steps + decay_steps > total_steps:
            raise ValueError(
                f"warm-up ({warmup_steps}) and decay ({decay_steps}) are longer than the run of "
                f"{total_steps} steps; lower warmup_steps or decay_ratio"
            )
        self.kind, self.peak, self.min_ratio = kind, peak, min_ratio
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.decay_steps = decay_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = ops.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        return self.peak * warmup * (self.min_ratio + (1 - self.min_ratio) * self._left(step))

    def _left(self, step):
        """What is left of the decay: from 1 to 0."""
        if self.kind == "constant":
            return 1.0
        if self.kind == "inverse_sqrt":
            W = max(self.warmup_steps, 1)
            rate = ops.sqrt(W / ops.maximum(step + 1.0, W))
            return ops.maximum(rate - self.min_ratio, 0.0) / max(1 - self.min_ratio, 1e-9)
        before = self.total_steps - self.decay_steps if self.kind == "wsd" else self.warmup_steps
        span = max(self.total_steps - before, 1)
        progress = ops.clip((step - before) / span, 0.0, 1.0)
        return 0.5 * (1 + ops.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress

    def get_config(self):
        return {
            "kind": self.kind,
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "min_ratio": self.min_ratio,
            "decay_steps": self.decay_steps,
        }
