"""What a search by vectors has to beat: words that query and document have in common.

    python -m examples.search_baseline --eval_data=data/debian/test_small.jsonl

TF-IDF cosines and BM25 (Robertson & Zaragoza, 2009; k1 1.2, b 0.75), with the words weighted by the
documents that are searched, and the numbers that `trainers.evaluate --task=ranking` gives.
"""

import numpy as np
from absl import flags as absl_flags

from gpt_keras.metrics import ranking
from trainers import args
from trainers.records import read_records

K1, B = 1.2, 0.75


def baseline_flags(flags: args.FlagValues) -> None:
    """Baselines."""
    absl_flags.DEFINE_string("eval_data", None, "files to evaluate on", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if not flags.eval_data:
        raise args.UsageError("--eval_data is missing")
    records = read_records(flags.eval_data, {"query": "query", "positive": "positive"})
    documents = list(dict.fromkeys(record["positive"] for record in records))
    right: dict[str, set[int]] = {}
    for record in records:
        right.setdefault(record["query"], set()).add(documents.index(record["positive"]))
    queries = [record["query"] for record in records]
    answers = [sorted(right[query]) for query in queries]
    names = ("mrr", *(f"recall@{k}" for k in ranking.CUTOFFS), f"ndcg@{ranking.DEPTH}")
    print(f"{'':8}" + "".join(name.rjust(11) for name in names))
    for name, scores in (("TF-IDF", tfidf), ("BM25", bm25)):
        found = scores(queries, documents)
        numbers = ranking.measure(found.__getitem__, answers).mean(axis=0)
        print(f"{name:8}" + "".join(f"{number:11.3f}" for number in numbers))


def tfidf(queries: list[str], documents: list[str]) -> np.ndarray:
    """(Q, N) cosines of TF-IDF vectors with sublinear counts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    model = TfidfVectorizer(sublinear_tf=True)
    vectors = model.fit_transform(documents)
    return (model.transform(queries) @ vectors.T).toarray()


def bm25(queries: list[str], documents: list[str]) -> np.ndarray:
    """(Q, N) scores of BM25."""
    from sklearn.feature_extraction.text import CountVectorizer

    model = CountVectorizer()
    counts = model.fit_transform(documents).toarray().astype(np.float64)  # (N, W)
    lengths = counts.sum(axis=1, keepdims=True)
    found = (counts > 0).sum(axis=0)  # (W,) documents that have the word
    idf = np.log(1 + (len(documents) - found + 0.5) / (found + 0.5))
    weights = counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / lengths.mean())) * idf
    return model.transform(queries) @ weights.T


if __name__ == "__main__":
    args.run(main, [baseline_flags])
