"""Family: a kind of checkpoint, how it writes its configuration and names its weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpt_keras.checkpoint.fields import REQUIRED, Fields
from gpt_keras.config import GPTConfig


@dataclasses.dataclass(frozen=True)
class Key:
    """Where config.json holds one field of GPTConfig.

    Attributes:
      names: keys of config.json; the first that is there is read, all are written.
      kind: type of the value.
      default: what the family's own configuration class assumes when the key is absent.
      null: the value that null stands for, if that is not `default`.
    """

    names: tuple[str, ...]
    kind: type
    default: Any = REQUIRED
    null: Any = None


@dataclasses.dataclass(frozen=True)
class RotaryKeys:
    """Where config.json holds the rotary positions, and what is assumed when a key is absent.

    Attributes:
      theta: default of the base.
      theta_key: its key, in the form of transformers 4.
      fraction_key: key of the share of a head that is turned, or "" if that is all of it.
      fraction: default of that share.
      local_theta: default of the base of layers with a sliding window, which have a base of their
        own; 0 if they have not.
      kinds: names that the family has for scalings -> the usual ones; None for all, as they are.
      original: default of `original_max_position_embeddings`, which stands beside the scaling; 0 if
        it stands in it.
      layers: which layers have rotary positions, where `no_rope_layers` may say so: function of
        (config.json, number of the layer); None for all.
    """

    theta: float = 10000.0
    theta_key: str = "rope_theta"
    fraction_key: str = ""
    fraction: float = 1.0
    local_theta: float = 0.0
    kinds: Mapping[str, str] | None = None
    original: int = 0
    layers: Callable[[Fields, int], bool] | None = None


@dataclasses.dataclass(frozen=True)
class WindowKeys:
    """Where config.json holds the sliding window, and what is assumed when a key is absent.

    Attributes:
      size: default of `sliding_window`; 0 for none.
      switch: key that turns it on, or "" if it always is.
      layers: which layers have it where no `layer_types` says so, as of `RotaryKeys`; None for
        all, and no `layer_types`.
    """

    size: int = 0
    switch: str = ""
    layers: Callable[[Fields, int], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Weight:
    """One variable of the backbone, or of a task's head, and the tensors that it is stored as.

    Attributes:
      variable: path within the backbone or the task; `{i}` is the number of the block.
      names: tensors of the checkpoint, those of the backbone without the family's prefix; with
        `{e}`, the number of an expert, those of all experts are stacked.
      transposed: matrices are stored as (outputs, inputs), as torch's Linear has them.
      widths: outputs of each tensor, if they are several: the variable joins them.
      by_head: query, key and value of one head are neighbours, then come those of the next.
    """

    variable: str
    names: tuple[str, ...]
    transposed: bool = True
    widths: Callable[[GPTConfig], tuple[int, ...]] | None = None
    by_head: bool = False


@dataclasses.dataclass(frozen=True)
class GGUFKeys:
    """What the metadata of a family's GGUF files is called, and how they keep its matrices.

    Attributes:
      architecture: the family's name in GGUF.
      keys: key of config.json -> key of the metadata behind the architecture's name and a dot.
      permuted: ends of names of matrices whose rows llama.cpp's converter reorders per head,
        from half-split rotary pairs to neighbouring ones; query heads first, key heads second.
      transposed: ends of names of matrices stored as (outputs, inputs) in GGUF, unlike in the
        family's own checkpoints.
      scalar_layers: number of layers of the one size of model whose `attention_scalar` is D / H
        instead of h, which no metadata says; 0 if there is none.
      implied: entries of config.json that are so of all files, whatever their absence means there.
    """

    architecture: str
    keys: Mapping[str, str]
    permuted: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    scalar_layers: int = 0
    implied: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Tasks that have Hugging Face's class and head of another one: a regressor differs by its
# `problem_type`, questions with choices by what a language model is asked.
SAME_CLASS = {"SequenceRegressor": "SequenceClassifier", "MultipleChoice": "CausalLM"}


# The head of a `QuestionAnswerer`, which all families call the same.
QA_OUTPUTS = tuple(
    Weight(f"score/{ours}", (f"qa_outputs.{theirs}",))
    for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
)


def token_classifier(name: str) -> tuple[Weight, ...]:
    """The head of a `TokenClassifier` whose layer has this name; Hugging Face knows no CRF."""
    return (
        Weight("score/kernel", (f"{name}.weight",)),
        Weight("score/bias", (f"{name}.bias",)),
        *(Weight(f"crf/{x}", (f"crf.{x}",), transposed=False) for x in ("moves", "first", "last")),
    )


def heads(tokens: str = "score") -> dict[str, tuple[Weight, ...]]:
    """`Family.heads` of decoders, with the name of the layer of a token classifier."""
    return {
        "SequenceClassifier": (Weight("score/kernel", ("score.weight",)),),
        "TokenClassifier": token_classifier(tokens),
        "QuestionAnswerer": QA_OUTPUTS,
    }


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
      model_type: its name in config.json.
      architectures: class of Hugging Face that holds each task of ours.
      fixed: fields of GPTConfig that are the same for the whole family.
      keys: the other fields and where config.json holds them.
      activation_key: key of the activation's name.
      activations: its names for ours; the first name of each is the one written.
      activation: ours, assumed when config.json lacks the key.
      token_ids: bos, eos and pad id assumed when config.json lacks the key.
      supported: keys that change the computation, and the only values we compute.
      written: entries of config.json that say what is always so of our models.
      prefix: of the backbone's tensors in a checkpoint with a head.
      prefixes: task -> another prefix, that it has there.
      weights: the variables and their tensors.
      heads: task -> variables of its head and their tensors.
      ignored: ends of tensors' names that hold nothing learned, or nothing that a task of ours has.
      former: ends of tensors' names in old checkpoints -> those of today.
      positions_behind_padding: a text's first token has the row behind that of the padding's id in
        the table of positions.
      rotary: its rotary positions, or None if it has none.
      windows: its sliding window, or None if it has none.
      gguf: how GGUF files of the family differ, or None if there are none. Of families that GGUF
        has under one name, files are read as the first one's with as many experts, none or some.
    """

    model_type: str
    architectures: Mapping[str, str]
    fixed: Mapping[str, Any]
    keys: Mapping[str, Key]
    activation_key: str
    activations: Mapping[str, tuple[str, ...]]
    activation: str
    token_ids: tuple[int | None, int | None, int | None]
    supported: Mapping[str, tuple[Any, ...]]
    written: Mapping[str, Any]
    prefix: str
    weights: tuple[Weight, ...]
    heads: Mapping[str, tuple[Weight, ...]] = dataclasses.field(default_factory=heads)
    prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    former: Mapping[str, str] = dataclasses.field(default_factory=dict)
    positions_behind_padding: bool = False
    rotary: RotaryKeys | None = None
    windows: WindowKeys | None = None
    gguf: GGUFKeys | None = None


