"""Norm, projection, feed-forward, token embedding and language-model head."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras.config import GPTConfig
from gpt_keras.initialization import initializer

# Layouts of a matrix for decoding, see `split_columns`.
LAYOUTS = ("plain", "panels", "slabs")
PANEL = 64  # columns of a panel
SLABS, SLAB = 4, 6144  # slabs of a matrix at least, and columns of one at most

ACTIVATIONS = {
    "silu": ops.silu,
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
}


class ConfigLayer(keras.layers.Layer):
    """A layer made from a GPTConfig: what Keras needs to clone or serialise it, in one place."""

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def get_config(self):
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(GPTConfig.from_dict(config.pop("config")), **config)

    def add_weight(self, *args, **options):
        options["initializer"] = initializer(options.get("initializer"))
        return super().add_weight(*args, **options)

    def replace_weight(self, old, value):
        """A new weight of that value, under the name of `old`, which the layer forgets."""
        self._tracker.unlock()  # as keras.layers.Dense.quantize does
        self._untrack_variable(old)
        new = self.add_weight(
            name=old.name, shape=value.shape, initializer=lambda *_, **__: value, trainable=False
        )
        self._tracker.lock()
        return new


class Dropout(keras.layers.Dropout):
    """Dropout with masks of Philox.

    Keras names no generator, and what XLA then takes it computes anew wherever a mask is read: a
    step of a small encoder took ten times as long on a CPU.
    """

    def call(self, inputs, training=False):
        if not (training and self.rate):
            return inputs
        seed = tf.cast(tf.math.floormod(self.seed_generator.next(), tf.int32.max), tf.int32)
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed, rng_alg="philox")


class Norm(ConfigLayer):
    """RMSNorm (Zhang & Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the last axis.

    (..., D) -> (..., D). Statistics are taken in float32 whatever the compute dtype is.

    Args:
      kind: "rms" or "layer"; that of the config if None.
    """

    def __init__(self, config, kind: str | None = None, **kwargs):
        super().__init__(config, **kwargs)
        self.kind = kind or config.norm

    def build(self, input_shape):
        width = input_shape[-1]
        ones = keras.initializers.Constant(1.0 - self.config.norm_offset)
        self.scale = self.add_weight(name="scale", shape=(width,), initializer=ones)
        if self.kind == "layer":
            self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")

    def call(self, x):
        dtype, x = x.dtype, ops.cast(x, "float32")
        if self.kind == "layer":
            x = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
        x = x * ops.rsqrt(variance + self.config.norm_epsilon)
        scale = self.scale
        if self.config.norm_offset:
            scale = scale + self.config.norm_offset
        x = ops.cast(x, dtype) * ops.cast(scale, dtype)
        return x + ops.cast(self.bias, dtype) if self.kind == "layer" else x

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


class Projection(ConfigLayer):
    """Affine map of the last axis by one matrix product: (..., D) -> (..., units).

    `keras.layers.Dense` with the leading axes folded into one: TensorFlow multiplies a rank-3
    tensor by a matrix as a batch of small products otherwise.
    """

    def __init__(self, config, units: int, use_bias: bool = False, stddev: float | None = None,
                 **kwargs):  # fmt: skip
        super().__init__(config, **kwargs)
        self.units, self.use_bias = units, use_bias
        self.stddev = config.initializer_range if stddev is None else stddev

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=keras.initializers.RandomNormal(stddev=self.stddev),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, x):
        y = matmul(x, self.kernel, self.units)
        return y + ops.cast(self.bias, y.dtype) if self.use_bias else y

    def lay_out(self, layout):
        """Splits the kernel, see `split_columns`: faster to decode with, not to be trained."""
        self.kernel = self.replace_weight(self.kernel, split_columns(self.kernel, layout))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "stddev": self.stddev,
        }


class FeedForward(ConfigLayer):
    """Position-wise feed-forward, gated (Shazeer, 2020) or plain: (B, T, D) -> (B, T, D).

    Gate and up projection are one matrix of 2F columns, gate first: one product instead of two.
    """

    def build(self, input_shape):
        config = self.config
        width = config.intermediate_size * (2 if config.gated else 1)
        self.up = Projection(config, width, config.mlp_bias, dtype=self.dtype_policy, name="up")
        self.down = Projection(
            config, config.hidden_size, config.mlp_bias, residual_stddev(config),
            dtype=self.dtype_policy, name="down",
        )  # fmt: skip
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], config.intermediate_size))

    @property
    def matrices(self):
        """Projections that `lay_out` may split."""
        return [self.up, self.down]

    def call(self, x, training=False):
        if self._halves_are_panels():
            # Nothing is moved to take the halves, and half as much to join the panels.
            gate, up = tf.split(matmul_in_parts(x, self.up.kernel), 2)  # each (F/n, N, n)
            return self.down(rows_like(x, join_parts(self._gated(gate, up))))
        # The gradient needs no more of what is between the two products than the first's result.
        after = tf.recompute_grad(self._after_up) if training else self._after_up
        return after(self.up(x))

    def _after_up(self, y):
        if not self.config.gated:
            return self.down(ACTIVATIONS[self.config.activation](y))
        gate, up = ops.split(y, 2, axis=-1)  # each (B, T, F)
        return self.down(self._gated(gate, up))

    def _gated(self, gate, up):
        if self.config.activation == "silu":
            # In this order, or TensorFlow takes oneDNN's SiLU, which needs 80 us for one token.
            return gate * up * ops.sigmoid(gate)
        return ACTIVATIONS[self.config.activation](gate) * up

    def _halves_are_panels(self):
        kernel = self.up.kernel
        whole = self.config.intermediate_size % PANEL == 0 and not self.config.mlp_bias
        split = len(kernel.shape) == 3 and kernel.shape[2] == PANEL
        return self.config.gated and whole and split


class Embedding(ConfigLayer):
    """Token table, stored as (D, V), with the tied or the untied language-model head.

    The table is kept as the head wants it: for a few rows `x @ W` with W (D, V) is several times
    faster on CPU than `x @ E^T` with E (V, D), and a look-up may as well gather columns.

    Call: token ids (B, T) int, their positions and types -> (B, T, D), with what else the config
    has added. `logits`: (..., D) -> (..., V) float32.
    """

    def __init__(self, config, with_head: bool = True, **kwargs):
        super().__init__(config, **kwargs)
        self.with_head = with_head

    def build(self, input_shape=None):
        config = self.config
        normal = keras.initializers.RandomNormal(stddev=config.initializer_range)
        shape = (config.hidden_size, config.vocab_size)
        self.table = self.add_weight(name="table", shape=shape, initializer=normal)
        self.head = self.table
        if self.with_head and not config.tie_embeddings:
            self.head = self.add_weight(name="head", shape=shape, initializer=normal)
        if config.rotary is None:
            self.positions = self.add_weight(
                name="positions",
                shape=(config.position_offset + config.max_position_embeddings, config.hidden_size),
                initializer=normal,
            )
        if config.token_types:
            shape = (config.token_types, config.hidden_size)
            self.types = self.add_weight(name="types", shape=shape, initializer=normal)
        if config.embedding_norm:
            self.norm = Norm(config, dtype=self.dtype_policy, name="norm")
            self.norm.build((None, None, config.hidden_size))

    def call(self, token_ids, positions, token_type_ids=None, training=False):
        if training:
            x = columns(tf.convert_to_tensor(self.table), token_ids)
        else:
            x = self._look_up(token_ids)
        x = ops.cast(x, self.compute_dtype)  # (B, T, D)
        if self.config.scale_embeddings:
            x = x * ops.cast(self.config.hidden_size**0.5, x.dtype)
        if self.config.rotary is None:
            positions = positions + self.config.position_offset
            x = x + ops.cast(ops.take(self.positions, positions, axis=0), x.dtype)
        if self.config.token_types:
            types = ops.zeros((1, 1), "int32") if token_type_ids is None else token_type_ids
            x = x + ops.cast(ops.take(self.types, types, axis=0), x.dtype)
        return self.norm(x) if self.config.embedding_norm else x

    def _look_up(self, token_ids):
        if len(self.table.shape) == 2:
            return ops.transpose(ops.take(self.table, token_ids, axis=1), (1, 2, 0))  # (B, T, D)
        _, D, n = self.table.shape
        token_ids = ops.cast(token_ids, "int64")[..., None]
        first = token_ids // n * (D * n) + token_ids % n  # (B, T, 1), in the flat table
        return ops.take(ops.reshape(self.table, (-1,)), first + n * ops.arange(D, dtype="int64"))

    def logits(self, x):
        logits = ops.cast(matmul(x, self.head, self.config.vocab_size), "float32")
        return softcapped(logits, self.config.logits_softcap)

    def lay_out(self, layout):
        """Splits the head, and a table that it is tied to, see `split_columns`."""
        tied = self.head is self.table
        self.head = self.replace_weight(self.head, split_columns(self.head, layout))
        if tied:
            self.table = self.head

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape, self.config.hidden_size)


@tf.custom_gradient
def columns(table, token_ids):
    """Columns (B, T, D) of a table (D, V), to train it."""
    D, V = table.shape

    def gradient(upstream):
        rows = tf.reshape(upstream, (-1, D))
        # Zeros that wait for the gradient: XLA would make others first of all, and keep them.
        zeros = tf.fill((V, D), 0 * rows[0, 0])
        total = tf.tensor_scatter_nd_add(zeros, tf.reshape(token_ids, (-1, 1)), rows)
        return tf.transpose(total), None

    return tf.transpose(tf.gather(table, token_ids, axis=1), (1, 2, 0)), gradient


def softcapped(x, cap):
    """cap * tanh(x / cap), which is x where that is small; x itself if the cap is 0."""
    return cap * ops.tanh(x / cap) if cap else x


def residual_stddev(config: GPTConfig) -> float:
    """GPT-2's smaller initialisation of what is added to the residual stream (Radford, 2019)."""
    return config.initializer_range / (2 * config.num_layers) ** 0.5


def matmul(x, kernel, units):
    """(..., D) @ (D, units) -> (..., units) as one two-dimensional product.

    The kernel may be split, see `split_columns`.
    """
    kernel = ops.cast(kernel, x.dtype)
    y = ops.reshape(x, (-1, x.shape[-1]))  # (N, D)
    y = ops.matmul(y, kernel) if len(kernel.shape) == 2 else _matmul_of_parts(y, kernel, units)
    return rows_like(x, y)


def rows_like(x, y):
    """(N, F) -> (..., F), with the leading axes of `x`."""
    leading = x.shape[:-1]
    if len(leading) == 1:
        return y
    if sum(n is None for n in leading) > 1:
        leading = ops.shape(x)[:-1]
    else:
        leading = tuple(-1 if n is None else n for n in leading)
    return ops.reshape(y, (*leading, y.shape[-1]))  # (B, T, F)


def matmul_in_parts(x, kernel):
    """(..., D) by a split kernel (P, D, n) -> (P, N, n)."""
    x = ops.reshape(x, (1, -1, x.shape[-1]))  # (1, N, D)
    return tf.matmul(x, ops.cast(kernel, x.dtype))


def join_parts(y):
    """(P, N, n) -> (N, P * n)."""
    P, _, n = y.shape
    # As tf.transpose(y, (1, 0, 2)), which takes ten times as long for a few rows.
    y = tf.batch_to_space(y, [P], [[0, 0]])  # (1, N * P, n)
    return tf.reshape(y, (-1, P * n))


def _matmul_of_parts(x, kernel, units):
    """(N, D) by a split kernel (P, D, n) -> (N, units)."""
    P, _, n = kernel.shape

    def as_a_batch():
        return join_parts(matmul_in_parts(x, kernel))

    def one_by_one():
        return tf.concat([x @ part for part in tf.unstack(kernel)], axis=1)  # parts are views

    y = as_a_batch() if n == PANEL else tf.cond(tf.shape(x)[0] == 1, as_a_batch, one_by_one)
    return y if P * n == units else y[:, :units]


def split_columns(kernel, layout) -> np.ndarray:
    """(D, F) -> (P, D, n): n columns after n columns, the last ones padded with zeros.

    Args:
      kernel: the matrix.
      layout: "panels" of 64 columns: oneDNN multiplies a few rows by them 1.5 times as fast as by
        the matrix, which it has to pack at each call. Without oneDNN it takes twice as long.
        "slabs", a few wide parts: what TensorFlow has without oneDNN multiplies one row in one
        thread only, but a batch in all, and several rows by a very wide matrix at half the speed.
    """
    kernel = np.asarray(kernel)
    D, F = kernel.shape
    n = PANEL
    if layout == "slabs":
        n = -(-F // max(SLABS, -(-F // SLAB)))
        n = -(-n // 16) * 16  # each begins at a multiple of 64 bytes, or a view would be a copy
    kernel = np.pad(kernel, ((0, 0), (0, -F % n)))
    return np.ascontiguousarray(kernel.reshape(D, -1, n).swapaxes(0, 1))
