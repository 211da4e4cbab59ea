"""Metrics of a search: where the right documents stand among all."""

from collections.abc import Callable

import numpy as np

from gpt_keras.metrics.metrics import Metrics

CUTOFFS = (1, 5, 10)
DEPTH = 10  # of NDCG
CHUNK = 256  # queries at once


class RankingMetrics(Metrics):
    """Loss, MRR, recall at 1, 5 and 10, NDCG at 10, of every query against all documents there are.

    A document is a distinct text, positive or negative of any query; right are the positives of all
    records with the same query. Of equal scores the wrong ones come first. MRR is the mean of one
    over the place of the first right document, recall the share of the right ones among the first.
    A sample is a record; the loss, of the batch's documents alone, depends on the batch.
    """

    KEY, HIGHER_IS_BETTER = "mrr", True

    def __init__(self):
        super().__init__()
        self._known: tuple[int, np.ndarray] | None = None  # rows seen, and what `_seen` gave

    def update(self, batch, loss) -> None:
        columns = [batch[name] for name in ("query", "document", "relevant", "weight")]
        self.collect(batch, [*columns, loss.rows, loss.outputs])

    @property
    def num_samples(self) -> int:
        return len(self._seen)

    @property
    def _seen(self) -> np.ndarray:
        """(n, 7) of each record: its numbers, loss and weight; kept for a bootstrap."""
        rows = super().num_samples
        if self._known is None or self._known[0] != rows:
            self._known = rows, self._measure() if rows else np.zeros((0, 7))
        return self._known[1]

    def _measure(self) -> np.ndarray:
        samples = self.samples[self.samples[:, 3] > 0]
        query, document, relevant = samples[:, :3].astype(np.int64).T
        losses, vectors = samples[:, 4:6], samples[:, 6:-1]
        asks = document < 0
        _, firsts, documents = np.unique(document[~asks], return_index=True, return_inverse=True)
        corpus = vectors[~asks][firsts]  # (N, D), a row of each distinct text
        right: dict[int, set[int]] = {}
        for asked, found, is_right in zip(
            query[~asks], documents.reshape(-1), relevant[~asks], strict=True
        ):
            if is_right:
                right.setdefault(asked, set()).add(found)

        def scores(rows):
            return vectors[asks][rows] @ corpus.T

        answers = [sorted(right[asked]) for asked in query[asks]]
        return np.column_stack([measure(scores, answers), losses[asks]])

    def score(self, samples=None) -> dict[str, float]:
        rows = self._seen if samples is None else self._seen[samples]
        *numbers, total, weight = rows.sum(axis=0).tolist()
        names = ("mrr", *(f"recall@{k}" for k in CUTOFFS), f"ndcg@{DEPTH}")
        n = max(len(rows), 1)
        return {
            "loss": total / max(weight, 1e-9),
            **{name: number / n for name, number in zip(names, numbers, strict=True)},
        }

    def details(self) -> dict:
        """`result`, and how many documents each query was ranked against."""
        documents = np.unique(self.samples[:, 1]) if self.num_samples else np.zeros(0)
        count = {"queries": self.num_samples, "documents": int(np.sum(documents >= 0))}
        return {**self.result(), **count}

    def report(self) -> str:
        details = self.details()
        return (
            f"{super().report()}\n{details['queries']:,} queries, each against "
            f"{details['documents']:,} documents"
        )


def measure(scores: Callable[[slice], np.ndarray], answers) -> np.ndarray:
    """Reciprocal rank, recall at `CUTOFFS` and NDCG at `DEPTH` of each query, (n, 5).

    Args:
      scores: slice of the queries -> (q, N), how well each document answers.
      answers: of each query the numbers of the documents that are right, one or more.
    """
    found = []
    for start in range(0, len(answers), CHUNK):
        rows = slice(start, start + CHUNK)
        found += [_of_query(*pair) for pair in zip(scores(rows), answers[rows], strict=True)]
    return np.array(found).reshape(-1, 2 + len(CUTOFFS))


def _of_query(scores: np.ndarray, answers) -> list[float]:
    right = np.sort(scores[answers])[::-1]
    wrong = np.delete(scores, answers)
    ahead = np.sum(wrong >= right[:, None], axis=1)  # as good or better
    places = ahead + np.arange(len(right))  # from 0
    gains = 1 / np.log2(np.arange(DEPTH) + 2)
    gained = gains[places[places < DEPTH]].sum() / gains[: len(right)].sum()
    recalls = [float(np.mean(places < k)) for k in CUTOFFS]
    return [1 / (1 + places[0]), *recalls, gained]
