"""MultipleChoice: which of some texts a language model finds the likeliest after a question."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from gpt_keras import metrics, preprocessing
from gpt_keras.losses import IMPOSSIBLE, PLAIN, Loss, cross_entropy_among
from gpt_keras.tasks.causal_lm import CausalLM
from gpt_keras.tasks.examples import Examples
from gpt_keras.tasks.left_out import LeftOut
from gpt_keras.tasks.records import text_of
from gpt_keras.tasks.text_task import Option, TextTask


class Chosen(NamedTuple):
    """Answers to questions.

    Attributes:
      index: of the likeliest choice of each question.
      scores: of its choices, see `MultipleChoice`.
    """

    index: list[int]
    scores: list[np.ndarray]


class MultipleChoice(CausalLM, TextTask):
    """A CausalLM that answers by the likelihood of each choice after the question.

    The score of a choice is the log-probability of its tokens, over their number, over its bytes or
    as it is. Any CausalLM can be asked; what is trained is one again, and a server asks it by
    `score`.

    The loss is the cross-entropy of a softmax over the scores of a question's choices: it trains
    what is measured, and learns of the wrong choices too (Liu et al., 2022,
    https://arxiv.org/abs/2205.05638, equation 3, "L_LN").

    Raises:
      ValueError: the backbone is another task's, without the language model's head.
    """

    NAME, PIPELINE_TAG = "multiple_choice", "multiple-choice"
    METRICS = metrics.MultipleChoiceMetrics
    columns = (("question", "choices", "answer"),)
    answers = ("answer",)
    options: ClassVar[Mapping[str, Option]] = {
        "length_normalization": Option(
            "token", "what the log-probability of a choice is divided by",
            ("token", "byte", "none"),
        ),
        "choice_separator": Option(
            " ", "text between question and choice, unless white space is there; part of the choice"
        ),
    }  # fmt: skip

    def __init__(self, config, tokenizer=None, dtype=None, backbone=None, **kwargs):
        if backbone is not None and not backbone.with_head:
            raise ValueError(
                "multiple_choice asks the language model's own head: train it alone, not beside "
                "other tasks"
            )
        super().__init__(config, tokenizer, dtype, backbone=backbone, **kwargs)

    @classmethod
    def examples(cls, records, tokenizer, config, max_length) -> Examples:
        """A row for each choice; those of a record are a group.

        Records with fewer choices than others are filled up with rows of weight 0. A question that
        is too long together with the longest of its choices loses its beginning.
        """
        choices = [_choices(record) for record in records]
        answers = [_index(*pair) for pair in zip(records, choices, strict=True)]
        asked = [text_of(record, "question") for record in records]
        questions = cls._questions(asked, choices, tokenizer, config, max_length)
        kept, skipped = [], LeftOut()
        for i, question in enumerate(questions):
            if question.room > 0:
                kept.append(i)
            else:
                reason = f"a choice without tokens or room in --max_length={max_length}"
                skipped.add(reason, records[i])
        if not kept:
            raise ValueError(
                f"{records[0]['where']}: nothing is left of {len(records)} questions: "
                f"{skipped.reasons()}"
            )
        group = max(len(questions[i].said) for i in kept)
        longest = max(len(said) for i in kept for said in questions[i].said)
        n = len(kept) * group
        tokens = [np.array([preprocessing.filler(config)], np.int32)] * n
        targets = {
            "said": np.zeros((n, longest), np.int32),
            "said_mask": np.zeros((n, longest), np.float32),
            "size": np.ones(n, np.float32),
            "answer": np.zeros((n, group), np.float32),
            "weight": np.zeros(n, np.float32),
        }
        for first, i in zip(range(0, n, group), kept, strict=True):
            question = questions[i]
            targets["answer"][first : first + group, answers[i]] = 1
            for row, (said, size) in enumerate(question.options, first):
                tokens[row] = np.array([*question.prompt, *said], np.int32)
                targets["said"][row, : len(said)] = said
                targets["said_mask"][row, : len(said)] = 1
                targets["size"][row], targets["weight"][row] = size, 1
        return Examples(
            np.concatenate(tokens),
            np.cumsum([0, *map(len, tokens)]),
            targets,
            np.repeat(np.array(kept, np.int32), group),
            records,
            group=group,
            num_truncated=sum(questions[i].truncated for i in kept),
            skipped=skipped,
        )

    @classmethod
    def _questions(cls, asked, choices, tokenizer, config, max_length) -> "list[_Question]":
        """Tokens of questions and of the choices of each."""
        said = [
            cls._completions(config, *pair) for pair in zip(asked, choices, strict=True)
        ]  # texts of each question
        said_ids = iter(_tokens([text for texts in said for text in texts], tokenizer))
        around = tokenizer.post_processor.single
        made = []
        for ids, texts in zip(_tokens(asked, tokenizer), said, strict=True):
            options = [next(said_ids) for _ in texts]
            sizes = cls._sizes(config, texts, list(map(len, options)))
            room = max_length - around.num_tokens - max(map(len, options))
            room = room if all(options) else 0
            prompt = [*around.prefix.ids, *ids[max(len(ids) - room, 0) :], *around.suffix.ids]
            prompt = prompt or [preprocessing.filler(config)]
            made.append(_Question(prompt, options, sizes, room, len(ids) > room))
        return made

    @classmethod
    def _completions(cls, config, question: str, choices) -> list[str]:
        """Choices with what is between them and the question."""
        separator = cls.option(config, "choice_separator")
        return [
            separator + choice if question[-1:].strip() and choice[:1].strip() else choice
            for choice in choices
        ]

    @classmethod
    def _sizes(cls, config, completions, num_tokens) -> list[int]:
        """What the log-probability of each of some choices is divided by."""
        unit = cls.option(config, "length_normalization")
        if unit == "byte":
            return [len(text.encode()) for text in completions]
        return list(num_tokens) if unit == "token" else [1] * len(completions)

    def batch_loss(self, batch, features, regularizers=PLAIN) -> Loss:
        """Cross-entropy over the scores of each question's choices.

        Args:
          batch: `said` (B, C) int32, the tokens of each choice, which are the last ones of the row;
            `said_mask` (B, C) float32, 0 behind them; `size` (B,) float32, what to divide by;
            `answer` (B, g) float32, which of its g choices is right, the same for all of a
            question; `weight` (B,) float32, 0 for a row that fills up.

        Returns:
          The loss, with the scores (B, 1) as `outputs`.

        Raises:
          ValueError: the rows are no multiple of g.
        """
        said, mask, answer = batch["said"], batch["said_mask"], batch["answer"]
        g, real = answer.shape[1], batch["weight"] > 0  # (B,)
        if features.shape[0] is not None and features.shape[0] % g:
            raise ValueError(
                f"{features.shape[0]} rows at once, and {g} choices belong together: make "
                f"global_batch_size a multiple of {g} x gradient_accumulation_steps x replicas"
            )
        scores = self._scores(batch["padding_mask"], said, mask, features)  # (B,)
        scores = ops.where(real, scores / ops.maximum(batch["size"], 1), IMPOSSIBLE)
        weights = batch["weight"][::g]  # (G,)
        total, terms = cross_entropy_among(
            ops.reshape(real, (-1, g)),
            ops.reshape(scores, (-1, g)),
            ops.argmax(answer[::g], axis=1),
            weights,
            regularizers,
        )
        # A question's loss stands at its first choice.
        rows = ops.stack([terms, weights], axis=1)[:, None]  # (G, 1, 2)
        rows = ops.reshape(ops.pad(rows, [[0, 0], [0, g - 1], [0, 0]]), (-1, 2))  # (B, 2)
        return Loss(total, ops.sum(weights), scores[:, None], rows)

    def _scores(self, padding_mask, said, mask, features):
        """Log-probability (B,) of the tokens `said` (B, C), the last real ones of each row."""
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)  # (B,)
        before = lengths - ops.cast(ops.sum(mask, axis=1), "int32") - 1
        at = before[:, None] + ops.arange(
            said.shape[1], dtype="int32"
        )  # (B, C), of the tokens before
        at = ops.clip(at, 0, ops.shape(features)[1] - 1)
        hidden = self.backbone.final_norm(tf.gather(features, at, batch_dims=1))  # (B, C, D)
        nats = ops.sparse_categorical_crossentropy(said, self.logits(hidden), from_logits=True)
        return -ops.sum(nats * mask, axis=1)

    def new_metrics(self, source=None):
        return metrics.MultipleChoiceMetrics()

    def choose(self, questions, choices) -> Chosen:
        """The likeliest of each question's choices.

        Args:
          questions: list of str.
          choices: a list of str for each.

        Raises:
          ValueError: as of `CausalLM.score`.
        """
        said = [
            self._completions(self.config, *pair) for pair in zip(questions, choices, strict=True)
        ]
        prompts = [question for question, texts in zip(questions, said, strict=True) for _ in texts]
        found = self.score(prompts, texts := [text for some in said for text in some])
        scores = found.logprob / self._sizes(self.config, texts, found.num_tokens)
        parts = np.split(scores, np.cumsum(list(map(len, said)))[:-1])
        return Chosen([int(np.argmax(part)) for part in parts], parts)

    def signatures(self):
        """None beside those of a CausalLM, of which it is one: `score`."""
        return {}


class _Question(NamedTuple):
    """A question as tokens.

    Attributes:
      prompt: ids of what stands before the choices.
      said: ids of each choice.
      sizes: what the log-probability of each is divided by.
      room: tokens that the question may have; below 1: it cannot be asked.
      truncated: it had more.
    """

    prompt: list[int]
    said: list[list[int]]
    sizes: list[int]
    room: int
    truncated: bool

    @property
    def options(self):
        return zip(self.said, self.sizes, strict=True)


def _tokens(texts, tokenizer) -> list[list[int]]:
    return [
        ids for chunk in preprocessing.chunks(texts) for ids in tokenizer.tokenize(chunk).to_list()
    ]


def _choices(record) -> list[str]:
    """The choices of a record. Raises ValueError unless they are two texts or more, all other."""
    choices = record["choices"]
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
        or len(set(choices)) < len(choices)
    ):
        raise ValueError(
            f"{record['where']}: choices must be a list of two or more different texts, "
            f"got {choices!r:.200}"
        )
    return choices


def _index(record, choices) -> int:
    """Which choice is right. Raises ValueError if the answer is none of them."""
    answer = record["answer"]
    if answer in choices:
        return choices.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise ValueError(
        f"{record['where']}: answer must be one of the choices {choices}, or its index from 0, "
        f"got {answer!r}"
    )
