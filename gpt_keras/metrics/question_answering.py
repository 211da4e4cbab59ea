"""Metrics of answers that stand in a context, by SQuAD's rules."""

import collections
import re
import string

import numpy as np

from gpt_keras.metrics.metrics import Metrics

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Chinese characters, and the punctuation of Chinese texts.
_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]")
_CHINESE_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】「」『』—…·～")


def is_answered(score, null, threshold: float):
    """Whether the best answer of score `score` is given, and not none, whose score is `null`."""
    return null - score <= threshold


class QuestionAnsweringMetrics(Metrics):
    """Loss, exact match and F1; the last two also of questions with an answer and without.

    Rajpurkar et al., 2016 (https://arxiv.org/abs/1606.05250) and 2018
    (https://arxiv.org/abs/1806.03822): case, articles, punctuation and blanks do not count, and the
    best of several right answers does. A sample is a question, whose windows come together here.

    Args:
      examples: the questions, see `tasks.examples`.
      answers_of: gives the right answers of a record, tuples that begin with the text.
      threshold: see `is_answered`.
      unit: what F1 counts: "word", or "character": Chinese characters are words.
    """

    KEY, HIGHER_IS_BETTER = "f1", True

    def __init__(self, examples=None, answers_of=None, threshold: float = 0.0, unit: str = "word"):
        super().__init__()
        self.examples, self.answers_of = examples, answers_of
        self.threshold, self.unit = threshold, unit
        self._questions = None

    def update(self, batch, loss) -> None:
        self.collect(batch, [loss.outputs, loss.rows])
        self._questions = None

    @property
    def questions(self) -> np.ndarray:
        """(n, 5): loss, its weight, exact match, F1, and whether there is an answer."""
        if self._questions is None:
            windows = collections.defaultdict(list)
            for row in self.samples:
                windows[int(self.examples.record_ids[int(row[-1])])].append(row)
            rows = [self._question(i, np.array(some)) for i, some in sorted(windows.items())]
            self._questions = np.array(rows).reshape(-1, 5)
        return self._questions

    def _question(self, record_id: int, windows: np.ndarray) -> list[float]:
        record = self.examples.records[record_id]
        best = windows[windows[:, 0].argmax()]
        found = ""
        if is_answered(best[0], windows[:, 3].min(), self.threshold):
            found = record["context"].encode()[int(best[1]) : int(best[2])].decode(errors="replace")
        right = [text for text, *_ in self.answers_of(record) if words_of(text, self.unit)]
        loss, weight = windows[:, 4:6].sum(axis=0)
        scores = [scores_of(found, text, self.unit) for text in right or [""]]
        return [loss, weight, *np.max(scores, axis=0), bool(right)]

    @property
    def num_samples(self) -> int:
        return len(self.questions)

    def score(self, samples=None) -> dict[str, float]:
        chosen = self.questions if samples is None else self.questions[samples]
        loss, weight = chosen[:, :2].sum(axis=0).tolist()
        exact, f1 = chosen[:, 2:4].mean(axis=0).tolist()
        return {"loss": loss / max(weight, 1e-9), "exact_match": exact, "f1": f1}

    def details(self) -> dict:
        """`result`, and the scores of questions with an answer and without, if there are some."""
        details = self.result()
        for name, there in (("answerable", 1), ("unanswerable", 0)):
            some = self.questions[self.questions[:, 4] == there]
            if len(some):
                exact, f1 = some[:, 2:4].mean(axis=0).tolist()
                details[name] = {"exact_match": exact, "f1": f1, "questions": len(some)}
        return details

    def report(self) -> str:
        details = self.details()
        lines = [super().report()]
        for name in ("answerable", "unanswerable"):
            if name in details:
                part = details[name]
                lines.append(
                    f"{part['questions']:,} {name}: exact match {part['exact_match']:.3f}, F1 "
                    f"{part['f1']:.3f}"
                )
        return "\n".join(lines)


def scores_of(found: str, right: str, unit: str = "word") -> tuple[float, float]:
    """Exact match and F1 of an answer; "" is none."""
    ours, theirs = words_of(found, unit), words_of(right, unit)
    exact = float(ours == theirs)
    if not ours or not theirs:
        return exact, exact
    shared = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return exact, 2 * shared / (len(ours) + len(theirs))


def words_of(text: str, unit: str = "word") -> list[str]:
    """What of an answer counts."""
    text = text.lower().translate(_PUNCTUATION)
    if unit == "character":
        text = _CHINESE.sub(r" \g<0> ", text.translate(_CHINESE_PUNCTUATION))
    return _ARTICLES.sub(" ", text).split()
