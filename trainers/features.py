"""Features: records in, token ids and what of them to predict out, of language models.

Whatever is wrong with a record is a ValueError that names its file and line.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt_keras.chat.template import render_segments
from gpt_keras.preprocessing import chunks
from gpt_keras.tasks.records import text_of

END_OF_TEXT = "<|endoftext|>"  # of a tokenizer that is trained


@dataclass(frozen=True)
class LanguageFeatures:
    """n token sequences to learn to continue.

    Attributes:
      values: (N,) int32, the token ids of all sequences end to end.
      row_splits: (n + 1,) int64, where each sequence begins and the last ends.
      is_target: (N,) bool, whether the token is to be predicted; False on the first of a sequence,
        which nothing stands before.
      num_target_bytes: bytes of text of the targets, for bits per byte.
      num_truncated: sequences cut at the length limit.
      num_dropped: records of which nothing is left to predict.
    """

    values: np.ndarray
    row_splits: np.ndarray
    is_target: np.ndarray
    num_target_bytes: int
    num_truncated: int = 0
    num_dropped: int = 0


def document_features(records: Sequence[dict], tokenizer) -> LanguageFeatures:
    """Records with `text` -> documents, each ended by the end-of-sequence token.

    Args:
      records: see `trainers.records.read_records`.
      tokenizer: see `gpt_keras.tokenizers`; where it puts a token before a text, the first of the
        text is predicted from it.
    """
    segments = [[(text_of(record), True)] for record in records]
    return _language_features(segments, tokenizer, [frame_of_document(tokenizer)])


def completion_features(records: Sequence[dict], tokenizer, *, max_length: int) -> LanguageFeatures:
    """Records with `prompt` and `completion`; the completion and its end are the targets.

    Prompt and completion are tokenized apart, since generation sees the prompt alone, with the
    tokenizer's special tokens. What is longer than `max_length` tokens loses its end; where that
    leaves no target the record is dropped.
    """
    segments = [
        [(text_of(record, "prompt"), False), (text_of(record, "completion"), True)]
        for record in records
    ]
    prompt = tokenizer.post_processor.single
    frames = [(prompt.prefix.ids, prompt.suffix.ids), ((), (end_of_text(tokenizer),))]
    return _language_features(segments, tokenizer, frames, max_length)


def chat_features(records: Sequence[dict], tokenizer, *, max_length: int) -> LanguageFeatures:
    """Records with `messages`; what the assistant says, with the end of its turn, is the target.

    Args:
      records: see `trainers.records.read_records`; messages as in
        `[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]`.
      tokenizer: with a chat template; see `gpt_keras.tokenizers`.
      max_length: tokens; a longer conversation loses its end, and is dropped where that leaves no
        target.
    """
    template = tokenizer.chat_template
    if template is None:
        raise ValueError(
            "the model has no chat template: put `chat_template` into its tokenizer_config.json, "
            "or use --task=causal_lm with prompt and completion"
        )
    names = {}
    for name in ("bos", "eos"):
        token = getattr(tokenizer, f"{name}_token_id")
        names[f"{name}_token"] = "" if token is None else tokenizer.id_to_token(token)
    segments = []
    for record in records:
        try:
            segments.append(render_segments(template, _messages(record), **names))
        except ValueError as error:
            raise ValueError(f"{record['where']}: {error}") from error
    # The template writes the special tokens itself.
    return _language_features(segments, tokenizer, itertools.repeat(((), ())), max_length)


def _language_features(
    segments: Sequence[Sequence[tuple[str, bool]]],
    tokenizer,
    frames: Iterable[tuple[Sequence[int], Sequence[int]]],
    max_length: int | None = None,
) -> LanguageFeatures:
    """Sequences of (text, is target) pieces -> features.

    `frames` has the tokens before and after each piece of a sequence; those after it are targets
    where it is.
    """
    ids, splits = tokenize([text for parts in segments for text, _ in parts], tokenizer)
    values, targets, piece = [], [], 0
    num_truncated = num_dropped = 0
    for parts in segments:
        runs = [((), False)]  # of tokens, and whether they are targets
        for (_, is_target), (before, after) in zip(parts, frames, strict=False):
            text = ids[splits[piece] : splits[piece + 1]]
            runs += [(before, False), (text, is_target), (after, is_target)]
            piece += 1
        sequence = np.concatenate([run for run, _ in runs]).astype(np.int32)
        mask = np.repeat([kind for _, kind in runs], [len(run) for run, _ in runs])
        num_truncated += max_length is not None and len(sequence) > max_length
        sequence, mask = sequence[:max_length], mask[:max_length]
        mask[:1] = False  # nothing stands before the first
        if mask.any():
            values.append(sequence)
            targets.append(mask)
        else:
            num_dropped += 1
    if not values:
        raise ValueError(
            f"nothing to learn in any of {len(segments)} records: they are empty, or --max_length="
            f"{max_length} cuts off all that is to be predicted"
        )
    row_splits = np.cumsum([0, *map(len, values)])
    values, is_target = np.concatenate(values), np.concatenate(targets)
    num_bytes = int(token_bytes(tokenizer)[values[is_target]].sum())
    return LanguageFeatures(
        values, row_splits, is_target, num_bytes, int(num_truncated), num_dropped
    )


def tokenize(texts: Sequence[str], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the texts end to end (N,) int32, and where each begins (n + 1,) int64."""
    values, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for chunk in chunks(texts):
        ragged = tokenizer.tokenize(chunk)
        values.append(ragged.values.numpy().astype(np.int32))
        lengths.append(ragged.row_lengths().numpy().astype(np.int64))
    return np.concatenate(values), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def framed(values, row_splits, before: Sequence[int], after: Sequence[int]):
    """Token sequences, as from `tokenize`, with the same tokens before and after each."""
    n, each = len(row_splits) - 1, len(before) + len(after)
    at = np.repeat(
        np.stack([row_splits[:-1], row_splits[1:]], axis=1), (len(before), len(after)), 1
    )
    values = np.insert(values, at.ravel(), np.tile(np.array([*before, *after], values.dtype), n))
    return values, row_splits + each * np.arange(n + 1)


def token_bytes(tokenizer) -> np.ndarray:
    """(V,) int32: bytes of text each token stands for, 0 for special tokens."""
    sizes = np.array([len(token) for token in tokenizer.token_bytes.numpy()], np.int32)
    sizes[list(tokenizer.special_tokens.values())] = 0
    return sizes


def end_of_text(tokenizer) -> int:
    """The token that ends a document. Raises ValueError if there is none."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos token; name one in tokenizer_config.json")
    return tokenizer.eos_token_id


def frame_of_document(tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and after a document: those of the tokenizer, and one that ends it."""
    around, end = tokenizer.post_processor.single, end_of_text(tokenizer)
    after = around.suffix.ids
    return around.prefix.ids, after if after[-1:] == (end,) else (*after, end)


def _messages(record: dict) -> list[dict]:
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError(
            f'messages must be a list such as [{{"role": "user", "content": "Hi"}}], '
            f"got {str(messages)[:60]!r}"
        )
    return messages
