"""Data: from the flags of a run to its batches, by task."""

from collections.abc import Sequence

from trainers.args import FlagValues
from trainers.batches import (
    BatchSource,
    ClassificationBatches,
    PackedBatches,
    choose_bucket_lengths,
)
from trainers.features import (
    ClassificationFeatures,
    LanguageFeatures,
    chat_features,
    classification_features,
    completion_features,
    document_features,
)
from trainers.packing import pack
from trainers.records import read_records

TASKS = ("causal_lm", "chat", "classification")


def load_features(
    task: str,
    patterns: Sequence[str],
    tokenizer,
    flags: FlagValues,
    *,
    label_names: Sequence[str] | None = None,
    filler: int = 0,
) -> ClassificationFeatures | LanguageFeatures:
    """Reads the files of --train_data or --eval_data and tokenizes them.

    Args:
      task: one of `TASKS`.
      patterns: the flag's value.
      tokenizer: the model's.
      flags: those of `trainers.args.data_flags`.
      label_names: of a classifier, in index order; None takes --labels, or those in the data.
      filler: the token that stands for an empty text; see `gpt_keras.preprocessing.filler`.

    Raises:
      ValueError: naming file, line, value and remedy.
    """
    records = read_records(
        patterns, columns(task, flags), text_unit=flags.text_unit, encoding=flags.data_encoding
    )
    if task == "classification":
        return classification_features(
            records,
            tokenizer,
            max_length=flags.max_length,
            label_names=label_names or flags.labels or None,
            filler=filler,
        )
    if task == "chat":
        return chat_features(records, tokenizer, max_length=flags.max_length)
    kinds = {"prompt" in record for record in records}
    if len(kinds) > 1:
        raise ValueError("the data holds plain texts as well as prompts; train on one kind at once")
    if kinds == {True}:
        return completion_features(records, tokenizer, max_length=flags.max_length)
    return document_features(records, tokenizer)


def columns(task: str, flags: FlagValues) -> list[dict[str, str]]:
    """Name in the record -> column in the file, as the flags have it; alternatives in order."""
    text = {"text": flags.text_column}
    if task == "classification":
        return [text | {"label": flags.label_column}]
    if task == "chat":
        return [{"messages": flags.messages_column}]
    return [{"prompt": flags.prompt_column, "completion": flags.completion_column}, text]


def batch_source(
    features: ClassificationFeatures | LanguageFeatures,
    flags: FlagValues,
    *,
    global_batch_size: int,
    shuffle: bool,
    seed: int = 0,
    pad_id: int = 0,
) -> BatchSource:
    """Batches of the features, with --length_buckets or --max_length and --packing.

    Args:
      features: see `load_features`.
      flags: those of `trainers.args.data_flags`.
      global_batch_size: rows of a batch, over all replicas and accumulation steps.
      shuffle: True to train, False to evaluate.
      seed: of the shuffling.
      pad_id: see `gpt_keras.preprocessing.filler`; what it is does not matter, since it is masked.

    Raises:
      ValueError: a batch to train on larger than the data.
    """
    options = {"seed": seed, "shuffle": shuffle, "pad_id": pad_id}
    if isinstance(features, ClassificationFeatures):
        lengths = choose_bucket_lengths(features.lengths, flags.length_buckets)
        lengths = [min(length, flags.max_length) for length in lengths]
        return ClassificationBatches(features, global_batch_size, bucket_lengths=lengths, **options)
    rows = pack(features, flags.max_length, flags.packing)
    return PackedBatches(rows, global_batch_size, **options)
