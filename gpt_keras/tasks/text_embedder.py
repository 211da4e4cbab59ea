"""TextEmbedder: one vector for a whole text, such that texts that belong together lie close."""

import dataclasses
import os
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import checkpoint, metrics, pieces, preprocessing
from gpt_keras.layers import Projection
from gpt_keras.losses import PLAIN, Loss
from gpt_keras.pooling import SentenceEmbedding
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.records import number_of, text_of, texts_of
from gpt_keras.tasks.sequence_classifier import POOLING
from gpt_keras.tasks.text_task import Option, Served, TextTask

QUERY = -1  # in place of a document's number, where a query stands


class TextEmbedder(TextTask):
    """Embedder of texts: token ids (B, T) int -> embeddings (B, D) float32.

    What sentence-transformers (Reimers & Gurevych, 2019, https://arxiv.org/abs/1908.10084) computes
    with its modules Transformer, Pooling and Normalize. It learns from queries with their documents
    (InfoNCE: van den Oord et al., 2018, https://arxiv.org/abs/1807.03748; negatives of the batch:
    Henderson et al., 2017, https://arxiv.org/abs/1705.00652) or from pairs of texts with a score.

    Args:
      config, tokenizer, dtype: see `Task`.
      embedding: a `SentenceEmbedding`, how the tokens' vectors become one, the mean of them by
        default; `from_pretrained` reads it from `modules.json`. The options `pooling` and
        `normalize`, where the config has them, go before it.
    """

    NAME, PIPELINE_TAG = "embedding", "sentence-similarity"
    METRICS = metrics.RankingMetrics
    has_own_format = False
    aliases = ("ranking",)
    columns = (
        ("query", "positive", "negatives"), ("query", "positive"), ("text", "text_pair", "score"),
    )  # fmt: skip
    answers = ("positive", "negatives", "score")
    options: ClassVar = {
        "pooling": POOLING,
        "normalize": Option(
            False, "scale embeddings to length 1; unless given, as the model's directory says"
        ),
        "max_negatives": Option(
            4, "negatives of a record that are used, the first ones; 0: none", low=0
        ),
        "contrast_temperature": Option(
            0.05, "what cosines are divided by before the softmax over the batch's documents",
            low=1e-6,
        ),
    }  # fmt: skip
    is_bare = True

    def __init__(self, config, tokenizer=None, dtype=None, embedding=None, **kwargs):
        for name in self.options:
            self.option(config, name)  # refused now if out of range, not in training
        super().__init__(config, tokenizer, dtype, **kwargs)
        self._set_embedding(embedding or SentenceEmbedding())
        if config.pooler:
            # No embedding goes through it, but Hugging Face's checkpoints of the backbone have it.
            self.pooler = Projection(
                config, config.hidden_size, use_bias=True, dtype=self.dtype_policy, name="pooler"
            )
            self.pooler.build((None, config.hidden_size))
            self.pooler.trainable = False
        self.built = True

    def _set_embedding(self, embedding: SentenceEmbedding) -> None:
        """`embedding`, but for what the options say."""
        params = self.config.task_params.get(self.NAME, {})
        given = {
            name: params[name] for name in ("pooling", "normalize") if params.get(name, "") != ""
        }
        self.embedding = dataclasses.replace(embedding, **given)

    def read_settings(self, path: str) -> None:
        """Sets `embedding` to what `modules.json` says, but for what the options say."""
        self._set_embedding(checkpoint.read_sentence_embedding(path))
        # From here on `modules.json` says it, and nothing else.
        params = self.config.task_params.get(self.NAME, {})
        params = {k: v for k, v in params.items() if k not in ("pooling", "normalize")}
        self.config = self.config.replace(task_params={self.NAME: params} if params else {})

    @classmethod
    def longest(cls, path: str | os.PathLike) -> int:
        """As `TextTask.longest`; less where `sentence_bert_config.json` says so."""
        context, limit = super().longest(path), checkpoint.read_sentence_embedding(path).max_length
        return min(context, limit or context)

    def call(self, token_ids, padding_mask=None, token_type_ids=None, training=False):
        """Embeddings of texts.

        Args:
          token_ids: (B, T) int.
          padding_mask: (B, T) bool, False on padding (left or right); None when all are real.
          token_type_ids: as of `GPTBackbone.call`.
        """
        hidden = self.backbone(
            token_ids, None, padding_mask, token_type_ids=token_type_ids, training=training
        )
        return self.embedding(hidden, padding_mask)

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Rows of a record one after the other: query, positive, negatives; or text, text_pair.

        Records with fewer negatives than others have empty texts of weight 0 in their place.
        Records of one kind alone: all with a score, or none.
        """
        scored = "score" in records[0]
        for record in records:
            if ("score" in record) != scored:
                raise ValueError(
                    f"{record['where']}: queries with documents and pairs with a score cannot be "
                    "in the same data; give one kind"
                )
        if scored:
            return cls._scored(records, tokenizer, config, max_length)
        return cls._contrasted(records, tokenizer, config, max_length)

    @classmethod
    def _scored(cls, records, tokenizer, config, max_length) -> Examples:
        scores = np.array([number_of(record) for record in records], np.float32)
        for record, score in zip(records, scores, strict=True):
            if not 0 <= score <= 1:
                raise ValueError(
                    f"{record['where']}: score is {score:g}: expected 0 to 1, as a cosine is to be "
                    "(divide by the largest there is)"
                )
        texts = [text_of(record, name) for record in records for name in ("text", "text_pair")]
        weight = np.tile(np.float32([1, 0]), len(records))  # a pair counts once
        targets = {"score": np.repeat(scores, 2), "weight": weight}
        return cls._examples(records, texts, targets, 2, tokenizer, config, max_length)

    @classmethod
    def _contrasted(cls, records, tokenizer, config, max_length) -> Examples:
        most = cls.option(config, "max_negatives")
        negatives = [texts_of(record, "negatives")[:most] for record in records]
        group = 2 + max(map(len, negatives))
        queries, documents, texts, n = {}, {}, [], len(records)
        query = np.zeros((n, group), np.int32)
        document = np.full((n, group), QUERY, np.int32)
        weight = np.zeros((n, group), np.float32)
        for i, (record, wrong) in enumerate(zip(records, negatives, strict=True)):
            asked, row = text_of(record, "query"), [text_of(record, "positive"), *wrong]
            query[i] = queries.setdefault(asked, len(queries))
            document[i, 1:] = 0
            document[i, 1 : 1 + len(row)] = [documents.setdefault(t, len(documents)) for t in row]
            weight[i, : 1 + len(row)] = 1
            texts += [asked, *row, *[""] * (group - 1 - len(row))]
        relevant = np.tile(np.arange(group) == 1, n).astype(np.int32)
        targets = {
            "query": query.reshape(-1), "document": document.reshape(-1), "relevant": relevant,
            "weight": weight.reshape(-1),
        }  # fmt: skip
        return cls._examples(records, texts, targets, group, tokenizer, config, max_length)

    @classmethod
    def _examples(cls, records, texts, targets, group, tokenizer, config, max_length) -> Examples:
        rows = preprocessing.encode_all(texts, tokenizer, max_length, preprocessing.filler(config))
        return Examples(
            rows.values,
            rows.row_splits,
            targets,
            np.repeat(np.arange(len(records), dtype=np.int32), group),
            records,
            group=group,
            num_truncated=rows.num_truncated,
            counted={"num_truncated": f"{sum(map(bool, texts))} texts"},  # but for fillers
        )

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy of each query's document among those of the batch, or errors of cosines.

        The batch is what a replica has at once: its share of a micro-batch. `outputs` are the
        embeddings (B, D) of length 1; of pairs with a `score` the cosine (B, 1), in both rows.
        """
        if regularizers.label_smoothing or regularizers.z_loss:
            raise ValueError("--label_smoothing, --z_loss: of no use to embeddings; leave them out")
        hidden = self.backbone.final_norm(features)
        embeddings = unit(self.embedding(hidden, batch["padding_mask"]))  # (B, D)
        if "score" in batch:
            return _cosine_loss(embeddings, batch["score"], batch["weight"])
        temperature = self.option(self.config, "contrast_temperature")
        return _contrastive_loss(embeddings, batch, temperature)

    def new_metrics(self, source=None):
        if source is not None and "score" in source.examples.targets:
            return metrics.SimilarityMetrics()
        return metrics.RankingMetrics()

    def embed(self, texts):
        """Embeddings of texts; works in a `tf.function` too.

        The tokenizer's special tokens are put around each. A text longer than the embedding's
        `max_length`, or the model's context, loses its end.

        Args:
          texts: (B,) string.

        Returns:
          (B, D) float32.

        Raises:
          ValueError: the model has no tokenizer.
        """
        context, fill = self.config.max_position_embeddings, preprocessing.filler(self.config)
        length = min(self.embedding.max_length or context, context)
        tokens = preprocessing.encode(texts, self.require_tokenizer(), length, fill).tokens
        padded = preprocessing.pad(tokens, fill)
        batch = {"token_ids": padded.token_ids, "padding_mask": padded.padding_mask}
        empty = tf.zeros([0, self.config.hidden_size])
        return pieces.map_batch(lambda **some: [self(**some)], batch, [empty])[0]

    def rank(self, queries, documents):
        """How well each document answers the query beside it; works in a `tf.function` too.

        Args:
          queries, documents: (B,) string, as of `embed`.

        Returns:
          (B,) float32, the cosine of their embeddings.
        """
        embeddings = unit(self.embed(tf.concat([queries, documents], axis=0)))  # (2 B, D)
        first, second = tf.split(embeddings, 2)
        return tf.reduce_sum(first * second, axis=1)

    def signatures(self):
        self.require_tokenizer()

        def embed(texts):
            return {"embedding": self.embed(texts)}

        def rank(queries, documents):
            return {"score": self.rank(queries, documents)}

        query, document = "What is the capital of France?", "Paris is the capital of France."
        return {
            "embed": Served(embed, {"texts": "text"}, {"texts": "The weather is nice today."}),
            "rank": Served(
                rank,
                {"queries": "query", "documents": "document"},
                {"queries": query, "documents": document},
            ),
        }


