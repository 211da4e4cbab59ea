"""Task: what every model with a head has in common."""

import os
from collections.abc import Mapping
from typing import ClassVar, Self

import keras

from gpt_keras import checkpoint
from gpt_keras.attention import visibility
from gpt_keras.backbone import ConfigModel, GPTBackbone
from gpt_keras.checkpoint import own_tasks
from gpt_keras.config import GPTConfig
from gpt_keras.experts import load_balancing
from gpt_keras.initialization import left_empty
from gpt_keras.losses import PLAIN, Loss
from gpt_keras.metrics import Metrics


class Task(ConfigModel):
    """A backbone with a head, and the tokenizer that its texts go through.

    Args:
      config: the architecture.
      tokenizer: see `gpt_keras.tokenizers`, or None; only what needs text then refuses.
      dtype: Keras dtype policy, "float32" unless said ("mixed_bfloat16" keeps float32 weights).
      backbone: one that other tasks have too; None for one of its own.
    """

    NAME: ClassVar[str]  # as programs and config.json call it
    PIPELINE_TAG: ClassVar[str]  # as the Hugging Face Hub calls it
    METRICS: ClassVar[type[Metrics]]  # what an evaluation collects
    with_lm_head = False  # room for an untied language-model head
    embedding = None  # the `SentenceEmbedding` of one that makes vectors of texts
    is_bare = False  # a checkpoint of it is one of the backbone
    is_ours = False  # Hugging Face's class of its name would compute something else
    has_own_format = True  # config.json has a name for it where Hugging Face has no class
    names_labels = False  # config.json names its labels
    # Path of a variable of the head -> its tensor, where Hugging Face has no name for it.
    head_tensors: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.has_own_format and "NAME" in cls.__dict__:
            own_tasks.enter(cls.__name__, cls.names_labels, cls.head_tensors)

    def __init__(
        self,
        config: GPTConfig,
        tokenizer=None,
        dtype=None,
        backbone: GPTBackbone | None = None,
        **kwargs,
    ):
        super().__init__(config, dtype=dtype, **kwargs)
        self.tokenizer = tokenizer
        self.generation_config = {}  # of the directory it was read from, to be written again
        self.backbone = backbone or GPTBackbone(
            config, self.with_lm_head, dtype=self.dtype_policy, name="backbone"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        dtype=None,
        with_tokenizer=True,
        revision: str | None = None,
        local_files_only: bool = False,
        **changes,
    ) -> Self:
        """Reads a Hugging Face model directory, a `.gguf` file or a preset of KerasHub.

        Args:
          path: of these; or ORG/NAME or ORG/NAME@REVISION, a model of the Hugging Face
            Hub, of which safetensors, configuration and tokenizer are fetched into its cache: no
            code, no pickles.
          dtype: Keras dtype policy of the model, float32 by default; "auto": what the weights were
            written in.
          with_tokenizer: False leaves `tokenizer` None, whatever the directory has.
          revision: branch, tag or commit of a model of the Hub.
          local_files_only: ask no network; HF_HUB_OFFLINE=1 in the environment does the same.
          **changes: fields of `GPTConfig` to set differently, such as `id2label`.

        Raises:
          ValueError: missing, damaged or unsupported files; the message names file and remedy.
        """
        path = checkpoint.locate(path, revision, local_files_only)
        config = checkpoint.read_config(path).replace(**changes)
        tokenizer = checkpoint.read_tokenizer(path) if with_tokenizer else None
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size "
                f"is {config.vocab_size}; is the tokenizer that of this model?"
            )
        dtype = checkpoint.stored_dtype(path) if dtype == "auto" else dtype
        with left_empty():
            backbone = GPTBackbone(config, cls.with_lm_head, dtype=dtype, name="backbone")
        model = cls(config, tokenizer=tokenizer, dtype=dtype, backbone=backbone)
        checkpoint.read_weights(path, model)
        model.read_settings(path)
        return model

    def read_settings(self, path: str) -> None:
        """Sets what files of a directory say besides; nothing, unless a task says so."""

    def save_pretrained(
        self,
        path: str | os.PathLike,
        dtype: str | None = None,
        max_shard_size: int | str = "5GB",
        card: str | None = None,
    ) -> None:
        """Writes a Hugging Face model directory; it appears whole or not at all.

        Args:
          path: the directory; a model directory there is replaced, anything else is refused.
          dtype: of the weights in the files: float32, bfloat16 or float16. None: as they are.
          max_shard_size: of one safetensors file, in bytes, or a text such as "200MB".
          card: the model card, Markdown after YAML, which becomes README.md.

        Raises:
          ValueError: something else lies there, or a weight is too large for float16.
        """
        if self.backbone.split:
            raise ValueError("the matrices are split: save the model before backbone.lay_out()")
        checkpoint.save(self, path, dtype, max_shard_size, card)

    def require_tokenizer(self):
        """The tokenizer, or a ValueError that says what to do without one."""
        if self.tokenizer is None:
            raise ValueError(
                "this model has no tokenizer: put tokenizer.json into its directory, or use the "
                "calls that take token ids"
            )
        return self.tokenizer

    def features(self, batch, first=0, last=None, training=False, remat=False, routing=None):
        """Output of the backbone's blocks `first` to `last` (not included; None: the end).

        Args:
          batch: `token_ids` (B, T) int32; where there are any, `segment_ids` and `token_type_ids`
            (B, T) int32 and `padding_mask` (B, T) bool; and, to start behind the first block,
            `features` (B, T, D): what this gave up to there.
          remat, routing: see `GPTBackbone.transform`.

        Returns:
          (B, T, D), before the last norm.
        """
        token_ids = batch["token_ids"]
        seen = visibility(
            self.config,
            keras.ops.shape(token_ids)[1],
            batch.get("segment_ids"),
            batch.get("padding_mask"),
        )
        if first:
            x = keras.ops.cast(batch["features"], self.compute_dtype)
        else:
            types = batch.get("token_type_ids")
            x = self.backbone.embed(token_ids, seen.positions, types, training=training)
        return self.backbone.transform(x, seen, first, last, training, remat, routing)

    def with_router_loss(self, loss: Loss, batch, routing) -> Loss:
        """The loss of a batch with that of its experts' routers, see `GPTConfig.router_loss`.

        Args:
          routing: list that `features` was given.
        """
        if "padding_mask" in batch:
            mask = batch["padding_mask"]
        else:
            mask = batch["segment_ids"] > 0 if "segment_ids" in batch else None
        uneven = load_balancing(routing, mask, self.config.experts_per_token)
        return loss._replace(total=loss.total + self.config.router_loss * uneven * loss.weight)

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Loss of a batch.

        Args:
          batch: as for `features`, and the task's targets.
          features: (B, T, D), what `features` gave.
          regularizers: see `losses.Regularizers`.
        """
        raise NotImplementedError

    def signatures(self):
        """What a server offers: name -> `text_task.Served`.

        Raises:
          ValueError: nothing.
        """
        raise ValueError(f"a {type(self).__name__} has no signatures: it cannot be exported")

    def new_metrics(self, source=None) -> Metrics:
        """Collects what an evaluation says of this task.

        Args:
          source: where the batches come from: it has `num_bytes` and `source_names` of a language
            model's, `examples` of another task's. None: as if it had nothing to say.
        """
        raise NotImplementedError

    def calibrate(self, metrics: Metrics) -> None:
        """Sets what the eval data decide once training has ended; nothing, unless a task says so.

        Args:
          metrics: of the finished weights on these data; they take what was set into account.
        """
