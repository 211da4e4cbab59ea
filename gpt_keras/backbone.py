"""The Transformer trunk: token ids in, one vector per token out."""

from functools import partial

import keras
import tensorflow as tf

from gpt_keras.attention import Attention, LayerCache, Visibility, visibility
from gpt_keras.config import GPTConfig
from gpt_keras.experts import MixtureOfExperts
from gpt_keras.layers import ConfigLayer, Dropout, Embedding, FeedForward, Norm
from gpt_keras.rotary import rotations


class Block(ConfigLayer):
    """Transformer block, pre-norm (Radford et al., 2019) unless said: (B, T, D) -> (B, T, D)."""

    def build(self, input_shape):
        place = self.config.norm_place
        pre, post = place in ("pre", "both"), place != "pre"
        self.attention_norm = self._make(Norm, "attention_norm", pre)
        self.attention = self._make(Attention, "attention")
        self.attention_post_norm = self._make(Norm, "attention_post_norm", post)
        self.feed_forward_norm = self._make(Norm, "feed_forward_norm", pre)
        experts = self.config.num_experts
        self.feed_forward = self._make(MixtureOfExperts if experts else FeedForward, "feed_forward")
        self.feed_forward_post_norm = self._make(Norm, "feed_forward_post_norm", post)
        rate = self.config.dropout
        self.dropout = Dropout(rate, dtype=self.dtype_policy, name="dropout") if rate else None
        for layer in (
            self.attention_norm, self.attention, self.attention_post_norm,
            self.feed_forward_norm, self.feed_forward, self.feed_forward_post_norm,
        ):  # fmt: skip
            if layer is not None:
                layer.build(input_shape)

    def _make(self, layer, name, there=True):
        return layer(self.config, dtype=self.dtype_policy, name=name) if there else None

    def call(
        self,
        x,
        rotation=None,
        bias=None,
        cache: LayerCache | None = None,
        training=False,
        with_routing=False,
    ):
        """As `Attention.call`, with the feed-forward after it.

        With `with_routing` the pair of that and what `MixtureOfExperts` says; not with a cache.
        """
        y = self.input_of_attention(x)
        y = self.attention(y, rotation=rotation, bias=bias, cache=cache, training=training)
        if cache is not None:
            y, cache = y
        before = x
        x = self._join(x, y, self.attention_post_norm, training)
        y = before if self.config.parallel_residual else x
        if self.feed_forward_norm is not None:
            y = self.feed_forward_norm(y)
        if with_routing:
            y, routing = self.feed_forward(y, training=training, with_routing=True)
        elif cache is not None and self.config.num_experts:
            y = self.feed_forward(y, in_loop=True)
        else:
            y = self.feed_forward(y, training=training)
        x = self._join(x, y, self.feed_forward_post_norm, training)
        if with_routing:
            return x, routing
        return x if cache is None else (x, cache)

    def _join(self, x, y, norm, training):
        """The residual stream `x` with `y` added, and the norm of one or both of them."""
        of_sum = self.config.norm_place == "sum"
        y = y if norm is None or of_sum else norm(y)
        x = x + (y if self.dropout is None else self.dropout(y, training=training))
        return norm(x) if of_sum else x

    def input_of_attention(self, x):
        return x if self.attention_norm is None else self.attention_norm(x)


