"""What extractive question answering has to beat: the sentence that shares the most words.

    python -m examples.overlap_baseline --eval_data=data/passages/test.jsonl

Of each question the sentence of the context that has the most of its words, rare ones counting more
(by inverse frequency in the contexts); and of that sentence the longest run of words that the
question has not. It always answers. (After the sliding window of Richardson et al., 2013.) Prints
exact match and F1 by SQuAD's rules, and beside them what never answering gives.
"""

import collections
import itertools
import math
import re

import numpy as np
from absl import flags as absl_flags

from gpt_keras.metrics.question_answering import scores_of
from gpt_keras.tasks import QuestionAnswerer
from gpt_keras.tasks.question_answerer import answers_of
from trainers import args
from trainers.records import read_records

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")
_WORD = re.compile(r"\w+|[^\w\s]")
_FUNCTION_WORDS = {
    "a", "an", "the", "is", "was", "were", "of", "in", "as", "to", "and", "at", "had", "has", "s",
    "does", "did",
}  # fmt: skip


def baseline_flags(flags: args.FlagValues) -> None:
    """Baseline."""
    absl_flags.DEFINE_string("eval_data", None, "files to evaluate on", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if not flags.eval_data:
        raise args.UsageError("--eval_data is missing")
    (columns,) = QuestionAnswerer.columns
    records = read_records(flags.eval_data, dict(zip(columns, columns, strict=True)))
    weights = inverse_frequencies({record["context"] for record in records})
    rows = {"word overlap": [], "never an answer": []}
    for record in records:
        right = [text for text, *_ in answers_of(record) or []] or [""]
        guess = answer(record["question"], record["context"], weights)
        for name, found in (("word overlap", guess), ("never an answer", "")):
            rows[name].append(np.max([scores_of(found, text) for text in right], axis=0))
    print(f"{'':18}{'exact match':>13}{'F1':>9}")
    for name, scores in rows.items():
        exact, f1 = np.mean(scores, axis=0)
        print(f"{name:18}{exact:>13.3f}{f1:>9.3f}")


def inverse_frequencies(contexts) -> dict[str, float]:
    """Word -> logarithm of the share of contexts that have it, with the sign turned."""
    counts = collections.Counter(word for context in contexts for word in set(_words(context)))
    return {word: math.log((1 + len(contexts)) / n) for word, n in counts.items()}


def answer(question: str, context: str, weights: dict[str, float]) -> str:
    """The longest run of other words in the sentence that shares the most with the question."""
    asked = set(_words(question))
    sentence = max(
        _SENTENCE.split(context),
        key=lambda text: sum(weights.get(word, 0.0) for word in asked & set(_words(text))),
    )
    words = list(_WORD.finditer(sentence))
    runs = [
        list(run)
        for other, run in itertools.groupby(
            words,
            lambda word: word[0].isalnum() and word[0].lower() not in asked | _FUNCTION_WORDS,
        )
        if other
    ]
    run = max(runs, key=len, default=[])
    return sentence[run[0].start() : run[-1].end()] if run else ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


if __name__ == "__main__":
    args.run(main, [baseline_flags])
