"""Trains a tokenizer and a language model from zero on texts.

    python -m trainers.pretrain --train_data='data/shakespeare/*.txt' --output_dir=runs/shakespeare

The model is a `llama` of the size that the flags say, or with --objective=masked_lm a `bert`, which
sees a text from both sides and finds tokens that are hidden in it. Bits per byte on held-out
documents tell how well the former compresses text it has not seen; they compare across tokenizers.
The finished model is `<output_dir>/model`, a Hugging Face directory.
"""

import dataclasses
import functools
import os

import keras
import numpy as np
from absl import flags as absl_flags

from gpt_keras import CausalLM, GPTConfig, MaskedLM, checkpoint, preprocessing, tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.neighbours import look_around
from gpt_keras.tasks import Task
from trainers import args, data
from trainers.agreement import agree, digest, start
from trainers.batches import BatchSource, ExampleBatches
from trainers.data_flags import data_flags, option_flags, train_data_flags
from trainers.features import END_OF_TEXT
from trainers.files import save_folder
from trainers.fit import Data, continue_samples, describe, dry_run, dtype_policy, fit, fit_flags
from trainers.insight import insight_flags
from trainers.loop import loop_flags
from trainers.mixture import Mixture, open_mixture, shards_flags
from trainers.model_card import card_flags, write_model
from trainers.optimizer import optimizer_flags
from trainers.run_folder import RunFolder
from trainers.strategy import broadcast, strategy_flags, wait_for_all

OBJECTIVES = {"causal_lm": CausalLM, "masked_lm": MaskedLM}
MASK = "<mask>"  # of a tokenizer that is trained
TOKEN_TYPES = 2  # of a bert, as there are of its family


