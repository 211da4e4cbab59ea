"""Model size: how many parameters an architecture has, and an architecture of a given size."""

import math

from gpt_keras import GPTConfig

WIDTH_PER_LAYER = 64  # as GPT-2's 768 / 12; a factor of 3 either way costs 1 % of the loss (Kaplan
# et al., 2020, https://arxiv.org/abs/2001.08361, figure 5)


def count_parameters(config: GPTConfig) -> int:
    """All parameters of a language model, the embedding included."""
    D, F = config.hidden_size, config.intermediate_size
    H, K, h = config.num_heads, config.num_kv_heads, config.head_dim
    norm = D if config.norm == "rms" else 2 * D
    attention = D * (H + 2 * K) * h + H * h * D
    attention += (H + 2 * K) * h * config.qkv_bias + D * config.attention_output_bias
    if config.qk_norm:
        attention += (H + K) * h if config.qk_norm == "width" else 2 * h
    mlp = (3 if config.gated else 2) * D * F
    mlp += ((2 if config.gated else 1) * F + D) * config.mlp_bias
    if config.num_experts:
        mlp = config.num_experts * (mlp + D)  # the router's columns
    embeddings = config.vocab_size * D * (1 if config.tie_embeddings else 2)
    positions = 0 if config.rotary else config.max_position_embeddings * D
    norms = (4 if config.norm_place == "both" else 2) * norm
    return embeddings + positions + config.num_layers * (attention + mlp + norms) + norm


def config_of_size(parameters: float, vocab_size: int, max_length: int = 2048) -> GPTConfig:
    """A llama whose number of parameters is near this one, in the usual proportions.

    Args:
      parameters: wanted; the smallest model there is may have more.
      vocab_size: V.
      max_length: longest context, in tokens.
    """
    widths = [16, 32, 48, *range(64, 256, 32), *range(256, 2048, 64), *range(2048, 32769, 256)]
    found = []
    for width in widths:
        one = _llama(width, 1, vocab_size, max_length)
        layer = count_parameters(one.replace(num_layers=2)) - count_parameters(one)
        layers = max(round((parameters - count_parameters(one)) / layer) + 1, 1)
        config = one.replace(num_layers=layers)
        error = abs(math.log(count_parameters(config) / parameters))
        shape = abs(math.log(width / layers / WIDTH_PER_LAYER))
        found.append((10 * error + shape, width, config))
    return min(found, key=lambda entry: entry[:2])[2]


def _llama(width: int, layers: int, vocab_size: int, max_length: int) -> GPTConfig:
    head = next(h for h in (128 if width >= 2048 else 64, 64, 32, 16) if not width % h)
    return GPTConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // head,
        intermediate_size=-(-width * 8 // 3 // 32) * 32,
        max_position_embeddings=max_length,
    )
