"""Task: what every model with a head has in common."""

import os
from typing import ClassVar, Self

import keras

from gpt_keras import checkpoint
from gpt_keras.backbone import GPTBackbone
from gpt_keras.config import GPTConfig


class Task(keras.Model):
    """A backbone with a head, and the tokenizer that its texts go through.

    Args:
      config: the architecture.
      tokenizer: see `gpt_keras.tokenizers`, or None; only what needs text then refuses.
      dtype: Keras dtype policy, "float32" unless said ("mixed_bfloat16" keeps float32 weights).
    """

    with_lm_head = False  # room for an untied language-model head
    # Variable path -> name in the checkpoint, beyond the backbone.
    head_weights: ClassVar[dict[str, str]] = {}

    def __init__(self, config: GPTConfig, tokenizer=None, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.config, self.tokenizer = config, tokenizer
        self.generation_config = {}  # of the directory it was read from, to be written again
        self.backbone = GPTBackbone(
            config, self.with_lm_head, dtype=self.dtype_policy, name="backbone"
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, dtype=None, **changes) -> Self:
        """Reads a Hugging Face model directory, or a `.gguf` file.

        Args:
          path: the directory or file.
          dtype: Keras dtype policy of the model.
          **changes: fields of `GPTConfig` to set differently, such as `id2label`.

        Raises:
          ValueError: missing, damaged or unsupported files; the message names file and remedy.
        """
        config = checkpoint.read_config(path).replace(**changes)
        model = cls(config, tokenizer=checkpoint.read_tokenizer(path), dtype=dtype)
        checkpoint.read_weights(path, model)
        return model

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Writes a Hugging Face model directory; it appears whole or not at all."""
        checkpoint.save(self, path)

    def require_tokenizer(self):
        """The tokenizer, or a ValueError that says what to do without one."""
        if self.tokenizer is None:
            raise ValueError(
                "this model has no tokenizer: put tokenizer.json into its directory, or use the "
                "calls that take token ids"
            )
        return self.tokenizer

    def get_config(self):
        return {"config": self.config.to_dict(), "name": self.name}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(GPTConfig.from_dict(config.pop("config")), **config)
