"""Optimizer: AdamW, what it decays, and its flags."""

from collections.abc import Sequence

import keras
from absl import flags as absl_flags

from trainers.args import FlagValues, UsageError
from trainers.schedule import SCHEDULES, WarmUpThenDecay


def optimizer_flags(flags: FlagValues) -> None:
    """Optimizer (AdamW)."""

    def real(name, default, help, **limits):
        absl_flags.DEFINE_float(name, default, help, flag_values=flags, **limits)

    real("learning_rate", 1e-4, "peak learning rate", lower_bound=0.0)
    absl_flags.DEFINE_enum(
        "schedule", "cosine", SCHEDULES, "decay after the warm-up", flag_values=flags
    )
    absl_flags.DEFINE_integer(
        "warmup_steps", 0, "updates of linear warm-up", lower_bound=0, flag_values=flags
    )
    real("warmup_ratio", 0.0, "the same as a share of all updates", lower_bound=0, upper_bound=1)
    real("min_learning_rate_ratio", 0.0, "where the decay ends, as a share of the peak",
         lower_bound=0, upper_bound=1)  # fmt: skip
    real("weight_decay", 0.01, "decoupled decay of matrices (none on norms and biases)",
         lower_bound=0.0)  # fmt: skip
    real("beta_1", 0.9, "decay of the gradient's running mean", lower_bound=0, upper_bound=0.999999)
    real("beta_2", 0.999, "decay of the squared gradient's", lower_bound=0, upper_bound=0.999999)
    real("max_grad_norm", 1.0, "clip gradients to this global norm; 0: do not", lower_bound=0.0)


def make_schedule(flags: FlagValues, total_steps: int) -> WarmUpThenDecay:
    """The schedule of the flags for a run of so many updates."""
    if flags.warmup_steps and flags.warmup_ratio:
        raise UsageError("give --warmup_steps or --warmup_ratio, not both")
    warmup_steps = flags.warmup_steps or round(flags.warmup_ratio * total_steps)
    return WarmUpThenDecay(
        flags.schedule,
        flags.learning_rate,
        total_steps,
        warmup_steps,
        flags.min_learning_rate_ratio,
    )


class AdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) for reduced gradients.

    All but one-dimensional weights (norms, biases) decay, at learning rate x `weight_decay`.

    It is given gradients that are already summed over the replicas, since they are clipped by their
    global norm: Keras' own all-reduce would sum them once more.

    Keras adds epsilon to sqrt(v) before the bias correction, torch after it, so this is
    `torch.optim.AdamW` with eps = epsilon / sqrt(1 - beta_2^t): with 1e-8 both are far below
    sqrt(v) of any weight that learns, and the same after some 1 / (1 - beta_2) updates.

    Args:
      variables: Keras variables to train.
      learning_rate: float or schedule.
      weight_decay, beta_1, beta_2: as in the paper.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        learning_rate,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=1e-8,
            name="adamw",  # or Keras numbers it, and checkpoints with it
        )
        undecayed = [v for v in variables if len(v.shape) < 2]
        if undecayed:
            self.exclude_from_weight_decay(var_list=undecayed)
        self.build(variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars
