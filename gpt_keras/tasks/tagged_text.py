"""Records of tagged words or of texts with spans: what they say, checked, and as tags of tokens."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gpt_keras import preprocessing, tagging, words
from gpt_keras.tagging import Scheme, Span
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import index_of, text_of


class TaggedText(NamedTuple):
    """A text and the spans of its words.

    Attributes:
      text: words and all.
      words: (w, 2) int32, where they stand, in bytes.
      spans: of words; with plain tags each word is one.
      tags: of the words.
      record: that it was made of, and `record_id`, its index.
    """

    text: str
    words: np.ndarray
    spans: list[Span]
    tags: list[str]
    record: Mapping[str, Any]
    record_id: int


def read(
    records: Sequence[Mapping[str, Any]],
    separator: str,
    scheme: Scheme | None,
    skipped: LeftOut,
) -> list[TaggedText]:
    """What records say.

    Args:
      records: with `tokens` and `tags`, or with `text` and `entities` or `spans`.
      separator: what stands between words.
      scheme: of the tags.
      skipped: gets the records that are left out.

    Raises:
      ValueError: a value of another kind; the message names file and line.
    """
    found = []
    texts = [record["text"] for record in records if "text" in record]
    split = iter(_split(texts, separator))
    for i, record in enumerate(records):
        if "text" in record:
            text_of(record)
            reason, row = _of_spans(record, next(split), scheme)
        else:
            reason, row = _of_words(record, separator, scheme)
        if reason:
            skipped.add(reason, record)
        else:
            found.append(TaggedText(*row, record, i))
    return found


def entities_of(record, labelled: bool = True) -> list[Span]:
    """Entities of a record as spans of its text, in characters; without `labelled` "" is no label.

    Raises:
      ValueError: they are no list of objects with start, end and, if `labelled`, label.
    """
    values = record.get("entities", record.get("spans"))
    found, wanted = [], "start and end (characters)" + " and label" * labelled
    for value in values if isinstance(values, list) else [None]:
        fields = value if isinstance(value, dict) else {}
        start, end, label = fields.get("start"), fields.get("end"), fields.get("label")
        label = label if labelled else ""
        if type(start) is not int or type(end) is not int or not isinstance(label, str):
            raise ValueError(
                f"{record['where']}: entities must be a list of objects with {wanted}, got "
                f"{value if values is None else values!r}"
            )
        found.append(Span(start, end, label))
    return found


def align(tagged: Sequence[TaggedText], rows: preprocessing.Rows, names, scheme, all_tokens):
    """Tags of the tokens of texts.

    Args:
      rows: the texts as tokens, with offsets.
      names: of the tags, in index order.
      all_tokens: whether all tokens of a word have a tag, or the first alone.

    Returns:
      (N,) int32, one more than the index of each token's tag, 0 for none; and (n,) bool: texts
      whose words have tokens of their own, as far as they were not cut off.

    Raises:
      ValueError: a tag that is not among the names; the message names file and line.
    """
    index = {name: i for i, name in enumerate(names)}
    tags, is_good = np.zeros(len(rows.values), np.int32), np.ones(len(tagged), bool)
    if not len(tagged):
        return tags, is_good
    of_tokens = [_ragged(x, rows.row_splits) for x in (rows.starts, rows.ends)]
    word_splits = np.cumsum([0, *(len(row.words) for row in tagged)])
    places = np.concatenate([row.words for row in tagged]).reshape(-1, 2)
    of_words = [_ragged(x, word_splits) for x in places.T]
    firsts = words.first_tokens(of_words, of_tokens)[1].values.numpy()  # (w,)
    for i, row in enumerate(tagged):
        begin, end = rows.row_splits[i : i + 2]
        first = firsts[word_splits[i] : word_splits[i + 1]]
        reached = rows.ends[begin:end].max(initial=0)  # the text up to here has tokens
        is_good[i] = not np.any((first < 0) & (row.words[:, 0] < reached))
        if not is_good[i]:
            continue
        here = np.flatnonzero(first >= 0)
        if not all_tokens:
            labels = [row.tags[word] for word in here]
            at = begin + first[here]
        else:
            owners, at = _owners(row.words, rows, begin, end)
            labels = _stretch(row, owners, scheme)
        tags[at] = [index_of(row.record, label, index) + 1 for label in labels]
    return tags, is_good


def _owners(places, rows, begin, end):
    """The word of each token that is in one, and the tokens' indices."""
    starts, ends = (tf.RaggedTensor.from_row_lengths(x[begin:end], [end - begin])
                    for x in (rows.starts, rows.ends))  # fmt: skip
    at = begin + np.flatnonzero(words.apart(starts, ends))
    # By its last byte: some tokens begin with the blank before a word.
    owners = np.searchsorted(places[:, 0], rows.ends[at] - 1, side="right") - 1
    inside = (owners >= 0) & (rows.ends[at] <= places[np.maximum(owners, 0), 1])
    return owners[inside], at[inside]


