"""What a classifier has to beat: the majority class, and TF-IDF with logistic regression.

    python -m examples.tfidf_baseline \\
        --train_data=data/tweets/train.jsonl --eval_data=data/tweets/test.jsonl

Words and pairs of words, weighted by TF-IDF with sublinear counts, go into scikit-learn's
`LogisticRegression`. Prints accuracy, macro-F1 and a report by class; `--train_data` may be given
several times, which makes a row of the table each. With `--task=regression` it is ridge regression
and the mean of the training data, and what is printed are the errors. `--analyzer=char` takes
characters for words, as Chinese wants it. `--none_label=none` adds the micro-F1 of the others.
"""

from collections import Counter

from absl import flags as absl_flags

from trainers import args
from trainers.records import read_records


def baseline_flags(flags: args.FlagValues) -> None:
    """Baselines."""
    absl_flags.DEFINE_multi_string(
        "train_data", [], "files to train on; a baseline for each time given", flag_values=flags
    )
    absl_flags.DEFINE_string("eval_data", None, "files to evaluate on", flag_values=flags)
    absl_flags.DEFINE_string("text_column", "text", "column of the text", flag_values=flags)
    absl_flags.DEFINE_string("label_column", "label", "column of the label", flag_values=flags)
    absl_flags.DEFINE_string("score_column", "score", "column of the number", flag_values=flags)
    absl_flags.DEFINE_enum(
        "task", "classification", ["classification", "regression"], "what is learned",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "analyzer", "word", ["word", "char"], "what is counted, alone and in pairs",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "none_label", "", "the label of what has none, for a micro-F1 without it", flag_values=flags
    )
    absl_flags.DEFINE_float(
        "inverse_regularization", 4.0, "C of LogisticRegression", 0.0, flag_values=flags
    )


def main(flags: args.FlagValues) -> None:
    # Imported here: scikit-learn takes a second, and --help has no need of it.
    from sklearn.metrics import accuracy_score, classification_report, f1_score

    if not flags.train_data or not flags.eval_data:
        raise args.UsageError("--train_data and --eval_data: give both")
    if flags.task == "regression":
        _regression(flags)
        return
    eval_texts, truth = _read(flags.eval_data, flags)
    labels = sorted(set(truth))
    rows, report = [], ""
    for train_data in flags.train_data:
        texts, names = _read(train_data, flags)
        predictions = tfidf_predictions(
            texts, names, eval_texts, flags.inverse_regularization, flags.analyzer
        )
        guesses = {
            "majority class": [Counter(names).most_common(1)[0][0]] * len(truth),
            "TF-IDF + logistic regression": predictions,
        }
        for name, guess in guesses.items():
            macro_f1 = f1_score(truth, guess, labels=labels, average="macro", zero_division=0)
            rows.append((name, len(texts), accuracy_score(truth, guess), macro_f1))
        report = classification_report(truth, predictions, labels=labels, digits=3, zero_division=0)
    print(f"{'':30}{'trained on':>11}{'accuracy':>10}{'macro-F1':>10}")
    for name, count, accuracy, macro_f1 in rows:
        print(f"{name:30}{count:>11,}{accuracy:>10.3f}{macro_f1:>10.3f}")
    if flags.none_label:
        others = sorted({*truth, *predictions} - {flags.none_label})
        f1 = f1_score(truth, predictions, labels=others, average="micro", zero_division=0)
        print(f"\nmicro-F1 of the last without {flags.none_label}: {f1:.3f}")
    print(f"\nTF-IDF + logistic regression trained on {flags.train_data[-1]}:\n\n{report}")


def _regression(flags: args.FlagValues) -> None:
    import numpy as np
    from scipy.stats import spearmanr

    eval_texts, truth = _read(flags.eval_data, flags, flags.score_column)
    truth = np.array(truth, float)
    print(f"{'':30}{'trained on':>11}{'mse':>10}{'mae':>10}{'spearman':>10}")
    for train_data in flags.train_data:
        texts, scores = _read(train_data, flags, flags.score_column)
        scores = np.array(scores, float)
        said = ridge_predictions(texts, scores, eval_texts, flags.analyzer)
        mean = np.full(len(truth), scores.mean())
        for name, guess in (("mean", mean), ("TF-IDF + ridge regression", said)):
            errors, order = guess - truth, spearmanr(truth, guess)[0] if np.ptp(guess) else 0.0
            print(f"{name:30}{len(texts):>11,}{np.mean(errors**2):>10.3f}"
                  f"{np.mean(np.abs(errors)):>10.3f}{order:>10.3f}")  # fmt: skip


def tfidf_predictions(
    texts: list[str],
    labels: list[str],
    eval_texts: list[str],
    inverse_regularization: float = 4.0,
    analyzer: str = "word",
) -> list[str]:
    """Labels that TF-IDF (1-2 grams) with logistic regression gives the texts to evaluate."""
    from sklearn.linear_model import LogisticRegression

    model = _on_tfidf(LogisticRegression(C=inverse_regularization, max_iter=1000), analyzer)
    return list(model.fit(texts, labels).predict(eval_texts))


def ridge_predictions(texts: list[str], scores, eval_texts: list[str], analyzer: str = "word"):
    """Numbers (n,) that TF-IDF (1-2 grams) with ridge regression gives the texts to evaluate."""
    from sklearn.linear_model import Ridge

    return _on_tfidf(Ridge(), analyzer).fit(texts, scores).predict(eval_texts)


def _on_tfidf(model, analyzer: str):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, analyzer=analyzer)
    return make_pipeline(counts, model)


def _read(pattern: str, flags: args.FlagValues, answer: str = "") -> tuple[list[str], list[str]]:
    columns = {"text": flags.text_column, "label": answer or flags.label_column}
    records = read_records(pattern, columns)
    return [record["text"] for record in records], [str(record["label"]) for record in records]


if __name__ == "__main__":
    args.run(main, [baseline_flags])