def pretrain_flags(flags: args.FlagValues) -> None:
    """Tokenizer and size of the model."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    absl_flags.DEFINE_enum(
        "objective", "causal_lm", list(OBJECTIVES), "what is learned: the next token, or tokens "
        "hidden in a text that is seen from both sides", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "tokenizer", "", "directory with tokenizer.json or .model; empty: train byte-level BPE on "
        "the training data, or take the one that made the shards", flag_values=flags,
    )  # fmt: skip
    integer("vocab_size", 4096, "tokens of a tokenizer that is trained", lower_bound=257)
    absl_flags.DEFINE_string(
        "config", "", "directory with a config.json that says the architecture; empty: a llama, "
        "or to find hidden tokens a bert, of the sizes below", flag_values=flags,
    )  # fmt: skip
    integer("num_layers", 6, "Transformer blocks")
    integer("hidden_size", 384, "width of the model")
    integer("num_heads", 6, "query heads")
    integer("num_kv_heads", 0, "key/value heads; 0: as many as query heads", lower_bound=0)
    integer(
        "intermediate_size", 0, "width of the feed-forward; 0: 8/3 of hidden_size, up to the next "
        "multiple of 32; of a bert 4 times hidden_size", lower_bound=0,
    )  # fmt: skip


def masked_lm_flags(flags: args.FlagValues) -> None:
    """Hidden tokens."""
    option_flags(flags, [MaskedLM])


FLAGS = (
    pretrain_flags, masked_lm_flags, train_data_flags, data_flags, shards_flags, fit_flags,
    loop_flags, insight_flags, optimizer_flags, strategy_flags, card_flags,
)  # fmt: skip


def main(flags: args.FlagValues) -> None:
    if not flags.train_data:
        raise args.UsageError("--train_data is missing")
    if flags.train_top_layers:
        raise args.UsageError("--train_top_layers is for --model of trainers.finetune")
    strategy = start(flags)
    if flags.config:
        context = checkpoint.read_config(flags.config).max_position_embeddings
        flags.max_length = min(flags.max_length, context)
    folder = RunFolder(flags, strategy.extended.should_checkpoint)
    if broadcast(strategy, np.int32(folder.finished)):
        print(f"this run is finished: the model is in {folder.file('model')}")
        return
    keras.utils.set_random_seed(flags.seed)
    mixture = open_mixture(flags.train_data, flags.tokenizer, flags.verify_shards)
    if mixture is not None and flags.objective != "causal_lm":
        raise args.UsageError(
            f"--objective={flags.objective}: --train_data names shards, which are for causal_lm; "
            "give files of texts"
        )
    tokenizer, config, texts = (
        read_texts(flags, folder) if mixture is None else read_shards(mixture, flags, folder)
    )
    agree(strategy, lambda: {"the architecture": str(config), **digests(texts, mixture, flags)})
    with strategy.scope():
        kind = OBJECTIVES[flags.objective]
        task = kind(config, tokenizer=tokenizer, dtype=dtype_policy(flags))
        if kind is MaskedLM:
            look_around(task)
    print(describe(task, texts, flags))
    if flags.dry_run:
        dry_run(task, texts, flags, strategy)
        return
    folder.begin()
    if folder.writes:
        save_folder(tokenizer.save, folder.file("tokenizer"))  # for a resume
        if mixture is not None:
            mixture.write_digests(folder)
    progress, metrics = fit(task, texts, flags, folder, strategy)
    report = {"step": progress.step, "best_step": progress.best_step}
    if metrics is not None:
        print(f"\neval data, best weights\n{metrics.report()}")
        report["eval"] = metrics.details()
    folder.write_json("report.json", report)
    if folder.writes:
        show_samples(task, flags)
        write_model(task, texts, flags, folder, report)
    wait_for_all(strategy)  # who ends earlier looks dead to the others


def read_texts(flags: args.FlagValues, folder: RunFolder):
    """Tokenizer, architecture and batches, out of files of texts."""
    train_records, eval_records = data.load_split(flags.objective, flags)
    tokenizer = load_tokenizer(flags, folder, train_records)
    config = make_config(flags, tokenizer)
    texts = Data(
        make_source(train_records, tokenizer, config, flags, shuffle=True),
        make_source(eval_records, tokenizer, config, flags, shuffle=False),
    )
    return tokenizer, config, texts


def read_shards(mixture: Mixture, flags: args.FlagValues, folder: RunFolder):
    """The same, out of prepared shards."""
    mixture.check_same(folder)
    tokenizer = tokenizers.load(mixture.tokenizer_dir)
    config = make_config(flags, tokenizer)
    filler = preprocessing.filler(config)
    if flags.eval_data:
        records = data.load_records("causal_lm", flags.eval_data, flags)
        held_out = make_source(records, tokenizer, config, flags, shuffle=False)
    else:
        held_out = mixture.eval_batches(flags, filler)
    return tokenizer, config, Data(mixture.train_batches(flags, filler), held_out)


def digests(texts: Data, mixture: Mixture | None, flags: args.FlagValues) -> dict[str, str]:
    """Of the data, for the workers to compare; shards are known by their manifests."""
    prepared = mixture and digest(mixture.digests)
    held_out = prepared if prepared and not flags.eval_data else None
    return {
        "the digest of --train_data": prepared or digest(_content(texts.train)),
        "the digest of the eval data": held_out or digest(texts.eval and _content(texts.eval)),
    }


def _content(source: BatchSource):
    """What batches are made of; the same records may lie at another place on another machine."""
    if isinstance(source, ExampleBatches):
        return dataclasses.replace(source.examples, records=())
    return source.rows


def load_tokenizer(flags: args.FlagValues, folder: RunFolder, records: list[dict]):
    """The one named, the one that the resumed run has trained, or a new one."""
    path = flags.tokenizer or folder.file("tokenizer")
    if flags.tokenizer or os.path.isdir(path):
        return tokenizers.load(path)
    print(f"training a tokenizer of {flags.vocab_size} tokens")
    texts = (record.get("text") or record["prompt"] + record["completion"] for record in records)
    if flags.objective == "causal_lm":
        return tokenizers.train_byte_level_bpe(texts, flags.vocab_size, [END_OF_TEXT])
    return tokenizers.train_byte_level_bpe(
        texts, flags.vocab_size, [END_OF_TEXT, MASK], mask_token=MASK
    )


def make_config(flags: args.FlagValues, tokenizer) -> GPTConfig:
    """Architecture: that of --config with the tokenizer's ids, or one of the flags' sizes."""
    vocabulary = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,),
        "pad_token_id": tokenizer.pad_token_id,
    }
    if flags.config:
        config = checkpoint.read_config(flags.config)
        config = config.replace(dropout=flags.dropout, **vocabulary)
        return data.configure(flags.objective, config, flags)
    sizes = {
        "hidden_size": flags.hidden_size, "num_layers": flags.num_layers,
        "num_heads": flags.num_heads, "max_position_embeddings": flags.max_length,
        "dropout": flags.dropout, **vocabulary,
    }  # fmt: skip
    if flags.objective == "masked_lm":
        if flags.num_kv_heads not in (0, flags.num_heads):
            raise args.UsageError("--num_kv_heads: a bert has as many as query heads; leave it out")
        config = GPTConfig(
            model_type="bert",
            activation="gelu",
            token_types=TOKEN_TYPES,
            norm_epsilon=1e-12,
            initializer_range=flags.hidden_size**-0.5,
            intermediate_size=flags.intermediate_size or 4 * flags.hidden_size,
            **{**FAMILIES["bert"].fixed, **sizes},
        )
        return data.configure(flags.objective, config, flags)
    return GPTConfig(
        num_kv_heads=flags.num_kv_heads,
        intermediate_size=flags.intermediate_size or -(-flags.hidden_size * 8 // 3 // 32) * 32,
        **sizes,
    )


def make_source(records, tokenizer, config: GPTConfig, flags: args.FlagValues, shuffle: bool):
    """Batches of packed documents, or of texts to hide tokens in; None without any."""
    if records is None:
        return None
    filler = preprocessing.filler(config)
    features = data.make_features(flags.objective, records, tokenizer, flags, config)
    return data.run_source(features, flags, shuffle=shuffle, pad_id=filler)


def show_samples(task: Task, flags: args.FlagValues) -> None:
    """Prints what the finished model makes of --sample_prompts, if it is one to continue texts."""
    if not flags.sample_prompts or not isinstance(task, CausalLM):
        return
    texts = continue_samples(task, flags, 128)
    for prompt, text in zip(flags.sample_prompts, texts, strict=True):
        print(f"\nsample\n{prompt}{text}")


if __name__ == "__main__":
    args.run(main, FLAGS)
