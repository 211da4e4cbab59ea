"""TokenClassifier: names, parts of speech and the like: tags of words."""

from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import crf, metrics, pieces, preprocessing, tagging, words
from gpt_keras.layers import Projection
from gpt_keras.losses import PLAIN, Loss, cross_entropy
from gpt_keras.tasks import tagged_text
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import label_names
from gpt_keras.tasks.text_task import Option, Served, TextTask
from gpt_keras.tokenizers import ragged, utf8


class TokenClassifier(TextTask):
    """Tagger: token ids (B, T) int -> logits (B, T, C) float32, one per tag of `id2label`.

    As `LlamaForTokenClassification` of Hugging Face. The first token of a word has the word's tag,
    the others none, or all have one. What is found is legal in the tagging scheme: the best path
    through the tags, by their logits alone or with a conditional random field above them.
    """

    NAME, PIPELINE_TAG = "token_classification", "token-classification"
    METRICS = metrics.TaggingMetrics
    columns = (("tokens", "tags"), ("text", "entities"), ("text", "spans"))
    answers = ("tags", "entities", "spans")
    has_labels = names_labels = True
    options: ClassVar = {
        "tagging_scheme": Option(
            "auto", "what tags are made of; plain: of labels alone, as parts of speech; auto: the "
            "first that all tags are of, or plain",
            ("auto", *tagging.SCHEMES),
        ),
        "word_separator": Option(
            " ", "what stands between words: a blank, or nothing, as in Chinese, where each "
            "character of a raw text is a word",
        ),
        "label_all_tokens": Option(False, "whether all tokens of a word have a tag, or its first"),
        "crf": Option(False, "a conditional random field: tags that depend on their neighbours"),
    }  # fmt: skip

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        if len(config.id2label) < 2:
            raise ValueError(
                f"id2label={config.id2label!r}: a tagger needs two tags or more; give "
                "from_pretrained(..., id2label=(...)) the names in index order"
            )
        super().__init__(config, tokenizer, dtype, **kwargs)
        self.scheme = self.scheme_of(config, config.id2label)
        self.rules = tagging.legal(config.id2label, self.scheme)
        C = len(config.id2label)
        self.score = Projection(config, C, True, dtype=self.dtype_policy, name="score")
        self.score.build((None, config.hidden_size))
        self.crf = None
        if self.is_ours:
            self.crf = crf.Transitions(config, C, dtype="float32", name="crf")
            self.crf.build()
        self.built = True

    @property
    def is_ours(self):
        return self.option(self.config, "crf")

    def call(self, token_ids, padding_mask=None, token_type_ids=None, training=False):
        """Logits of the tags.

        Args:
          token_ids: (B, T) int.
          padding_mask: (B, T) bool, False on padding (left or right); None when all are real.
          token_type_ids: as of `GPTBackbone.call`.
        """
        hidden = self.backbone(
            token_ids, None, padding_mask, token_type_ids=token_type_ids, training=training
        )
        return ops.cast(self.score(hidden), "float32")

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Texts and the tags of their tokens; a text longer than `max_length` loses its end."""
        separator = cls.option(config, "word_separator")
        given = (tag for record in records for tag in _tags(record))
        scheme = cls.scheme_of(config, config.id2label or given)
        skipped = LeftOut()
        tagged = tagged_text.read(records, separator, scheme, skipped)
        if not tagged:
            raise _nothing(records, skipped)
        names = config.id2label or tagging.names((t.label for r in tagged for t in r.spans), scheme)
        names = label_names((), names)
        rows = preprocessing.encode_all(
            [row.text for row in tagged],
            tokenizer,
            max_length,
            preprocessing.filler(config),
            with_offsets=True,
        )
        tags, is_good = tagged_text.align(
            tagged, rows, names, scheme, cls.option(config, "label_all_tokens")
        )
        for i in np.flatnonzero(~is_good):
            skipped.add("a word without a token of its own", tagged[i].record)
        kept = np.flatnonzero(is_good)
        lengths = np.diff(rows.row_splits)
        of_kept = np.repeat(is_good, lengths)
        if not len(kept):
            raise _nothing(records, skipped)
        return Examples(
            rows.values[of_kept],
            np.concatenate([[0], np.cumsum(lengths[kept])]),
            {"weight": np.ones(len(kept), np.float32)},
            np.array([tagged[i].record_id for i in kept], np.int32),
            records,
            token_targets={"tag": tags[of_kept]},
            labels=names,
            num_truncated=rows.num_truncated,
            skipped=skipped,
        )

    @classmethod
    def labels_in(cls, record, config):
        if "text" not in record:
            return _tags(record)
        if (scheme := cls.scheme_of(config, config.id2label)) is None:
            return ()
        # Of a label that training has seen there are all tags.
        return [f"{scheme.begin}-{x.label}" for x in tagged_text.entities_of(record)]

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy of tags, or with a CRF of all the tags of a text together.

        `tag` (B, T) int32 of the batch is 0 for a token without one, else one more than its index.
        `outputs` (B, T) are the tags found, those of the tokens that have one first.
        """
        logits = ops.cast(self.score(self.backbone.final_norm(features)), "float32")  # (B, T, C)
        tags = batch["tag"]
        logits, tags, lengths = _compress(tags > 0, logits, tags)
        weights = ops.cast(tags > 0, "float32") * batch["weight"][:, None]  # (B, T)
        targets = ops.maximum(tags - 1, 0)
        if self.crf is None:
            C = len(self.config.id2label)
            total, terms = cross_entropy(
                ops.reshape(logits, (-1, C)),
                ops.reshape(targets, (-1,)),
                ops.reshape(weights, (-1,)),
                regularizers,
            )
            terms = ops.sum(ops.reshape(terms, ops.shape(weights)), axis=1)  # (B,)
        else:
            terms = self.crf.losses_of(logits, targets, lengths) * batch["weight"]
            total = ops.sum(terms)
        found = ops.cast(self.best_tags(logits, lengths), "float32")
        sizes = ops.sum(weights, axis=1)
        return Loss(total, ops.sum(sizes), found, ops.stack([terms, sizes], axis=1))

    def best_tags(self, logits, lengths):
        """(B, T) int32: the best legal tags of (B, T, C) logits of `lengths` (B,) words each."""
        moves, first, last = map(
            crf.log_scores, (self.rules.moves, self.rules.first, self.rules.last)
        )
        if self.crf is not None:
            moves, first, last = (
                moves + self.crf.moves,
                first + self.crf.first,
                last + self.crf.last,
            )
        return crf.best_path(logits, lengths, moves, first, last)

    @classmethod
    def scheme_of(cls, config, tags) -> tagging.Scheme | None:
        """The scheme that the option says, or that these tags are of."""
        name = cls.option(config, "tagging_scheme")
        return tagging.scheme_of(tags) if name == "auto" else tagging.SCHEMES[name]

    def new_metrics(self, source=None):
        return metrics.TaggingMetrics(self.config.id2label, self.scheme)

    def signatures(self):
        self.require_tokenizer()
        example = {"texts": "Ada Lovelace lived in London."}
        return {"tag": Served(self.tag, {"texts": "text"}, example)}

    def tag(self, texts):
        """Spans of texts; works in a `tf.function` too.

        Args:
          texts: (B,) string. One longer than the model's context loses its end.

        Returns:
          dict of (B, n), n the most spans that a text has, with "" and -1 behind the others:
          `labels`, `texts` string; `starts`, `ends` (characters), `byte_starts`, `byte_ends` int32;
          `scores` float32, the mean probability of the tags of the words; and `num_spans` (B,).

        Raises:
          ValueError: the model has no tokenizer.
        """
        texts = tf.convert_to_tensor(texts)
        config, filler = self.config, preprocessing.filler(self.config)
        encoded = preprocessing.encode(
            texts, self.require_tokenizer(), config.max_position_embeddings, filler,
            with_offsets=True,
        )  # fmt: skip
        padded = preprocessing.pad(encoded.tokens, filler)
        T = tf.shape(padded.token_ids)[1]

        def logits_of(**some):
            logits = self(**some)  # (b, t, C)
            return [tf.pad(logits, [[0, 0], [0, T - tf.shape(logits)[1]], [0, 0]])]

        batch = {"token_ids": padded.token_ids, "padding_mask": padded.padding_mask}
        empty = tf.zeros([0, T, len(config.id2label)])
        (logits,) = pieces.map_batch(logits_of, batch, [empty])  # (B, T, C)
        places = encoded.offsets[:2]
        if self.option(config, "label_all_tokens"):
            is_word = words.apart(*places)
            starts, ends = (tf.ragged.boolean_mask(x, x.with_values(is_word)) for x in places)
        else:
            split = words.split(texts, self.option(config, "word_separator"))
            word_ids, token_ids = words.first_tokens(split, places)
            is_word = word_ids.values >= 0
            starts, ends = (tf.ragged.boolean_mask(x, token_ids >= 0) for x in split)
        is_word = encoded.tokens.with_values(tf.cast(is_word, tf.int32)).to_tensor(0)
        is_word = preprocessing.at_least_one_column(is_word, 0) > 0  # (B, T)
        logits, lengths = _compress(is_word, logits)
        tags = self.best_tags(logits, lengths)  # (B, T)
        scores = tf.gather(ops.softmax(logits), tags, batch_dims=2)
        real = tf.sequence_mask(lengths, tf.shape(tags)[1])
        tags, scores = (tf.boolean_mask(x, real) for x in (tags, scores))  # (w,), of all words
        return self._spans(texts, tags, scores, starts, ends)

    def _spans(self, texts, tags, scores, starts, ends):
        """What `tag` returns, of (w,) tags and scores of words at ragged `starts` to `ends`."""
        inside = tf.squeeze(tf.where(tf.gather(self.rules.inside, tags)), 1)
        rows = tf.gather(starts.value_rowids(), inside)
        tags, scores = tf.gather(tags, inside), tf.gather(scores, inside)
        begins = tf.gather(self.rules.begins, tags)
        spans = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # (w,), the span of each word
        at = tf.squeeze(tf.where(begins), 1)
        rows, labels = tf.gather(rows, at), tf.gather(tags, at)
        labels = tf.gather(self.rules.labels, tf.gather(self.rules.label_ids, labels))
        splits = ragged.row_splits(rows, tf.size(texts, tf.int64))
        count = tf.size(at)
        sizes = tf.math.unsorted_segment_sum(tf.ones_like(scores), spans, count)
        scores = tf.math.unsorted_segment_sum(scores, spans, count) / sizes

        def of_rows(values):
            values = tf.ensure_shape(values, [None])
            return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

        starts = of_rows(tf.gather(tf.gather(starts.values, inside), at))
        ends = of_rows(tf.math.unsorted_segment_max(tf.gather(ends.values, inside), spans, count))
        covered = tf.strings.substr(
            tf.gather(texts, rows), starts.values, ends.values - starts.values
        )
        found = {
            "labels": of_rows(labels),
            "texts": of_rows(utf8.replace_invalid(covered)),
            "starts": utf8.char_positions(texts, starts),
            "ends": utf8.char_positions(texts, ends),
            "byte_starts": starts,
            "byte_ends": ends,
            "scores": of_rows(scores),
        }
        dense = {
            name: value.to_tensor("" if value.dtype == tf.string else -1)
            for name, value in found.items()
        }
        return {**dense, "num_spans": tf.cast(starts.row_lengths(), tf.int32)}


def _nothing(records, skipped) -> ValueError:
    """The error where all records are left out."""
    return ValueError(
        f"{records[0]['where']}: neither this nor another of {len(records)} records can be "
        f"learned: {skipped.reasons()}; mend the records"
    )


def _tags(record):
    """The tags that a record names, as far as it is in order."""
    tags = record.get("tags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _compress(chosen, *values):
    """(B, T, ...) values, those that are chosen, (B, T) bool, first; and how many these are."""
    order = ops.argsort(ops.cast(ops.logical_not(chosen), "int32"), axis=1)  # (B, T), stable
    lengths = ops.sum(ops.cast(chosen, "int32"), axis=1)  # (B,)
    return *(tf.gather(x, order, batch_dims=1) for x in values), lengths
