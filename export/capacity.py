"""Sizes that a SavedModel with continuous batching is made for, and the memories of these sizes."""

import dataclasses

import tensorflow as tf

from export.kv_blocks import BlockPool
from export.slots import CREDIT, Table
from gpt_keras.options import LOGPROBS

LONGEST = 8192  # tokens of a text, unless --max_context says otherwise
# Options that a text's later steps need, and that a float holds: `top_k` may be too large.
SETTINGS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "logprobs",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Sizes that a SavedModel is made for.

    Attributes:
      slots: texts in work at once.
      context: tokens of the longest text, prompt and answer together.
      tokens: of all texts in work together, in whole blocks.
      block: tokens of a block.
      wait: seconds that a text waits for a slot.
    """

    slots: int
    context: int
    tokens: int
    block: int
    wait: float

    @classmethod
    def of(cls, config, slots=16, context=None, tokens=None, block=16, wait=30.0):
        """Checked sizes, with defaults that suit a model.

        Raises:
          ValueError: a size that makes no sense; names the flag.
        """
        longest = config.max_position_embeddings
        for name, value in (("max_slots", slots), ("block_size", block)):
            if value < 1:
                raise ValueError(f"--{name}={value}: expected at least 1")
        if not wait > 0:
            raise ValueError(f"--max_wait={wait}: expected more than 0 seconds")
        context = min(longest, LONGEST) if context is None else context
        if not 2 <= context <= longest:
            raise ValueError(f"--max_context={context}: expected 2 to the model's {longest}")
        tokens = max(context, 256 * slots) if tokens is None else tokens
        if tokens < context:
            raise ValueError(
                f"--cache_tokens={tokens}: expected at least --max_context={context}, or a text "
                "of that length could never run"
            )
        return cls(slots, context, -(-tokens // block) * block, block, wait)

    @property
    def blocks(self):
        """Blocks of all texts together."""
        return self.tokens // self.block

    @property
    def pages(self):
        """Blocks of the longest text."""
        return -(-self.context // self.block)


def memories(config, capacity: Capacity, dtype) -> dict[str, tf.TensorSpec]:
    """Name -> what is kept from request to request, for a model with this config and dtype."""
    S, C = capacity.slots, capacity.context
    return {
        "table": tf.TensorSpec(Table.shape(S), tf.int64),
        "pages": tf.TensorSpec((S, capacity.pages), tf.int32),
        "tokens": tf.TensorSpec((S, C + 1), tf.int32),
        "logprobs": tf.TensorSpec((S, C + 1), tf.float32),
        # No more of a text's tokens than CREDIT are ever decided and not yet taken along.
        "top_logprobs": tf.TensorSpec((S, CREDIT, LOGPROBS), tf.float32),
        "top_tokens": tf.TensorSpec((S, CREDIT, LOGPROBS), tf.int32),
        "settings": tf.TensorSpec((S, len(SETTINGS)), tf.float32),
        "pool": tf.TensorSpec(BlockPool.shape(config, capacity.blocks, capacity.block), dtype),
    }