class ConfigModel(keras.Model):
    """A model made from a GPTConfig, as `ConfigLayer` is a layer."""

    def __init__(self, config: GPTConfig, dtype=None, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.config = config

    def get_config(self):
        policy = self.dtype_policy.name
        return {"config": self.config.to_dict(), "name": self.name, "dtype": policy}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(GPTConfig.from_dict(config.pop("config")), **config)


class GPTBackbone(ConfigModel):
    """Transformer of one stack, without a head.

    Call: token ids (B, T) int -> (B, T, D) in the compute dtype, after the last norm.

    Args:
      config: the architecture.
      with_head: makes room for an untied language-model head in the embedding.
      dtype: Keras dtype policy; "mixed_bfloat16" keeps float32 weights.
    """

    def __init__(self, config: GPTConfig, with_head: bool = True, dtype=None, **kwargs):
        super().__init__(config, dtype=dtype, **kwargs)
        self.with_head = with_head
        policy = self.dtype_policy
        self.embedding = Embedding(config, with_head, dtype=policy, name="embedding")
        self.blocks = [
            Block(config, dtype=policy, name=f"block_{i}") for i in range(config.num_layers)
        ]
        norm = keras.layers.Identity if config.norm_place == "sum" else partial(Norm, config)
        self.final_norm = norm(dtype=policy, name="final_norm")
        self.dropout = Dropout(config.dropout, dtype=policy, name="dropout")
        # The weights exist from here on: a checkpoint is read into them before any call.
        self.embedding.build()
        for layer in (*self.blocks, self.final_norm):
            layer.build((None, None, config.hidden_size))
        self.built = True

    def call(
        self, token_ids, segment_ids=None, padding_mask=None, token_type_ids=None, training=False
    ):
        """Hidden states of whole sequences.

        Args:
          token_ids: (B, T) int.
          segment_ids: (B, T) int or None; packed documents do not see each other.
          padding_mask: (B, T) bool or None; False marks padding, left or right.
          token_type_ids: (B, T) int or None for zeros, see `GPTConfig.token_types`.
        """
        seen = visibility(self.config, keras.ops.shape(token_ids)[1], segment_ids, padding_mask)
        x = self.embed(token_ids, seen.positions, token_type_ids, training=training)
        x = self.transform(x, seen, training=training)
        return self.final_norm(x)

    def embed(self, token_ids, positions, token_type_ids=None, training=False):
        """Input of the first block: (B, T) ids, their positions and types -> (B, T, D)."""
        x = self.embedding(token_ids, positions, token_type_ids, training=training)
        return self.dropout(x, training=training) if self.config.dropout else x

    def transform(
        self, x, seen: Visibility, first=0, last=None, training=False, remat=False, routing=None
    ):
        """Blocks `first` to `last` (not included; None: the end) on (B, T, D).

        With `remat` the gradient computes each block anew instead of keeping what is inside it
        (Chen et al., 2016, https://arxiv.org/abs/1604.06174). To a list `routing` each block adds
        its router's probabilities, see `experts.load_balancing`.
        """
        turns = rotations(self.config, seen.positions, seen.lengths)
        for i, block in list(enumerate(self.blocks))[first:last]:
            options = {"training": training, **({} if routing is None else {"with_routing": True})}
            call = partial(block, **self._place(i, turns, seen), **options)
            x = recomputed(block, call)(x) if remat else call(x)
            if routing is not None:
                x, probabilities = x
                routing.append(probabilities)
        return x

    def _place(self, i, turns, seen):
        """What block `i` is to be told of where its tokens stand."""
        return {
            "rotation": turns.get(self.config.rotary_of(i)),
            "bias": seen.biases[self.config.window_of(i)],
        }

    def attention_weights(self, token_ids, layers):
        """What each token takes from each in some blocks, to be looked at.

        Args:
          token_ids: (B, T) int.
          layers: numbers of blocks.

        Returns:
          (B, H, T, T) float32 of each: row t is what token t takes, and sums to 1.
        """
        seen = visibility(self.config, keras.ops.shape(token_ids)[1])
        turns = rotations(self.config, seen.positions, seen.lengths)
        x, weights = self.embed(token_ids, seen.positions), {}
        for i, block in enumerate(self.blocks[: max(layers) + 1]):
            place = self._place(i, turns, seen)
            if i in layers:
                weights[i] = block.attention.weights_of(block.input_of_attention(x), **place)
            x = block(x, **place)
        return [weights[i] for i in layers]

    def decode(self, token_ids, positions, caches: list[LayerCache], lengths=None):
        """Hidden states of new tokens that follow those in the caches.

        Args:
          token_ids, positions: (B, T) int; positions count from the start of each row's text.
          caches: one LayerCache per block; they decide what is visible.
          lengths: (B, T) or (B, 1) int, how long the text of each may become, the same in every
            call: its keys depend on that if the config is `by_length`.

        Returns:
          (B, T, D) after the last norm, and the next caches.
        """
        turns = rotations(self.config, positions, lengths)
        x, following = self.embedding(token_ids, positions), []
        for i, (block, cache) in enumerate(zip(self.blocks, caches, strict=True)):
            x, cache = block(x, rotation=turns.get(self.config.rotary_of(i)), cache=cache)
            following.append(cache)
        return self.final_norm(x), following

    @property
    def split(self) -> bool:
        """Whether `lay_out` has split the matrices."""
        return len(self.blocks[0].attention.qkv.kernel.shape) == 3

    def lay_out(self, layout):
        """Splits all large matrices, so that decoding gets faster, see `layers.split_columns`.

        For inference only: the weights can be neither trained nor saved as a checkpoint afterwards.

        Args:
          layout: "panels" where oneDNN is on, "slabs" where it is off; "plain" leaves all as it is.
        """
        if self.split or layout == "plain":
            return
        for block in self.blocks:
            attention = block.attention
            for layer in (attention.qkv, attention.out, *block.feed_forward.matrices):
                layer.lay_out(layout)
        if self.with_head:
            self.embedding.lay_out(layout)

    def get_config(self):
        return {**super().get_config(), "with_head": self.with_head}


def recomputed(layer, call):
    """`call` of the layer, whose gradient computes it anew, dropout's masks included."""
    seeds = [v for v in layer.variables if v.name == "seed_generator_state"]
    values = [tf.convert_to_tensor(v) for v in seeds]

    def run(x):
        # The seeds move on with each use: both passes have to begin with the same.
        with keras.StatelessScope(state_mapping=list(zip(seeds, values, strict=True))):
            return call(x)

    return tf.recompute_grad(run)
