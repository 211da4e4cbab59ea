"""What a classifier has to beat: the majority class, and TF-IDF with logistic regression.

    python -m examples.tfidf_baseline \\
        --train_data=data/tweets/train.jsonl --eval_data=data/tweets/test.jsonl

Words and pairs of words, weighted by TF-IDF with sublinear counts, go into scikit-learn's
`LogisticRegression`. Prints accuracy, macro-F1 and a report by class; `--train_data` may be given
several times, which makes a row of the table each.
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
    absl_flags.DEFINE_float(
        "inverse_regularization", 4.0, "C of LogisticRegression", 0.0, flag_values=flags
    )


def main(flags: args.FlagValues) -> None:
    # Imported here: scikit-learn takes a second, and --help has no need of it.
    from sklearn.metrics import accuracy_score, classification_report, f1_score

    if not flags.train_data or not flags.eval_data:
        raise args.UsageError("--train_data and --eval_data: give both")
    eval_texts, truth = _read(flags.eval_data, flags)
    labels = sorted(set(truth))
    rows, report = [], ""
    for train_data in flags.train_data:
        texts, names = _read(train_data, flags)
        predictions = tfidf_predictions(texts, names, eval_texts, flags.inverse_regularization)
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
    print(f"\nTF-IDF + logistic regression trained on {flags.train_data[-1]}:\n\n{report}")


def tfidf_predictions(
    texts: list[str], labels: list[str], eval_texts: list[str], inverse_regularization: float = 4.0
) -> list[str]:
    """Labels that TF-IDF (1-2 grams) with logistic regression gives the texts to evaluate."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=inverse_regularization, max_iter=1000),
    )
    return list(model.fit(texts, labels).predict(eval_texts))


def _read(pattern: str, flags: args.FlagValues) -> tuple[list[str], list[str]]:
    columns = {"text": flags.text_column, "label": flags.label_column}
    records = read_records(pattern, columns)
    return [record["text"] for record in records], [str(record["label"]) for record in records]


if __name__ == "__main__":
    args.run(main, [baseline_flags])
