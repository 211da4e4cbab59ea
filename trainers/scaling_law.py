"""ParametricLaw: the loss as a function of model size and data, and what is best for a budget."""

import dataclasses
from collections.abc import Sequence

import numpy as np

FLOPS_PER_PARAMETER_AND_TOKEN = 6  # forward 2, backward 4; attention's scores not counted


@dataclasses.dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats a token: the third approach of Hoffmann et
    al. (2022, https://arxiv.org/abs/2203.15556, equation 2).

    N counts all parameters, D the training tokens, and C = 6 N D the FLOPs.

    Attributes:
      E: loss of a perfect model of the text.
      A, alpha: what a finite model adds.
      B, beta: what finite data adds.
      source: where the constants are from.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""

    def loss(self, parameters, tokens):
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss for so many FLOPs (their equation 4)."""
        product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = scale * product**self.exponent
        return parameters, product / parameters

    @property
    def exponent(self) -> float:
        """a, where the best number of parameters grows as C^a, and of tokens as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def __str__(self):
        return (
            f"loss = {self.E:.4g} + {self.A:.4g} / N^{self.alpha:.4g} + "
            f"{self.B:.5g} / D^{self.beta:.4g}"
        )


LAWS = {
    "besiroglu": ParametricLaw(
        1.8172, 482.01, 2085.43, 0.3478, 0.3658,
        "Besiroglu et al., 2024, arXiv 2404.10102: third approach of Hoffmann et al., 2022, arXiv "
        "2203.15556, fitted anew to runs read off their figure",
    ),
    "hoffmann": ParametricLaw(
        1.69, 406.4, 410.7, 0.34, 0.28,
        "Hoffmann et al., 2022, arXiv 2203.15556, third approach as published; its fit had not "
        "converged, and it disagrees with their first two approaches",
    ),
}  # fmt: skip
EXPONENTS = (0.02, 2.0)  # between which a fit looks for alpha and beta
LEAST_EFFECT = 1e-3  # nats, that size or data have to make for a law to tell an optimum
FITTED_FLOPS = (6e18, 3e21)  # the runs that these laws were fitted to


def fit_law(
    parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float]
) -> ParametricLaw:
    """The law of least squared error over some runs.

    For given exponents E, A and B are a linear problem, which leaves a search over two numbers
    (variable projection: Golub & Pereyra, 1973). None of the constants is negative.

    Args:
      parameters, tokens, losses: of each run.

    Raises:
      ValueError: fewer than 6 runs, for 5 constants; or the losses depend on size or data alone.
    """
    N, D, losses = (np.asarray(values, np.float64) for values in (parameters, tokens, losses))
    if len(losses) < 6:
        raise ValueError(f"a law has five constants, and {len(losses)} runs do not tell them")
    from scipy.optimize import nnls  # imported here: not every run fits

    N0, D0 = np.exp(np.log(N).mean()), np.exp(np.log(D).mean())

    def solve(alpha, beta):
        columns = np.stack([np.ones_like(N), (N / N0) ** -alpha, (D / D0) ** -beta], axis=1)
        constants, error = nnls(columns, losses)
        return error, alpha, beta, constants

    centre, offsets = (1.0, 1.0), np.linspace(-1, 1, 51)
    for _ in range(5):  # each time on a finer grid around the best
        best = min(
            (
                solve(alpha, beta)
                for alpha in np.clip(centre[0] + offsets, *EXPONENTS)
                for beta in np.clip(centre[1] + offsets, *EXPONENTS)
            ),
            key=lambda found: found[0],
        )
        centre, offsets = best[1:3], np.linspace(offsets[0], offsets[-1], 21) / 8
    error, alpha, beta, (E, A, B) = best
    for constant, better, ratio in ((A, "fewer", "more"), (B, "more", "fewer")):
        if constant < LEAST_EFFECT:
            raise ValueError(
                f"models of {better} parameters are better throughout; to find an optimum, "
                f"spend the budgets on {ratio} tokens a parameter as well"
            )
    return ParametricLaw(
        float(E), float(A * N0**alpha), float(B * D0**beta), float(alpha), float(beta),
        f"fitted to {len(losses)} runs, off by {error / len(losses) ** 0.5:.3f} nats",
    )  # fmt: skip
