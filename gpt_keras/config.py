"""GPTConfig: every choice that makes one GPT differ from another, as plain fields.

Nothing here imports TensorFlow: a program may read a model's description without paying for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864).

    Attributes:
      theta: base of the geometric series of wavelengths.
      scaling: Hugging Face's `rope_scaling` entries as sorted pairs, or () for none.
    """

    theta: float = 10000.0
    scaling: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Architecture of a decoder-only Transformer and of the head on top of it.

    Attributes:
      vocab_size: V, rows of the embedding table.
      hidden_size: D, model width.
      num_layers: number of Transformer blocks.
      num_heads: H, query heads.
      num_kv_heads: K, key/value heads; H must be a multiple (Ainslie et al., 2023).
      head_dim: h, width of one head; D // H when 0.
      intermediate_size: F, feed-forward width.
      max_position_embeddings: longest context, in tokens.
      norm: "rms" (Zhang & Sennrich, 2019) or "layer" (Ba et al., 2016).
      norm_epsilon: added to the variance before the square root.
      activation: one of ACTIVATIONS; "gelu_tanh" is GPT-2's approximation.
      gated: feed-forward is down(act(gate(x)) * up(x)) (Shazeer, 2020) instead of down(act(up(x))).
      rotary: rotary positions, or None for a learned table of absolute positions.
      qkv_bias, attention_output_bias, mlp_bias: whether these projections have a bias.
      tie_embeddings: the language-model head shares the embedding table.
      causal: False lets every token see the whole document (bidirectional encoder).
      sliding_window: tokens a query sees, itself included; 0 means all earlier ones.
      dropout: rate on embeddings and on each block's two outputs, in training only.
      initializer_range: standard deviation of the normal initializer.
      bos_token_id, pad_token_id: token ids, or None.
      eos_token_ids: ids that end a generation; () for none.
      id2label: class names of a classification head, in index order; () without such a head.
      model_type: Hugging Face's name of the family, to write config.json; no model code reads it.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_kv_heads: int = 0
    head_dim: int = 0
    max_position_embeddings: int = 2048
    norm: str = "rms"
    norm_epsilon: float = 1e-5
    activation: str = "silu"
    gated: bool = True
    rotary: RotaryConfig | None = RotaryConfig()
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = True
    causal: bool = True
    sliding_window: int = 0
    dropout: float = 0.0
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    id2label: tuple[str, ...] = ()
    model_type: str = "llama"

    def __post_init__(self):
        # A frozen dataclass sets its derived fields through object.__setattr__.
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if not self.head_dim and self.num_heads:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not a multiple of num_heads="
                    f"{self.num_heads}; give head_dim or change one of them"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        self._validate()

    def _validate(self):
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads",
                     "head_dim", "intermediate_size", "max_position_embeddings"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}: expected a positive integer")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r}: expected one of {NORMS}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: expected one of {ACTIVATIONS}")
        if self.rotary is not None and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: rotary positions need an even head width")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: expected a rate in [0, 1)")
        if self.sliding_window < 0:
            raise ValueError(f"sliding_window={self.sliding_window}: expected 0 (off) or more")
        for token_id in (self.bos_token_id, self.pad_token_id, *self.eos_token_ids):
            if token_id is not None and token_id < 0:
                raise ValueError(f"token id {token_id}: expected 0 or more, or None for no token")

    def replace(self, **changes) -> "GPTConfig":
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "GPTConfig":
        """Inverse of `to_dict`; lists, as JSON gives them, become tuples again."""
        fields = dict(fields)
        if fields.get("rotary") is not None:
            rotary = dict(fields["rotary"])
            rotary["scaling"] = tuple((k, v) for k, v in rotary.get("scaling", ()))
            fields["rotary"] = RotaryConfig(**rotary)
        for name in ("eos_token_ids", "id2label"):
            if name in fields:
                fields[name] = tuple(fields[name])
        return cls(**fields)
