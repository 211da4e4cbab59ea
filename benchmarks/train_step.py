"""One training step: gpt-keras beside Hugging Face torch and KerasHub, in one run.

    python -m benchmarks.train_step --output=train_step.json

A llama of 13.9 million parameters (6 blocks of width 384, feed-forward 1040, 6 heads, tied
vocabulary of 8192) takes whole steps on 8 x 256 random tokens, see `benchmarks.contenders`.
Needs `torch`, `transformers` and `keras_hub`; a contender that is not installed is left out.
"""

import importlib.util

import keras
import numpy as np

import gpt_keras
from benchmarks.contenders import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    compare,
    ours,
    torch_eager,
    turn_flags,
    use_threads,
)
from trainers import args
from trainers.step import count_parameters

CONFIG = gpt_keras.GPTConfig(
    vocab_size=8192, hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1040,
    max_position_embeddings=256,
)  # fmt: skip


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    turn_flags(flags, length=256, rounds=10)


def main(flags: args.FlagValues) -> None:
    use_threads(flags.threads)
    keras.utils.set_random_seed(0)
    shape = (flags.batch_size, flags.length)
    token_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape).astype(np.int32)

    def make():
        return gpt_keras.CausalLM(CONFIG)

    contenders = {
        "gpt-keras XLA": lambda: ours(make, token_ids, xla=True),
        "gpt-keras XLA, measured by parts": lambda: ours(make, token_ids, xla=True, measure=True),
        "gpt-keras graph": lambda: ours(make, token_ids, xla=False),
        "HF torch eager": lambda: torch_eager(hugging_face_llama, token_ids, flags.threads),
        "KerasHub XLA": lambda: keras_hub_llama(token_ids, xla=True),
        "KerasHub graph": lambda: keras_hub_llama(token_ids, xla=False),
    }
    compare(contenders, CONFIG, flags)


def hugging_face_llama(transformers):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            intermediate_size=CONFIG.intermediate_size,
            max_position_embeddings=CONFIG.max_position_embeddings,
            tie_word_embeddings=True,
        )
    )


def keras_hub_llama(token_ids, xla: bool):
    """`LlamaCausalLM` with Keras' own `train_on_batch`."""
    if not importlib.util.find_spec("keras_hub"):
        return None
    import keras_hub

    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=CONFIG.vocab_size,
        num_layers=CONFIG.num_layers,
        num_query_heads=CONFIG.num_heads,
        num_key_value_heads=CONFIG.num_kv_heads,
        hidden_dim=CONFIG.hidden_size,
        intermediate_dim=CONFIG.intermediate_size,
        tie_word_embeddings=True,
    )
    model = keras_hub.models.LlamaCausalLM(backbone)
    print(f"KerasHub: {count_parameters(model.trainable_variables):,} parameters")
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, global_clipnorm=MAX_GRAD_NORM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids, bool)}
    targets = np.roll(token_ids, -1, axis=1)
    return lambda: model.train_on_batch(inputs, targets)


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
