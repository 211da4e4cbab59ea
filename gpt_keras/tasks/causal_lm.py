"""CausalLM: the next token's distribution, and text made from it."""

from keras import ops

from gpt_keras import metrics
from gpt_keras.losses import Loss, head_cross_entropy
from gpt_keras.tasks.task import Task


class CausalLM(Task):
    """Language model: token ids (B, T) int -> logits (B, T, V) float32."""

    with_lm_head = True

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=False):
        """Logits of the token after each; arguments as in `GPTBackbone.call`."""
        hidden = self.backbone(
            token_ids, segment_ids=segment_ids, padding_mask=padding_mask, training=training
        )
        return self.logits(hidden)

    def logits(self, hidden):
        """(..., D) -> (..., V) float32."""
        return self.backbone.embedding.logits(hidden)

    def batch_loss(self, batch, features) -> Loss:
        """Next-token cross-entropy, see `Task.batch_loss`.

        `loss_mask` (B, T) float32 of the batch is the weight of predicting the token AT each
        position from those before it.
        """
        D = self.config.hidden_size
        hidden = self.backbone.final_norm(features[:, :-1])  # (B, T-1, D)
        weights = ops.reshape(batch["loss_mask"][:, 1:], (-1,))  # (B*(T-1),)
        total = head_cross_entropy(
            ops.reshape(hidden, (-1, D)),
            ops.cast(self.backbone.embedding.head, hidden.dtype),
            ops.reshape(batch["token_ids"][:, 1:], (-1,)),
            weights,
        )
        return Loss(total, ops.sum(weights))

    def new_metrics(self, num_bytes=0):
        """Args: num_bytes: of the text that the evaluated tokens stand for; 0 if unknown."""
        return metrics.LanguageModelMetrics(num_bytes)
