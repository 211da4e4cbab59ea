"""QuestionAnswerer: the piece of a context that answers a question, or none."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import metrics, pieces, preprocessing, windows
from gpt_keras.layers import Projection
from gpt_keras.losses import IMPOSSIBLE, PLAIN, Loss, cross_entropy_among
from gpt_keras.metrics.question_answering import is_answered
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import text_of
from gpt_keras.tasks.text_task import Option, Served, TextTask
from gpt_keras.tokenizers import utf8


class Spans(NamedTuple):
    """The best answer of each window, (W,).

    Attributes:
      score: float32, sum of the logits of its first and last token; far below 0 if there is none.
      start, end: int32, where it stands in the context, in bytes.
      null: float32, the score of no answer.
    """

    score: tf.Tensor
    start: tf.Tensor
    end: tf.Tensor
    null: tf.Tensor


class QuestionAnswerer(TextTask):
    """Extractive question answering: token ids (B, T) int -> logits (B, T, 2) float32.

    As `BertForQuestionAnswering` of Hugging Face: how well an answer begins and ends at each token
    of a window, which is the question and a piece of its context (`windows`). No answer is to begin
    and end at the token that sees all: the first of an encoder, the last of a causal model.
    """

    NAME, PIPELINE_TAG = "extractive_qa", "question-answering"
    METRICS = metrics.QuestionAnsweringMetrics
    columns = (("question", "context", "answers"),)
    answers = ("answers",)
    options: ClassVar[Mapping[str, Option]] = {
        "window_length": Option(
            384, "tokens of a window, a question and a piece of its context: no more than "
            "--max_length or the model's context",
            low=1,
        ),
        "doc_stride": Option(128, "tokens from one piece of a context to the next", low=1),
        "max_answer_length": Option(30, "tokens of the longest answer", low=1),
        "null_threshold": Option(
            0.0, "how much better no answer has to be than the best one, in logits"
        ),
        "answer_unit": Option(
            "word", "what F1 counts; character: each Chinese character", ("word", "character")
        ),
    }  # fmt: skip

    def __init__(self, config, tokenizer=None, dtype=None, **kwargs):
        super().__init__(config, tokenizer, dtype, **kwargs)
        for name in self.options:
            self.option(config, name)  # refused now if out of range, not at the first text
        self.score = Projection(config, 2, True, dtype=self.dtype_policy, name="score")
        self.score.build((None, config.hidden_size))
        self.built = True

    def call(self, token_ids, padding_mask=None, token_type_ids=None, training=False):
        """Logits of the first and the last token of an answer.

        Args:
          token_ids: (B, T) int.
          padding_mask: (B, T) bool, False on padding; None when all are real.
          token_type_ids: as of `GPTBackbone.call`.
        """
        hidden = self.backbone(
            token_ids, None, padding_mask, token_type_ids=token_type_ids, training=training
        )
        return ops.cast(self.score(hidden), "float32")

    @classmethod
    def length_of(cls, config) -> int:
        """Tokens of a window."""
        return min(cls.option(config, "window_length"), config.max_position_embeddings)

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """Windows with the first and the last token of the answer; those without it have none.

        Of several answers the first is learned. A record whose answer is in none of its windows as
        a whole has weight 0.
        """
        length = cls.length_of(config)
        if max_length < length:
            raise ValueError(
                f"--max_length={max_length} is less than a window, --window_length={length}: give "
                "as many, or shorter windows"
            )
        found = [answers_of(record) for record in records]
        kept = [i for i, answers in enumerate(found) if answers is not None]
        skipped = LeftOut()
        for record, answers in zip(records, found, strict=True):
            if answers is None:
                skipped.add("an answer that is not in its context", record)
        if not kept:
            raise ValueError(
                f"{records[0]['where']}: nothing is left of {len(records)} questions: "
                f"{skipped.reasons()}"
            )
        values, types, starts, ends, sizes, rows = windows.split_all(
            [text_of(records[i], "question") for i in kept],
            [text_of(records[i], "context") for i in kept],
            tokenizer,
            length,
            cls.option(config, "doc_stride"),
        )
        splits = np.cumsum([0, *sizes])
        null = sizes - 1 if config.causal else np.zeros_like(sizes)
        spans = np.stack([null, null], axis=1).astype(np.int32)  # (W, 2)
        is_there = np.array([not found[i] for i in kept])  # or there is no answer
        for window, row in enumerate(rows):
            if answers := found[kept[row]]:
                here = slice(splits[window], splits[window + 1])
                span = _tokens_of(answers[0], starts[here], ends[here])
                if span is not None:
                    spans[window], is_there[row] = span, True
        types = {"token_type_ids": types} if config.token_types else {}
        return Examples(
            values,
            splits,
            {
                "start": spans[:, 0],
                "end": spans[:, 1],
                "weight": is_there[rows].astype(np.float32),
            },
            np.array(kept, np.int32)[rows],
            records,
            token_targets={"byte_start": starts, "byte_end": ends, **types},
            skipped=skipped,
        )

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """The mean of the cross-entropies of first and last token, among those of the context.

        Args:
          batch: `start`, `end` (B,) int32, tokens; `byte_start`, `byte_end` (B, T) int32, where the
            tokens stand in the context, the same for those that are not of it; `weight` (B,).

        Returns:
          The loss, with the columns of `Spans` (B, 4) as `outputs`.
        """
        logits = ops.cast(self.score(self.backbone.final_norm(features)), "float32")  # (B, T, 2)
        starts, ends = batch["byte_start"], batch["byte_end"]
        null = self._null(batch["padding_mask"])  # (B,)
        possible = (ends > starts) | (
            ops.arange(ops.shape(starts)[1], dtype="int32") == null[:, None]
        )  # (B, T)
        half = batch["weight"] / 2
        parts = [
            cross_entropy_among(possible, logits[..., i], batch[name], half, regularizers)
            for i, name in enumerate(("start", "end"))
        ]
        total, terms = (sum(part) for part in zip(*parts, strict=True))
        spans = self.best_spans(logits, starts, ends, null)
        outputs = ops.stack([ops.cast(x, "float32") for x in spans], axis=1)  # (B, 4)
        rows = ops.stack([terms, batch["weight"]], axis=1)
        return Loss(total, ops.sum(batch["weight"]), outputs, rows)

    def best_spans(self, logits, starts, ends, null) -> Spans:
        """The best answer of each window that is not too long.

        Args:
          logits: (B, T, 2) float32.
          starts, ends: (B, T) int32, bytes; the same for tokens that are not of the context.
          null: (B,) int32, the token of no answer.
        """
        T, L = ops.shape(starts)[1], self.option(self.config, "max_answer_length")
        first, last = (
            ops.where(ends > starts, logits[..., i], IMPOSSIBLE) for i in range(2)
        )  # (B, T)
        last = ops.pad(last, [[0, 0], [0, L - 1]], constant_values=IMPOSSIBLE)
        reach = ops.arange(T, dtype="int32")[:, None] + ops.arange(
            L
        )  # (T, L), last tokens of each first one
        sums = first[..., None] + tf.gather(last, reach, axis=1)  # (B, T, L)
        sums = ops.reshape(sums, (-1, T * L))
        best = ops.cast(ops.argmax(sums, axis=1), "int32")  # (B,)
        at, to = best // L, ops.minimum(best // L + best % L, T - 1)
        return Spans(
            ops.max(sums, axis=1),
            tf.gather(starts, at, batch_dims=1),
            tf.gather(ends, to, batch_dims=1),
            ops.sum(tf.gather(logits, null, batch_dims=1), axis=1),
        )

    def _null(self, padding_mask):
        """(B,) int32: the token of no answer, of windows padded on the right."""
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
        return lengths - 1 if self.config.causal else ops.zeros_like(lengths)

    def new_metrics(self, source=None):
        threshold, unit = (self.option(self.config, x) for x in ("null_threshold", "answer_unit"))
        examples = None if source is None else source.examples
        return metrics.QuestionAnsweringMetrics(examples, answers_of, threshold, unit)

    def signatures(self):
        self.require_tokenizer()
        example = {"questions": "Where does Ada live?", "contexts": "Ada lives in London."}
        inputs = {"questions": "question", "contexts": "context"}
        return {"answer": Served(self.answer, inputs, example)}

    def answer(self, questions, contexts):
        """Answers that stand in contexts of any length; works in a `tf.function` too.

        Args:
          questions, contexts: (B,) string.

        Returns:
          dict of (B,): `text` string, empty for no answer; `start`, `end` (characters),
          `byte_start`, `byte_end` int32, -1 for no answer; `score` float32, how probable the answer
          is beside none, or none beside the best answer.

        Raises:
          ValueError: the model has no tokenizer.
        """
        questions, contexts = tf.convert_to_tensor(questions), tf.convert_to_tensor(contexts)
        stride = self.option(self.config, "doc_stride")
        tokenizer, length = self.require_tokenizer(), self.length_of(self.config)
        split = windows.split(questions, contexts, tokenizer, length, stride)
        spans, rows, B = self._spans_of(split), split.rows, tf.size(contexts)
        score = tf.math.unsorted_segment_max(spans.score, rows, B)  # (B,)
        null = tf.math.unsorted_segment_min(spans.null, rows, B)
        W = tf.size(rows)
        winner = tf.where(spans.score >= tf.gather(score, rows), tf.range(W), W)
        winner = tf.math.unsorted_segment_min(winner, rows, B)  # the first window of the best
        answered = is_answered(score, null, self.option(self.config, "null_threshold"))
        places = [tf.where(answered, tf.gather(x, winner), 0) for x in (spans.start, spans.end)]
        text = utf8.replace_invalid(tf.strings.substr(contexts, places[0], places[1] - places[0]))
        chars = utf8.char_positions(contexts, tf.RaggedTensor.from_tensor(tf.stack(places, 1)))
        chars = tf.unstack(chars.to_tensor(shape=[None, 2]), axis=1)
        names = ("byte_start", "byte_end", "start", "end")
        found = dict(zip(names, (*places, *chars), strict=True))
        found = {name: tf.where(answered, value, -1) for name, value in found.items()}
        sure = tf.sigmoid(score - null)
        return {"text": text, **found, "score": tf.where(answered, sure, 1 - sure)}

    def _spans_of(self, split: windows.Windows) -> Spans:
        """The best answers of windows."""
        filler = preprocessing.filler(self.config)
        token_ids, lengths = preprocessing.pad(split.tokens, filler)
        dense = [token_ids, split.starts.to_tensor(), split.ends.to_tensor()]
        if self.config.token_types:
            dense.append(split.types.to_tensor())

        def best(rows, longest):
            ids, starts, ends, *types = (tf.gather(x, rows)[:, :longest] for x in dense)
            mask = tf.sequence_mask(tf.gather(lengths, rows), longest)
            logits = self(ids, padding_mask=mask, token_type_ids=types[0] if types else None)
            return self.best_spans(logits, starts, ends, self._null(mask))

        empty = [tf.zeros([0], x) for x in (tf.float32, tf.int32, tf.int32, tf.float32)]
        return Spans(*pieces.map_rows(best, lengths, empty))


def _tokens_of(answer, starts, ends) -> tuple[int, int] | None:
    """First and last token (t,) of an answer (text, start, end in bytes), None unless all of it."""
    real = np.flatnonzero(ends > starts)
    _, begin, end = answer
    if not len(real) or starts[real[0]] > begin or ends[real].max() < end:
        return None
    inside = real[(starts[real] < end) & (ends[real] > begin)]
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def answers_of(record: Mapping[str, Any]) -> list[tuple[str, int, int]] | None:
    """Texts of the right answers with start and end in the context, in bytes.

    As SQuAD has them: `{"text": [...], "answer_start": [...]}`, or a list of
    `{"text": ..., "answer_start": ...}`, or one of these; or a text, which is where it first stands
    in the context. Nothing is no answer.

    Returns:
      None if one is not where it should be.

    Raises:
      ValueError: they are something else; the message names file and line.
    """
    answers, context = record["answers"], text_of(record, "context")
    pairs = []
    for one in answers if isinstance(answers, list) else [answers] if answers else []:
        one = one if isinstance(one, dict) else {"text": one}
        texts, starts = one.get("text"), one.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            pairs += zip(texts, starts, strict=True)
        else:
            pairs.append((texts, starts))
    found = []
    for text, start in pairs:
        if not isinstance(text, str) or not isinstance(start, int | None) or not text.strip():
            raise ValueError(
                f"{record['where']}: answers must be as in SQuAD, such as "
                '{"text": ["London"], "answer_start": [13]} or [] for none, got '
                f"{answers!r:.200}"
            )
        start = context.find(text) if start is None else start
        if start < 0 or context[start : start + len(text)] != text:
            return None
        start += len(text) - len(text.lstrip())
        begin = len(context[:start].encode())
        found.append((text.strip(), begin, begin + len(text.strip().encode())))
    return found