def classes(name: str, *missing: str) -> dict[str, str]:
    """`Family.architectures` of classes that begin with a name, without those of some tasks."""
    found = {
        "CausalLM": f"{name}ForCausalLM",
        "SequenceClassifier": f"{name}ForSequenceClassification",
        "QuestionAnswerer": f"{name}ForQuestionAnswering",
        "TokenClassifier": f"{name}ForTokenClassification",
        "TextEmbedder": f"{name}Model",
    }
    return {task: name for task, name in found.items() if task not in missing}


def heads_apart(rows, num_heads: int):
    """Rows with query, key and value of one head together -> all queries, all keys, all values."""
    heads = rows.reshape(num_heads, 3, -1, *rows.shape[1:])
    return heads.swapaxes(0, 1).reshape(rows.shape)


def heads_together(rows, num_heads: int):
    """Inverse of `heads_apart`."""
    kinds = rows.reshape(3, num_heads, -1, *rows.shape[1:])
    return kinds.swapaxes(0, 1).reshape(rows.shape)


def renamed(weights: tuple[Weight, ...], *others: Weight) -> tuple[Weight, ...]:
    """The weights, those of the same variables replaced by `others`, and what others there are."""
    changed = {weight.variable: weight for weight in (*weights, *others)}
    return tuple(changed.values())


def qkv_widths(config: GPTConfig) -> tuple[int, ...]:
    keys = config.num_kv_heads * config.head_dim
    return config.num_heads * config.head_dim, keys, keys


def gate_up_widths(config: GPTConfig) -> tuple[int, ...]:
    return config.intermediate_size, config.intermediate_size


ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new"),
    "relu": ("relu",),
}
