"""Optimizers: Keras' own on reduced gradients, what they decay, and their flags."""

import contextlib
from collections.abc import Sequence

import keras
from absl import flags as absl_flags
from keras import ops

from trainers.args import FlagValues, UsageError
from trainers.schedule import SCHEDULES, WarmUpThenDecay


def optimizer_flags(flags: FlagValues) -> None:
    """Optimizer."""

    def real(name, default, help, **limits):
        absl_flags.DEFINE_float(name, default, help, flag_values=flags, **limits)

    def enum(name, values, help):
        absl_flags.DEFINE_enum(name, next(iter(values)), values, help, flag_values=flags)

    enum("optimizer", list(OPTIMIZERS), "adamw, adafactor, lion (wants a tenth of AdamW's learning "
         "rate), muon (matrices of the blocks; the rest by AdamW, at the same rate)")  # fmt: skip
    real("learning_rate", 1e-4, "peak learning rate", lower_bound=0.0)
    enum("schedule", SCHEDULES, "after the warm-up; wsd: constant, then linear decay in the last "
         "--decay_ratio of the run")  # fmt: skip
    absl_flags.DEFINE_integer(
        "warmup_steps", 0, "updates of linear warm-up", lower_bound=0, flag_values=flags
    )
    real("warmup_ratio", 0.0, "the same as a share of all updates", lower_bound=0, upper_bound=1)
    real("decay_ratio", 0.1, "share of all updates in which --schedule=wsd decays",
         lower_bound=0, upper_bound=1)  # fmt: skip
    real("min_learning_rate_ratio", 0.0, "where the decay ends, as a share of the peak",
         lower_bound=0, upper_bound=1)  # fmt: skip
    real("layer_lr_decay", 1.0, "learning rate of each block as a share of that of the block above "
         "it; the embedding is below the first, head and last norm above the last",
         lower_bound=0, upper_bound=1)  # fmt: skip
    absl_flags.DEFINE_integer(
        "unfreeze_steps", 0, "updates before each layer below the head begins to learn, one after "
        "the other from the top; 0: all from the start", lower_bound=0, flag_values=flags,
    )  # fmt: skip
    real("weight_decay", 0.01, "decoupled decay of matrices (none on norms and biases)",
         lower_bound=0.0)  # fmt: skip
    real("beta_1", 0.9, "decay of the gradient's running mean (not of adafactor)",
         lower_bound=0, upper_bound=0.999999)  # fmt: skip
    real("beta_2", None, "decay of the squared gradient's, or of lion's second mean (not of "
         "adafactor); empty: 0.999, of lion 0.99", lower_bound=0, upper_bound=0.999999)  # fmt: skip
    real("ema_decay", 0.0, "decay of a moving average of the weights, which evaluation and the "
         "finished model then use; 0: none", lower_bound=0, upper_bound=0.999999)  # fmt: skip
    real("max_grad_norm", 1.0, "clip gradients to this global norm; 0: do not", lower_bound=0.0)


def make_schedule(flags: FlagValues, total_steps: int) -> WarmUpThenDecay:
    """The schedule of the flags for a run of so many updates."""
    if flags.warmup_steps and flags.warmup_ratio:
        raise UsageError("give --warmup_steps or --warmup_ratio, not both")
    return WarmUpThenDecay(
        flags.schedule,
        flags.learning_rate,
        total_steps,
        flags.warmup_steps or round(flags.warmup_ratio * total_steps),
        flags.min_learning_rate_ratio,
        round(flags.decay_ratio * total_steps),
    )


def make_optimizer(flags: FlagValues, variables, total_steps: int, rates=None, starts=None):
    """The optimizer of the flags; arguments as of `ReducedGradients` and `make_schedule`."""
    options = {
        "weight_decay": flags.weight_decay, "ema_decay": flags.ema_decay, "rates": rates,
        "starts": starts,
    }  # fmt: skip
    if flags.optimizer != "adafactor":
        options["beta_1"] = flags.beta_1
        if flags.beta_2 is not None:
            options["beta_2"] = flags.beta_2
    schedule = make_schedule(flags, total_steps)
    return OPTIMIZERS[flags.optimizer](variables, schedule, **options)


