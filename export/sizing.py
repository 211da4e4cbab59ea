"""How much memory an exported model will take on a server, told without exporting it."""

import dataclasses
import math
import os

import tensorflow as tf

from export.capacity import Capacity, memories
from gpt_keras import CausalLM

MB, GIB = 1e6, 2**30
SERVER = 2 * GIB  # of a server with one version beside our sizes: program, graphs, buffers
FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes that a version takes once it is loaded, beside what the server itself needs.

    Attributes:
      weights: of the model.
      token: of keys and values, for each token of a text in work; 0 for a model without generation.
      capacity: what the memories are made for; None where each request brings its own.
      slot: for each slot, whatever its text; of the tokens, but not their keys and values.
      fixed: of the memories, whatever their sizes.
      work: at most, about, that a step takes and gives back: keys and values of one layer for all
        texts, as long as the longest of them, their scores, and the logits.
    """

    weights: int
    token: int
    capacity: Capacity | None = None
    slot: int = 0
    fixed: int = 0
    work: int = 0

    @property
    def slots(self) -> int:
        """Of all slots."""
        return self.slot * self.capacity.slots if self.capacity else 0

    @property
    def cache(self) -> int:
        """Of all keys and values."""
        return self.token * self.capacity.tokens if self.capacity else 0

    @property
    def total(self) -> int:
        """Of everything that stays, and a step's work."""
        return self.weights + self.fixed + self.slots + self.cache + self.work

    def tokens_in(self, memory) -> int:
        """Tokens, in whole blocks, that find room in `memory` bytes beside all the rest."""
        block = self.capacity.block if self.capacity else 1
        return int(max(0, memory - self.total + self.cache) // (block * self.token) * block)

    def texts_in(self, memory) -> int:
        """Texts of the whole context, each with a slot, that find room in `memory` bytes."""
        capacity = self.capacity
        tokens = capacity.pages * capacity.block
        text = self.slot + tokens * self.token + self.work // capacity.slots
        return int(max(0, memory - self.weights - self.fixed) // text)


def measure(task, config, kernels="plain", capacity=None) -> Sizes:
    """The sizes of a model that need not exist.

    Args:
      task: its class, `CausalLM` or `SequenceClassifier`.
      config: its `GPTConfig`.
      kernels: layout of the matrices, see `saved_model.export`.
      capacity: a `capacity.Capacity`, or None for a model without one.
    """
    # All blocks are alike: one of them will do, and a large model need not be built.
    model = task(config.replace(num_layers=1))
    model.backbone.lay_out(kernels)
    (block,) = model.backbone.blocks
    weights = _bytes(model.variables) + (config.num_layers - 1) * _bytes(block.variables)
    if not issubclass(task, CausalLM):
        return Sizes(weights, 0)
    # Keys and values of every layer, in the compute dtype, as `BlockPool.shape` has them.
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    token *= tf.as_dtype(model.compute_dtype).size
    if capacity is None:
        return Sizes(weights, token)

    def kept(slots):
        changed = dataclasses.replace(capacity, slots=slots)
        return _bytes(memories(config, changed, model.compute_dtype).values())

    slot = kept(2) - kept(1)
    fixed = kept(1) - slot - token * capacity.tokens
    return Sizes(weights, token, capacity, slot, fixed, _work(config, capacity))


def _work(config, capacity):
    S = capacity.pages * capacity.block
    position = 2 * config.num_kv_heads * config.head_dim + 3 * config.num_heads  # scores, weights
    logits = 4 * config.vocab_size  # as they are, scaled, sorted, as probabilities
    return capacity.slots * (S * position + logits) * FLOAT


def _bytes(tensors):
    return sum(math.prod(tensor.shape) * tf.as_dtype(tensor.dtype).size for tensor in tensors)


def table(sizes: Sizes) -> str:
    """The sizes, for people."""
    rows = [("weights", sizes.weights, "")]
    if sizes.capacity:
        rows += [
            ("slots", sizes.slots,
             f"{sizes.slot:,} bytes each, --max_slots={sizes.capacity.slots}"),
            ("cache", sizes.cache,
             f"{sizes.token:,} bytes a token, --cache_tokens={sizes.capacity.tokens}"),
            ("shared", sizes.fixed, "whatever the flags"),
            ("step", sizes.work, "about, at most, while it runs"),
        ]  # fmt: skip
    elif sizes.token:
        rows.append(("cache", None, f"{sizes.token:,} bytes a token, while its request runs"))
    rows.append(("total", sizes.total, f"and about {SERVER / GIB:g} GiB for the server itself"))
    lines = []
    for name, size, note in rows:
        megabytes = "" if size is None else f"{size / MB:,.1f} MB"
        lines.append(f"{name:8}{megabytes:>15}  {note}".rstrip())
    return "\n".join(lines)


def room(sizes: Sizes, memory) -> str:
    """What a machine with `memory` bytes can hold, for people.

    Raises:
      ValueError: less than what the sizes are of.
    """
    left, machine = memory - SERVER, f"{memory / GIB:.1f} GiB"
    if left < sizes.total:
        remedy = "; take smaller --cache_tokens, --max_slots or --max_context"
        raise ValueError(
            f"{machine} are too little: {(sizes.total + SERVER) / GIB:.1f} GiB are needed"
            + (remedy if sizes.weights < left and sizes.capacity else "")
        )
    if not sizes.token:
        return f"{machine} are enough"
    tokens = sizes.tokens_in(left)
    if not sizes.capacity:
        return f"{machine} hold {tokens:,} tokens of all requests that run at once"
    capacity, texts = sizes.capacity, sizes.texts_in(left)
    return (
        f"{machine} hold, one or the other:\n"
        f"  --max_slots={capacity.slots} --cache_tokens={tokens}\n"
        f"  --max_slots={texts} --cache_tokens={texts * capacity.pages * capacity.block}"
        f"  (each text as long as --max_context={capacity.context})"
    )


def memory_here() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
