"""GPTConfig: every choice that makes one GPT differ from another, as plain fields.

Nothing here imports TensorFlow: a program may read a model's description without paying for it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

NORMS = ("rms", "layer")
NORM_PLACES = ("pre", "post", "both", "sum")
QK_NORMS = ("", "head", "width")
# Kinds of rotary scaling that turn a text's tokens by angles that its whole length decides.
SCALINGS_BY_LENGTH = ("dynamic", "longrope")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864).

    Attributes:
      theta: base of the geometric series of wavelengths.
      scaling: Hugging Face's `rope_scaling` entries as sorted pairs, or () for none.
      fraction: share of each head's numbers that is turned, the first ones.
    """

    theta: float = 10000.0
    scaling: tuple[tuple[str, Any], ...] = ()
    fraction: float = 1.0

    @property
    def kind(self) -> str:
        """Kind of the scaling, "default" without one."""
        scaling = dict(self.scaling)
        return scaling.get("rope_type", scaling.get("type", "default"))

    @property
    def by_length(self) -> bool:
        """Whether the length of a whole text decides by what angles its tokens are turned."""
        return self.kind in SCALINGS_BY_LENGTH


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Architecture of a Transformer of one stack, decoder or encoder, and of the head on top of it.

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
      norm_offset: added to the scale of every norm: 1 where 0 is stored for "as it is".
      norm_place: norms of what goes into attention and feed-forward ("pre"), of what comes out of
        them ("post", Liu et al., 2022, https://arxiv.org/abs/2111.09883, section 3.2), of "both",
        or of the residual stream after each ("sum", Vaswani et al., 2017), with none at the end.
      qk_norm: RMS norm of queries and keys (Henry et al., 2020): "head" by head, over the "width"
        of all heads together, or "".
      parallel_residual: attention and feed-forward take the same input and are added up, instead
        of one after the other (Wang & Komatsuzaki, 2021).
      activation: one of ACTIVATIONS; "gelu_tanh" is GPT-2's approximation.
      gated: feed-forward is down(act(gate(x)) * up(x)) (Shazeer, 2020) instead of down(act(up(x))).
      num_experts: E, feed-forwards of a mixture of experts (Shazeer et al., 2017); 0 for a single
        one that all tokens go through.
      experts_per_token: k, experts that each token goes through.
      normalize_experts: the weights of a token's experts sum to 1.
      router_loss: weight in training of the loss that evens out the experts' tokens (Fedus et al.,
        2021, https://arxiv.org/abs/2101.03961).
      rotary: rotary positions, or None for a learned table of absolute positions.
      rotary_layers: which layers have rotary positions; the others have none (NoPE, Yang et al.,
        2025, https://arxiv.org/abs/2501.18795). It is repeated from layer to layer, and () is all.
      local_rotary: rotary positions of layers with a sliding window, where they have their own.
      qkv_bias, attention_output_bias, mlp_bias: whether these projections have a bias.
      tie_embeddings: the language-model head shares the embedding table.
      scale_embeddings: embeddings that go into the first block are multiplied by sqrt(D).
      embedding_norm: embeddings that go into the first block are normed.
      token_types: kinds of tokens, such as those of the first and the second text, that have
        embeddings of their own (Devlin et al., 2018, https://arxiv.org/abs/1810.04805); 0 for none.
      position_offset: rows of the table of positions before that of a text's first token.
      logits_softcap: c of c tanh(x / c), which logits go through; 0 for none.
      attention_softcap: the same for attention's scores, before what is hidden is masked.
      attention_scalar: attention's scores are divided by its square root; h when 0.
      causal: False lets every token see the whole document (bidirectional encoder).
      pooler: a text is classified by its first token, through a layer with tanh, and not by its
        last token.
      sliding_window: tokens a query sees, itself included; 0 means all earlier ones.
      window_layers: which layers have the sliding window, repeated as `rotary_layers` is.
      dropout: rate on embeddings and on each block's two outputs, in training only.
      initializer_range: standard deviation of the normal initializer.
      bos_token_id, pad_token_id: token ids, or None.
      eos_token_ids: ids that end a generation; () for none.
      id2label: class names of a classification head, in index order; () without such a head.
      task_params: name of a task -> values of its options that are not the default, see
        `gpt_keras.tasks.text_task`; plain values, as JSON has them.
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
    norm_offset: float = 0.0
    norm_place: str = "pre"
    qk_norm: str = ""
    parallel_residual: bool = False
    activation: str = "silu"
    gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_experts: bool = False
    router_loss: float = 0.0
    rotary: RotaryConfig | None = RotaryConfig()
    rotary_layers: tuple[bool, ...] = ()
    local_rotary: RotaryConfig | None = None
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = True
    scale_embeddings: bool = False
    embedding_norm: bool = False
    token_types: int = 0
    position_offset: int = 0
    logits_softcap: float = 0.0
    attention_softcap: float = 0.0
    attention_scalar: int = 0
    causal: bool = True
    pooler: bool = False
    sliding_window: int = 0
    window_layers: tuple[bool, ...] = ()
    dropout: float = 0.0
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    id2label: tuple[str, ...] = ()
    task_params: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, hash=False
    )
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
        # One of the many ways to say the same, so that equal models have equal configurations.
        window_layers = shortest_period(self.window_layers) if self.sliding_window else ()
        rotary_layers = shortest_period(self.rotary_layers) if self.rotary else ()
        object.__setattr__(self, "window_layers", window_layers)
        object.__setattr__(self, "rotary_layers", rotary_layers)
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
        if self.norm_place not in NORM_PLACES:
            raise ValueError(f"norm_place={self.norm_place!r}: expected one of {NORM_PLACES}")
        if self.qk_norm not in QK_NORMS:
            raise ValueError(f"qk_norm={self.qk_norm!r}: expected one of {QK_NORMS}")
        if self.parallel_residual and self.norm_place != "pre":
            raise ValueError(
                f"norm_place={self.norm_place!r}: parallel_residual goes with 'pre' alone"
            )
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token}: expected 1 to num_experts="
                f"{self.num_experts}"
            )
        if self.num_experts and self.mlp_bias:
            raise ValueError("mlp_bias=True: experts have no biases; leave it False")
        for rotary in filter(None, (self.rotary, self.local_rotary)):
            width = int(self.head_dim * rotary.fraction)
            if width % 2 or not 0 < width <= self.head_dim:
                raise ValueError(
                    f"head_dim={self.head_dim}: rotary positions need an even head width, and "
                    f"{rotary.fraction:g} of it is {width}"
                )
        for name in ("attention_softcap", "logits_softcap", "attention_scalar"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 (off) or more")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: expected a rate in [0, 1)")
        for name in ("sliding_window", "token_types", "position_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 (off) or more")
        for token_id in (self.bos_token_id, self.pad_token_id, *self.eos_token_ids):
            if token_id is not None and token_id < 0:
                raise ValueError(f"token id {token_id}: expected 0 or more, or None for no token")

    def window_of(self, layer: int) -> int:
        """Tokens a query of the layer sees, itself included; 0 means all earlier ones."""
        windowed = _of_layer(self.window_layers, layer)
        return self.sliding_window if windowed else 0

    def rotary_of(self, layer: int) -> RotaryConfig | None:
        """The layer's rotary positions, or None."""
        if not _of_layer(self.rotary_layers, layer):
            return None
        return (self.local_rotary if self.window_of(layer) else None) or self.rotary

    @property
    def windows(self) -> tuple[int, ...]:
        """What `window_of` says of any layer, without repetition."""
        return tuple(dict.fromkeys(map(self.window_of, self._kinds_of_layers)))

    @property
    def rotaries(self) -> tuple[RotaryConfig, ...]:
        """What `rotary_of` says of any layer, without repetition and None."""
        return tuple(filter(None, dict.fromkeys(map(self.rotary_of, self._kinds_of_layers))))

    @property
    def _kinds_of_layers(self) -> range:
        """Layers from the first on, until they repeat."""
        period = math.lcm(len(self.window_layers) or 1, len(self.rotary_layers) or 1)
        return range(min(self.num_layers, period))

    @property
    def by_length(self) -> bool:
        """Whether a token's keys depend on how long its text becomes, see `RotaryConfig`."""
        return any(rotary.by_length for rotary in self.rotaries)

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
        for name in ("rotary", "local_rotary"):
            if fields.get(name) is not None:
                rotary = dict(fields[name])
                rotary["scaling"] = tuple(
                    (k, tuple(v) if isinstance(v, list) else v)
                    for k, v in rotary.get("scaling", ())
                )
                fields[name] = RotaryConfig(**rotary)
        for name in ("eos_token_ids", "id2label", "rotary_layers", "window_layers"):
            if name in fields:
                fields[name] = tuple(fields[name])
        return cls(**fields)


def shortest_period(values: tuple) -> tuple:
    """The shortest tuple that gives `values` when it is repeated; () for Trues alone."""
    for n in range(1, len(values)):
        if values == (values[:n] * len(values))[: len(values)]:
            values = values[:n]
            break
    return () if values == (True,) else values


def _of_layer(pattern: tuple[bool, ...], layer: int) -> bool:
    return not pattern or pattern[layer % len(pattern)]