class ReducedGradients:
    """What Keras' optimizers get here, as the first base of each.

    - Gradients come summed over the replicas, since they are clipped by their global norm: Keras'
      own all-reduce would sum them once more.
    - Matrices decay (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) at learning rate
      x `weight_decay`; one-dimensional weights (norms, biases) do not.
    - Each variable may learn at a rate of its own, and from an update of its own on. Until then
      its gradient's running means are kept, so that it begins with steps of the usual size.
    - A moving average of the weights, with the decay min(`ema_decay`, t / (t + 9)) after t updates:
      the first ones do not weigh for long.

    All state is in `variables`, so a checkpoint of them is whole.

    Args:
      variables: Keras variables to train.
      learning_rate: float or schedule.
      weight_decay: see above.
      ema_decay: of the moving average; 0 for none.
      rates: share of the learning rate for each of `variables`; None: 1.
      starts: number of the first update that changes each of them; None: 0.
      **options: of Keras' class.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        learning_rate,
        weight_decay: float = 0.01,
        ema_decay: float = 0.0,
        rates: Sequence[float] | None = None,
        starts: Sequence[int] | None = None,
        **options,
    ):
        name = type(self).__name__.lower()  # or Keras numbers it, and checkpoints with it
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **options
        )
        self.build(variables)
        self.ema_decay, self._averages = ema_decay, []
        self._rates = [1.0] * len(variables) if rates is None else list(rates)
        self._starts = [0] * len(variables) if starts is None else list(starts)
        if ema_decay:
            self._averages = self.add_optimizer_variables(variables, "average")

    def update_step(self, gradient, variable, learning_rate):
        i = self._get_variable_index(variable)
        rate = ops.cast(learning_rate * self._rates[i], variable.dtype)
        if self._starts[i]:
            rate *= ops.cast(self.iterations >= self._starts[i], variable.dtype)
        if self.weight_decay and len(variable.shape) > 1:
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, rate)
        if self.ema_decay:
            t = ops.cast(self.iterations, variable.dtype)
            left = 1.0 - ops.minimum(self.ema_decay, t / (t + 9.0))
            self.assign_add(self._averages[i], left * (variable - self._averages[i]))

    def take_averages(self) -> None:
        """Sets the weights to their moving averages, where these are kept and something is."""
        if self._averages and ops.convert_to_tensor(self.iterations) > 0:
            for variable, average in zip(self._trainable_variables, self._averages, strict=True):
                variable.assign(ops.convert_to_tensor(average))

    @contextlib.contextmanager
    def averaged(self):
        """Within, the weights are their moving averages, where these are kept."""
        own = [v.numpy() for v in self._trainable_variables] if self._averages else []
        self.take_averages()
        try:
            yield
        finally:
            for variable, value in zip(self._trainable_variables, own, strict=False):
                variable.assign(value)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars

    def _apply_weight_decay(self, variables):
        """Done in `update_step`."""


class AdamW(ReducedGradients, keras.optimizers.AdamW):
    """Keras adds epsilon to sqrt(v) before the bias correction, torch after it.

    So this is `torch.optim.AdamW` with eps = epsilon / sqrt(1 - beta_2^t): with 1e-8 both are far
    below sqrt(v) of any weight that learns, and the same after some 1 / (1 - beta_2) updates.
    """

    def __init__(self, *args, epsilon: float = 1e-8, **options):
        super().__init__(*args, epsilon=epsilon, **options)


class Adafactor(ReducedGradients, keras.optimizers.Adafactor):
    """Updates are relative to the size of each weight (Shazeer & Stern, 2018, arXiv 1804.04235).

    Keras keeps the product of the two factors too, so it needs half of AdamW's memory, not less.
    """


class Lion(ReducedGradients, keras.optimizers.Lion):
    """The sign of a mean of the gradient (Chen et al., 2023, https://arxiv.org/abs/2302.06675)."""


class Muon(ReducedGradients, keras.optimizers.Muon):
    """Orthogonal updates of the blocks' matrices (Liu et al., 2025, arXiv 2502.16982).

    Scaled to the size of AdamW's, which has what is no matrix, and embedding and heads. Queries,
    keys and values are one matrix here, as are gate and up projection.
    """

    def __init__(self, *args, beta_1: float = 0.9, beta_2: float = 0.999, **options):
        betas = {"adam_beta_1": beta_1, "adam_beta_2": beta_2}
        super().__init__(*args, exclude_layers=["score"], epsilon=1e-8, **betas, **options)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon}