def unit(vectors):
    """Vectors (..., D) float32 of length 1; 0 stays 0."""
    return tf.math.l2_normalize(vectors, -1, epsilon=1e-24)


def _contrastive_loss(embeddings, batch, temperature) -> Loss:
    """Cross-entropy of the document behind each query, whatever group they are in; see there."""
    document, weight = batch["document"], batch["weight"]
    own = ops.roll(document, -1)  # (B,) of a query: the document behind it, which answers it
    # What answers the same query, or is the same text, is no negative.
    same = (document[None] == own[:, None]) | (
        (batch["query"][None] == batch["query"][:, None]) & (batch["relevant"] > 0)[None]
    )
    B = ops.shape(document)[0]
    answer = (ops.arange(B) + 1) % B  # (B,) where it is
    is_answer = ops.arange(B)[None] == answer[:, None]  # (B, B)
    candidates = (document != QUERY) & (weight > 0)
    candidates = is_answer | (candidates[None] & ~same)  # (B, B) of each row
    logits = ops.matmul(embeddings, ops.transpose(embeddings)) / temperature
    logits = ops.where(candidates, logits, -1e9)
    losses = ops.sparse_categorical_crossentropy(answer, logits, from_logits=True)  # (B,)
    weights = ops.where(document == QUERY, weight, 0.0)
    rows = ops.stack([losses * weights, weights], axis=1)  # (B, 2)
    return Loss(ops.sum(rows[:, 0]), ops.sum(weights), embeddings, rows)


def _cosine_loss(embeddings, score, weights) -> Loss:
    """Squared error of the cosine of each row and the one behind it."""
    B, D = ops.shape(embeddings)
    pairs = ops.reshape(embeddings, (B // 2, 2, D))
    cosine = ops.repeat(ops.sum(pairs[:, 0] * pairs[:, 1], axis=-1), 2)  # (B,)
    losses = ops.square(cosine - score) * weights
    rows = ops.stack([losses, weights], axis=1)  # (B, 2)
    return Loss(ops.sum(losses), ops.sum(weights), cosine[:, None], rows)
