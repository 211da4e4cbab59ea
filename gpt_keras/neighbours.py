"""Neighbours: where heads of an encoder that has learned nothing begin to look.

From noise alone a bidirectional model with learned positions takes longer than small data last to
find out which tokens stand beside one, and until then learns how frequent tokens are and no more.
"""

import numpy as np

OFFSETS = (-1, 1, -2, 2)  # in tokens, most useful first
SHARE = 0.67  # of the heads, at most one an offset
SHARPNESS = 11.3  # logit of the place meant; of 63 other tokens together it has twice the weight


def look_around(model) -> None:
    """Lets the first heads of each block begin by looking at a token beside their own.

    The first dimensions, which tokens leave to it, are the position as an angle on circles of
    several frequencies (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762); a query is its
    position turned by the head's offset, so that it agrees with the key there and with few others.

    Args:
      model: a `MaskedLM` with learned positions; its weights are changed.
    """
    config, weights = model.config, {weight.path: weight for weight in model.weights}
    h, D = config.head_dim, config.hidden_size
    F = min(h, D // 4) // 2  # frequencies; they take 2 F dimensions
    # One in each part of the half circle, at random, or they would all agree again far away.
    frequencies = np.pi * (np.arange(F) + np.random.default_rng(0).random(F)) / F  # (F,)
    positions = weights["embedding/positions"]  # (P, D)
    angles = np.arange(positions.shape[0])[:, None] * frequencies  # (P, F)
    circles = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)  # (P, 2 F)
    circles = np.pad(circles, [[0, 0], [0, D - 2 * F]])  # (P, D)
    positions.assign(circles * config.initializer_range * 2**0.5)
    table = weights["embedding/table"]  # (D, V)
    table.assign(np.pad(table.numpy()[2 * F :], [[2 * F, 0], [0, 0]]))
    for block in range(config.num_layers):
        kernel = weights[f"block_{block}/attention/qkv/kernel"]
        values = kernel.numpy()
        heads = values.reshape(D, 3, config.num_heads, h)  # queries, keys, values
        for i, offset in enumerate(OFFSETS[: round(SHARE * config.num_heads)]):
            cos, sin = (np.diag(x(offset * frequencies)) for x in (np.cos, np.sin))  # (F, F)
            heads[:, :2, i] = 0
            turn = np.block([[cos, sin], [-sin, cos]])  # (2 F, 2 F)
            heads[: 2 * F, 0, i, : 2 * F] = SHARPNESS * h**0.5 / (2 * F) * turn
            heads[: 2 * F, 1, i, : 2 * F] = np.eye(2 * F)
        kernel.assign(heads.reshape(values.shape))
