"""MaskedLM: what stands at each place of a text that is seen from both sides."""

from keras import ops

from gpt_keras.layers import ACTIVATIONS, ConfigLayer, Norm, Projection
from gpt_keras.tasks.task import Task


class Transform(ConfigLayer):
    """What hidden states go through before the embedding table makes logits of them.

    A layer with activation, and a norm: (..., D) -> (..., D). `bias`, (V,), is that of the logits.
    """

    def build(self, input_shape):
        config = self.config
        self.dense = Projection(
            config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="dense"
        )
        self.norm = Norm(config, dtype=self.dtype_policy, name="norm")
        for layer in (self.dense, self.norm):
            layer.build(input_shape)
        self.bias = self.add_weight(name="bias", shape=(config.vocab_size,), initializer="zeros")

    def call(self, x):
        return self.norm(ACTIVATIONS[self.config.activation](self.dense(x)))


class MaskedLM(Task):
    """Masked language model: token ids (B, T) int -> logits (B, T, V) float32.

    What the tokens are, those included that the mask token of the tokenizer stands for (Devlin et
    al., 2018, https://arxiv.org/abs/1810.04805).
    """

    NAME, PIPELINE_TAG = "masked_lm", "fill-mask"
    with_lm_head = True

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if config.causal:
            raise ValueError(
                f"causal=True: a model ({config.model_type}) that sees only what is before a token "
                "cannot fill it in; use CausalLM"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.transform = Transform(config, dtype=self.dtype_policy, name="transform")
        self.transform.build((None, None, config.hidden_size))
        self.built = True

    def call(
        self, token_ids, segment_ids=None, padding_mask=None, token_type_ids=None, training=False
    ):
        """Logits of the token at each place; arguments as in `GPTBackbone.call`."""
        hidden = self.backbone(
            token_ids, segment_ids, padding_mask, token_type_ids, training=training
        )
        return self.logits(hidden)

    def logits(self, hidden):
        """(..., D) -> (..., V) float32."""
        logits = self.backbone.embedding.logits(self.transform(hidden))
        return logits + ops.cast(self.transform.bias, "float32")
