"""TextEmbedder: one vector for a whole text."""

from typing import Self

from gpt_keras import checkpoint, preprocessing
from gpt_keras.layers import Projection
from gpt_keras.pooling import SentenceEmbedding
from gpt_keras.tasks.task import Task
from gpt_keras.tasks.text_task import Served


class TextEmbedder(Task):
    """Embedder of texts: token ids (B, T) int -> embeddings (B, D) float32.

    What sentence-transformers (Reimers & Gurevych, 2019, https://arxiv.org/abs/1908.10084) computes
    with its modules Transformer, Pooling and Normalize.

    Args:
      config, tokenizer, dtype: see `Task`.
      embedding: a `SentenceEmbedding`, how the tokens' vectors become one, the mean of them by
        default; `from_pretrained` reads it from `modules.json`.
    """

    NAME, PIPELINE_TAG = "embedding", "sentence-similarity"
    is_bare = True

    def __init__(self, config, tokenizer=None, dtype=None, embedding=None, **kwargs):
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.embedding = embedding or SentenceEmbedding()
        if config.pooler:
            # No embedding goes through it, but Hugging Face's checkpoints of the backbone have it.
            self.pooler = Projection(
                config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="pooler"
            )
            self.pooler.build((None, config.hidden_size))
            self.pooler.trainable = False
        self.built = True

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs) -> Self:
        """As `Task.from_pretrained`; what the directory has for a head is left aside."""
        model = super().from_pretrained(path, *args, **kwargs)
        model.embedding = checkpoint.read_sentence_embedding(path)
        return model

    def call(self, token_ids, padding_mask=None, token_type_ids=None, training=False):
        """Embeddings of texts.

        Args:
          token_ids: (B, T) int.
          padding_mask: (B, T) bool, False on padding (left or right); None when all are real.
          token_type_ids: as of `GPTBackbone.call`.
        """
        hidden = self.backbone(
            token_ids, None, padding_mask, token_type_ids=token_type_ids, training=training
        )
        return self.embedding(hidden, padding_mask)

    def embed(self, texts):
        """Embeddings of texts; works in a `tf.function` too.

        The tokenizer's special tokens are put around each. A text longer than the embedding's
        `max_length`, or the model's context, loses its end.

        Args:
          texts: (B,) string.

        Returns:
          (B, D) float32.

        Raises:
          ValueError: the model has no tokenizer.
        """
        length = min(
            self.embedding.max_length or self.config.max_position_embeddings,
            self.config.max_position_embeddings,
        )
        tokens = self.require_tokenizer().encode(texts, length)
        batch = preprocessing.pad(tokens, preprocessing.filler(self.config))
        return self(batch.token_ids, padding_mask=batch.padding_mask)

    def signatures(self):
        self.require_tokenizer()
        example = {"texts": "The weather is nice today."}
        embed = Served(lambda texts: {"embedding": self.embed(texts)}, {"texts": "text"}, example)
        return {"embed": embed}
