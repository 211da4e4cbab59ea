"""RelationExtractor: what two entities of a text have to do with each other."""

import itertools
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import chat, entity_pairs, metrics, pieces, preprocessing, words
from gpt_keras.chat.refusal import refused_if
from gpt_keras.layers import Projection
from gpt_keras.losses import PLAIN, Loss, cross_entropy
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import index_of, label_names, text_of
from gpt_keras.tasks.tagged_text import entities_of
from gpt_keras.tasks.text_task import Option, Served, TextTask
from gpt_keras.tokenizers import ragged, utf8

NONE = "none"
BETWEEN_OTHERS = "a relation between more than --max_pairs, or of what overlaps"
BEYOND = "a pair beyond --max_length"


class RelationExtractor(TextTask):
    """Classifier of pairs: token ids (B, T) int and places (B,) -> logits (B, C) float32.

    Each ordered pair of entities is a text of its own, with marks around the two. The vectors at
    their marks go through a layer with tanh and a linear one: of the marks before the entities, or,
    in a model that sees only what stands before, of those behind them.
    """

    NAME, PIPELINE_TAG = "relation_extraction", "text-classification"
    METRICS = metrics.RelationMetrics
    columns = (("text", "entities", "relations"),)
    answers = ("relations",)
    has_labels = names_labels = True
    head_tensors: ClassVar = {
        "pair/kernel": "pair.weight", "pair/bias": "pair.bias",
        "score/kernel": "score.weight", "score/bias": "score.bias",
    }  # fmt: skip
    options: ClassVar = {
        "max_pairs": Option(30, "ordered pairs of entities that are looked at in a text", low=1),
    }

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if len(config.id2label) < 2 or config.id2label[0] != NONE:
            raise ValueError(
                f"id2label={config.id2label!r}: expected {NONE}, and the relations there are; give "
                "from_pretrained(..., id2label=(...)) the names in index order"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        D = config.hidden_size
        options = {"use_bias": True, "dtype": self.dtype_policy}
        self.pair = Projection(config, D, name="pair", **options)
        self.pair.build((None, 2 * D))
        self.score = Projection(config, len(config.id2label), name="score", **options)
        self.score.build((None, D))
        self.built = True

    def call(self, token_ids, heads, tails, padding_mask=None, training=False):
        """Logits of the relations.

        Args:
          token_ids: (B, T) int, of marked texts.
          heads, tails: (B,) int, the token of each one's mark.
          padding_mask: (B, T) bool, False on padding; None when all are real.
        """
        hidden = self.backbone(token_ids, None, padding_mask, training=training)
        return self.classify(hidden, heads, tails)

    def classify(self, hidden, heads, tails):
        """(B, T, D) hidden states after the last norm and (B,) places -> (B, C) float32."""
        places = ops.stack([heads, tails], axis=1)[..., None]  # (B, 2, 1)
        vectors = ops.take_along_axis(hidden, ops.cast(places, "int32"), axis=1)  # (B, 2, D)
        vectors = ops.reshape(vectors, (-1, 2 * self.config.hidden_size))
        return ops.cast(self.score(ops.tanh(self.pair(vectors))), "float32")

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Each pair of entities of each text is one; a text longer than `max_length` loses its
        end, and a pair in it is left out."""
        skipped = LeftOut()
        checked = [_checked(record, skipped) for record in records]
        names = config.id2label or _names(records)
        index = {name: i for i, name in enumerate(label_names((), names))}
        texts, heads, tails, labels, record_ids, num_relations = [], [], [], [], [], 0
        for i, (record, (entities, relations)) in enumerate(zip(records, checked, strict=True)):
            if entities is None:
                continue
            text = text_of(record)
            places = _in_bytes(text, entities)
            pairs = _pairs(places, cls.option(config, "max_pairs"))
            skipped.add(BETWEEN_OTHERS, record, len(set(relations) - set(pairs)))
            num_relations += len(relations)
            for pair in pairs:
                texts.append(text)
                heads.append(places[pair[0]])
                tails.append(places[pair[1]])
                labels.append(index_of(record, relations.get(pair, NONE), index))
                record_ids.append(i)
        if not texts:
            raise ValueError(
                f"{records[0]['where']}: neither this nor another of {len(records)} records has "
                f"two entities that can be learned from: {skipped.reasons()}; mend the records"
            )
        marked, *marks, is_turned = entity_pairs.mark(
            tf.constant(texts), tf.constant(heads), tf.constant(tails), config.causal
        )
        rows = preprocessing.encode_all(
            [text.decode() for text in marked.numpy()],
            tokenizer,
            max_length,
            preprocessing.filler(config),
            with_offsets=True,
        )
        at = _tokens_at(marks, rows, is_turned).numpy()
        kept = np.all(at >= 0, axis=1)
        for i in np.flatnonzero(~kept):
            skipped.add(BEYOND, records[record_ids[i]])
        lengths = np.diff(rows.row_splits)
        if not kept.any():
            raise ValueError(
                f"{records[0]['where']}: neither in this nor in another of {len(records)} records "
                f"can a pair of entities be learned from: {skipped.reasons()}"
            )
        return Examples(
            rows.values[np.repeat(kept, lengths)],
            np.concatenate([[0], np.cumsum(lengths[kept])]),
            {
                "label": np.array(labels, np.int32)[kept],
                "head": at[kept, 0],
                "tail": at[kept, 1],
                "weight": np.ones(int(kept.sum()), np.float32),
            },
            np.array(record_ids, np.int32)[kept],
            records,
            labels=tuple(index),
            num_truncated=rows.num_truncated,
            skipped=skipped,
            counted={
                "num_truncated": f"{len(texts)} pairs",
                BEYOND: f"{len(texts)} pairs",
                BETWEEN_OTHERS: f"{num_relations} relations",
            },
        )

    @classmethod
    def labels_in(cls, record, config):
        return (_checked(record, LeftOut())[1] or {}).values()

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy of `label` (B,) int32, weighted by `weight` (B,) float32."""
        hidden = self.backbone.final_norm(features)
        logits = self.classify(hidden, batch["head"], batch["tail"])  # (B, C)
        weights = batch["weight"]
        total, terms = cross_entropy(logits, batch["label"], weights, regularizers)
        return Loss(total, ops.sum(weights), logits, ops.stack([terms, weights], axis=1))

    def new_metrics(self, source=None):
        return metrics.RelationMetrics(self.config.id2label)

    def signatures(self):
        self.require_tokenizer()
        inputs = {"texts": "text", "entities": "entities"}
        example = {"texts": "Ada, Bo and others", "entities": "[[0, 3], [5, 7]]"}
        return {"relations": Served(self.relations, inputs, example, fixed=("entities",))}

    def relations(self, texts, entities):
        """Relations of the entities of texts; works in a `tf.function` too.

        Args:
          texts: (B,) string. What one longer than the model's context has at its end has no
            relations.
          entities: (B,) string, where they stand, in characters: `[[0, 3], [13, 19]]`.

        Returns:
          dict of (B, n), n the most relations that a text has, with "" and -1 behind the others:
          `heads`, `tails` int32, which entities; `labels`, `head_texts`, `tail_texts` string;
          `scores` float32, the label's probability; and `num_relations` (B,).

        Raises:
          ValueError: the model has no tokenizer.
          tf.errors.InvalidArgumentError: entities of another form, or outside the text.
        """
        texts = tf.convert_to_tensor(texts)
        starts, ends = _inside(texts, *chat.parse_spans(entities, "entities"))
        starts, ends = (utf8.byte_positions(texts, x) for x in (starts, ends))
        pairs = entity_pairs.of_rows(starts, ends, self.option(self.config, "max_pairs"))
        rows = pairs[0]
        places = tf.stack([starts.values, ends.values], axis=1)  # (e, 2)
        first = tf.gather(starts.row_splits, rows)
        spans = [tf.gather(places, first + which) for which in pairs[1:]]  # (R, 2) each
        of_pairs = tf.gather(texts, rows)
        marked, *marks, is_turned = entity_pairs.mark(of_pairs, *spans, self.config.causal)
        config, filler = self.config, preprocessing.filler(self.config)
        encoded = preprocessing.encode(
            marked, self.require_tokenizer(), config.max_position_embeddings, filler,
            with_offsets=True,
        )  # fmt: skip
        token_ids = words.first_tokens(marks, encoded.offsets[:2])[1].values
        at = _turned(token_ids, is_turned)  # (R, 2)
        token_ids, lengths = preprocessing.pad(encoded.tokens, filler)

        ends_of = tf.maximum(at, 0)  # (R, 2)

        def logits_of(rows, longest):
            ids, mask = (
                tf.gather(token_ids, rows),
                tf.sequence_mask(tf.gather(lengths, rows), longest),
            )
            heads, tails = tf.unstack(tf.gather(ends_of, rows), axis=1)
            return [self(ids[:, :longest], heads, tails, padding_mask=mask)]

        empty = tf.zeros([0, len(config.id2label)])
        (logits,) = pieces.map_rows(logits_of, lengths, [empty])
        scores = ops.softmax(logits)  # (R, C)
        labels = tf.argmax(scores, axis=1)
        kept = tf.squeeze(tf.where((labels > 0) & tf.reduce_all(at >= 0, axis=1)), 1)
        rows, labels = tf.gather(rows, kept), tf.gather(labels, kept)
        splits = ragged.row_splits(rows, tf.size(texts, tf.int64))
        covered = [
            tf.strings.substr(tf.gather(texts, rows), span[:, 0], span[:, 1] - span[:, 0])
            for span in (tf.gather(x, kept) for x in spans)
        ]
        found = {
            "heads": tf.cast(tf.gather(pairs[1], kept), tf.int32),
            "tails": tf.cast(tf.gather(pairs[2], kept), tf.int32),
            "labels": tf.gather(tf.constant(config.id2label), labels),
            "head_texts": covered[0],
            "tail_texts": covered[1],
            "scores": tf.reduce_max(tf.gather(scores, kept), axis=1),
        }
        dense = {
            name: tf.RaggedTensor.from_row_splits(value, splits, validate=False).to_tensor(
                "" if value.dtype == tf.string else -1
            )
            for name, value in found.items()
        }
        return {**dense, "num_relations": tf.cast(splits[1:] - splits[:-1], tf.int32)}


def _inside(texts, starts, ends):
    """Spans (B, None) in characters, or an error that names the first one that is no part."""
    lengths = tf.gather(tf.strings.length(texts, unit="UTF8_CHAR"), starts.value_rowids())
    wrong = (starts.values >= ends.values) | (ends.values > lengths)

    def message():
        at = tf.where(wrong)[0, 0]
        numbers = (starts.value_rowids()[at], starts.values[at], ends.values[at], lengths[at])
        row, start, end, length = map(tf.strings.as_string, numbers)
        return tf.strings.join([
            "entities of row ", row, ": [", start, ", ", end, "]: expected a beginning and an end "
            "behind it, in a text of ", length, " characters",
        ])  # fmt: skip

    values = refused_if(tf.reduce_any(wrong), message, tf.stack([starts.values, ends.values]))
    return starts.with_values(values[0]), ends.with_values(values[1])


def _turned(token_ids, is_turned):
    """(2 R,) tokens in the order of the text -> (R, 2), head and tail."""
    at = tf.reshape(token_ids, (-1, 2))
    return tf.where(is_turned[:, tf.newaxis], at[:, ::-1], at)


def _tokens_at(marks, rows, is_turned):
    """(R, 2) int32: the tokens at the marks of head and tail, -1 where they were cut off."""
    tokens = [
        tf.RaggedTensor.from_row_splits(x, rows.row_splits, validate=False)
        for x in (rows.starts, rows.ends)
    ]
    return _turned(words.first_tokens(marks, tokens)[1].values, is_turned)


def _pairs(places, most: int) -> list[tuple[int, int]]:
    """As `entity_pairs.of_rows`, of one text."""
    every = itertools.permutations(range(len(places)), 2)
    apart = (
        (a, b) for a, b in every if places[a][1] <= places[b][0] or places[b][1] <= places[a][0]
    )
    return list(itertools.islice(apart, most))


def _in_bytes(text, spans) -> list[tuple[int, int]]:
    return [(len(text[: span.start].encode()), len(text[: span.end].encode())) for span in spans]


def _names(records) -> tuple[str, ...]:
    names = {relation["label"] for record in records for relation in record["relations"]} - {NONE}
    if not names:
        raise ValueError(
            f"{records[0]['where']}: relations names none, as in all {len(records)} records: there "
            "is nothing to learn; give records with relations, or --relations_column, where the "
            "file calls them otherwise"
        )
    return NONE, *sorted(names)


def _checked(record, skipped):
    """Entities of a record, and {(head, tail): label}; (None, None) of one that is left out."""
    text, entities, relations = text_of(record), entities_of(record, False), record["relations"]
    found = {}
    for value in relations if isinstance(relations, list) else [None]:
        fields = value if isinstance(value, dict) else {}
        head, tail, label = (fields.get(name) for name in ("head", "tail", "label"))
        if type(head) is not int or type(tail) is not int or not isinstance(label, str):
            raise ValueError(
                f"{record['where']}: relations must be a list of objects with head and tail "
                f"(numbers of entities, from 0) and label, got {relations!r}"
            )
        if not (0 <= head < len(entities) and 0 <= tail < len(entities) and head != tail):
            skipped.add("a relation that is not between two of the entities", record)
            return None, None
        if found.setdefault((head, tail), label) != label:
            skipped.add("two relations of one pair", record)
            return None, None
    if any(not 0 <= x.start < x.end <= len(text) for x in entities):
        skipped.add("an entity outside the text", record)
        return None, None
    return entities, {pair: label for pair, label in found.items() if label != NONE}
