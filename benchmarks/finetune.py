"""Fine-tuning steps of SmolLM2-135M: gpt-keras beside Hugging Face torch, in one run.

    python -m benchmarks.finetune --output=finetune.json

All weights learn from 8 x 128 tokens of tweets, laid end to end; see `benchmarks.contenders`.
Needs the data of `python -m examples.fetch_data smollm2 tweets` and `python -m
examples.prepare_tweets`; torch is left out where `torch` or `transformers` is not installed.
"""

import tempfile

import keras
import numpy as np
from absl import flags as absl_flags

import gpt_keras
from benchmarks.contenders import compare, ours, torch_eager, turn_flags, use_threads
from gpt_keras import checkpoint
from trainers import args
from trainers.features import document_features
from trainers.records import read_records

GGUF = "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    absl_flags.DEFINE_string("model", GGUF, "directory or .gguf file", flag_values=flags)
    absl_flags.DEFINE_list(
        "train_data", ["data/tweets/train_small.jsonl"], "texts", flag_values=flags
    )
    turn_flags(flags, length=128, rounds=8)


def main(flags: args.FlagValues) -> None:
    use_threads(flags.threads)
    keras.utils.set_random_seed(0)
    token_ids = read_tokens(flags)

    def make():
        return gpt_keras.CausalLM.from_pretrained(flags.model, with_tokenizer=False)

    with tempfile.TemporaryDirectory() as folder:

        def make_torch(transformers):
            make().save_pretrained(folder)
            return transformers.AutoModelForCausalLM.from_pretrained(folder)

        contenders = {
            "gpt-keras XLA": lambda: ours(make, token_ids, xla=True),
            "gpt-keras graph": lambda: ours(make, token_ids, xla=False),
            "HF torch eager": lambda: torch_eager(make_torch, token_ids, flags.threads),
        }
        compare(contenders, checkpoint.read_config(flags.model), flags)


def read_tokens(flags: args.FlagValues) -> np.ndarray:
    """The first (B, T) token ids of the texts, laid end to end."""
    size = flags.batch_size * flags.length
    records = read_records(flags.train_data, [{"text": "text"}])[:size]
    values = document_features(records, checkpoint.read_tokenizer(flags.model)).values[:size]
    if len(values) < size:
        raise args.UsageError(f"--train_data has {len(values)} tokens; the batch needs {size}")
    return values.reshape(flags.batch_size, flags.length).astype(np.int32)


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
