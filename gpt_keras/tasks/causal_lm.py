"""CausalLM: the next token's distribution, and text made from it."""

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
