"""Metrics of a search, and of cosines."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from gpt_keras.losses import Loss
from gpt_keras.metrics import RankingMetrics, SimilarityMetrics

N, DOCUMENTS = 40, 30
RNG = np.random.default_rng(0)
# Records of a query, a right document and a wrong one; queries and documents come again.
QUERY = RNG.integers(0, 25, N)
RIGHT, WRONG = RNG.integers(0, DOCUMENTS, (2, N))
QUERIES, CORPUS = (RNG.normal(size=(n, 4)) for n in (25, DOCUMENTS))


def collected(right=RIGHT, wrong=WRONG, corpus=CORPUS, with_wrong=True):
    """Batches of four records, in another order, the last of them filled up."""
    metrics = RankingMetrics()
    for records in np.array_split(RNG.permutation(N), 10):
        document = np.stack([np.full(4, -1), right[records], wrong[records]], axis=1)  # (4, 3)
        vectors = np.stack(
            [QUERIES[QUERY[records]], corpus[document[:, 1]], corpus[document[:, 2]]], 1
        )
        real = np.array([1, 1, with_wrong])
        batch = {
            "query": np.repeat(QUERY[records], 3), "document": document.reshape(-1),
            "relevant": np.tile([0, 1, 0], 4), "weight": np.tile(real, 4),
            "sample_id": (3 * records[:, None] + np.arange(3)).reshape(-1),
        }  # fmt: skip
        filler = {name: np.zeros(3, int) for name in batch} | {"sample_id": np.full(3, -1)}
        batch = {name: np.concatenate([value, filler[name]]) for name, value in batch.items()}
        rows = np.zeros((15, 2))
        rows[:12:3] = np.stack([records, np.ones(4)], axis=1)
        outputs = np.concatenate([vectors.reshape(12, 4), RNG.normal(size=(3, 4))])
        metrics.update(batch, Loss(0.0, 0.0, outputs, rows))
    return metrics


def by_hand(records, documents):
    """The numbers, one query after the other."""
    found = []
    for record in records:
        scores = CORPUS[documents] @ QUERIES[QUERY[record]]
        true = np.isin(documents, RIGHT[QUERY[record] == QUERY])
        hits = true[np.argsort(-scores)]
        recalls = [hits[:k].sum() / hits.sum() for k in (1, 5, 10)]
        found.append([1 / (1 + np.argmax(hits)), *recalls, ndcg_score([true], [scores], k=10)])
    names = ("mrr", "recall@1", "recall@5", "recall@10", "ndcg@10")
    loss = {"loss": np.mean(records)}
    return loss | dict(zip(names, np.mean(found, axis=0), strict=True))


def test_every_query_against_all_documents():
    metrics, documents = collected(), np.union1d(RIGHT, WRONG)
    assert metrics.num_samples == N
    assert metrics.result() == pytest.approx(by_hand(np.arange(N), documents))
    picks = RNG.integers(0, N, 60)
    assert metrics.score(picks) == pytest.approx(by_hand(picks, documents))
    details = metrics.details()
    assert (details["queries"], details["documents"]) == (N, len(documents))
    assert f"40 queries, each against {len(documents)} documents" in metrics.report()


def test_texts_of_weight_0_are_no_documents():
    found = collected(with_wrong=False).result()
    assert found == pytest.approx(by_hand(np.arange(N), np.unique(RIGHT)))


def test_a_model_that_says_the_same_of_all_finds_nothing():
    right, wrong = np.zeros(N, int), np.arange(N) % 20 + 1
    found = collected(right, wrong, np.ones((DOCUMENTS, 4))).result()
    assert found["mrr"] == pytest.approx(1 / 21)
    assert found["recall@10"] == found["ndcg@10"] == 0


def test_nothing_collected():
    assert RankingMetrics().num_samples == 0


def test_cosines_of_pairs():
    metrics, score, cosine = SimilarityMetrics(), RNG.random(20), RNG.random(20)
    for part in np.array_split(np.arange(20), 4):
        batch = {
            "score": np.repeat(score[part], 2),
            "sample_id": (2 * part[:, None] + np.arange(2)).reshape(-1),
        }
        rows = np.stack([(score - cosine)[part] ** 2, np.ones(len(part))], axis=1)
        rows = np.stack([rows, 0 * rows], axis=1).reshape(-1, 2)
        metrics.update(batch, Loss(0.0, 0.0, np.repeat(cosine[part], 2)[:, None], rows))
    assert metrics.num_samples == 20
    picks = RNG.integers(0, 20, 30)
    assert metrics.score(picks)["spearman"] == pytest.approx(
        spearmanr(score[picks], cosine[picks])[0]
    )
    assert metrics.result()["loss"] == pytest.approx(np.mean((score - cosine) ** 2))
    assert SimilarityMetrics.KEY in metrics.score(np.zeros(5, int))  # where all are equal