def _stretch(row, owners, scheme):
    """Tags of tokens, of the words `owners`: a span of words is one of all their tokens."""
    if scheme is None:
        return [row.tags[word] for word in owners]
    edges = np.searchsorted(owners, [(span.start, span.end) for span in row.spans])
    spans = [
        Span(int(start), int(end), span.label)
        for (start, end), span in zip(edges.reshape(-1, 2), row.spans, strict=True)
        if end > start  # or it was cut off
    ]
    return tagging.tags_of(spans, len(owners), scheme)


def _of_words(record, separator, scheme):
    """(reason, None), or (None, fields of `TaggedText`) of tagged words."""
    for name in ("tokens", "tags"):
        values = record[name]
        if not isinstance(values, list) or not all(isinstance(x, str) for x in values):
            raise ValueError(f"{record['where']}: {name} must be a list of strings, got {values!r}")
    tokens, tags = record["tokens"], record["tags"]
    if len(tokens) != len(tags):
        return "another number of tags than of tokens", None
    if not tokens:
        return "no tokens", None
    if not all(token.strip() for token in tokens):
        return "a word without a token of its own", None
    try:
        spans = tagging.spans_of(tags, scheme)
    except ValueError as error:
        raise ValueError(f"{record['where']}: {error} (--tagging_scheme)") from None
    sizes = np.array([len(token.encode()) for token in tokens])
    ends = np.cumsum(sizes) + len(separator.encode()) * np.arange(len(tokens))
    places = np.stack([ends - sizes, ends], axis=1).astype(np.int32)
    return None, (separator.join(tokens), places, spans, tags)


def _of_spans(record, places, scheme):
    """The same of a text with spans, whose words stand at `places`, (w, 2), in bytes."""
    text, entities = record["text"], sorted(entities_of(record))
    if scheme is None:
        raise ValueError(
            f"{record['where']}: --tagging_scheme=plain is for tokens and tags; entities need BIO, "
            "BMES or BIOES"
        )
    if any(not 0 <= x.start < x.end <= len(text) for x in entities):
        return "an entity outside the text", None
    if any(a.end > b.start for a, b in itertools.pairwise(entities)):
        return "overlapping entities", None
    if not len(places):
        return "no words", None
    size = [len(text[:n].encode()) for x in entities for n in (x.start, x.end)]
    edges = np.array(size, np.int64).reshape(-1, 2)
    first = np.searchsorted(places[:, 0], edges[:, 0])
    last = np.searchsorted(places[:, 1], edges[:, 1])
    fits = (last < len(places)) & (first <= last)
    if (
        not np.all(fits)
        or np.any(places[first, 0] != edges[:, 0])
        or np.any(places[last, 1] != edges[:, 1])
    ):
        return "an entity that begins or ends inside a word", None
    spans = [
        Span(int(a), int(b) + 1, x.label) for a, b, x in zip(first, last, entities, strict=True)
    ]
    return None, (text, places, spans, tagging.tags_of(spans, len(places), scheme))


def _split(texts, separator) -> list[np.ndarray]:
    """(w, 2) int32 of each text: where its words stand."""
    found = []
    for chunk in preprocessing.chunks([x if isinstance(x, str) else "" for x in texts]):
        starts, ends = words.split(tf.constant(chunk, tf.string), separator)
        pairs = np.stack([starts.values, ends.values], axis=1)
        found += np.split(pairs, starts.row_splits.numpy()[1:-1])
    return found


def _ragged(values, splits):
    return tf.RaggedTensor.from_row_splits(
        tf.constant(values, tf.int32), tf.constant(splits, tf.int64), validate=False
    )
