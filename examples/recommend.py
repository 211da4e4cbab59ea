"""Which film next: interest in a candidate, read from the titles and genres of the films liked.

    python -m examples.fetch_data movies minilm
    python -m examples.recommend                                   # pairs to learn; baselines
    python -m trainers.finetune --config_file=examples/recommend.yaml --model=data/minilm \\
        --output_dir=runs/movies
    python -m examples.recommend --model=runs/movies/model         # the model beside them

A record is a pair: `text` "liked: Fargo (1996) (Crime, Drama, Thriller); ...", `text_pair` a
candidate written alike, `label` whether the user liked it (4 or 5 stars) or never rated it.

The protocol. Of MovieLens 100K, users with 8 films liked or more; the last liked is the test, the
one before it the dev set, the rest is learned from (leave-last-out by time; MovieLens has many
ratings in one sitting, so the order within it says little). Each of `--users` users ranks the test
film among `--candidates` - 1 films that were drawn evenly from those this user never rated. NDCG@10
is the mean of 1 / log2(1 + rank), 0 beyond rank 10. Numbers against drawn candidates are higher
than against all films, and compare methods of one table alone (Krichene & Rendle, 2020).

All rows see the same likes before the test film. Popularity is how many liked a film, matrix
factorisation PureSVD (Cremonesi et al., 2010): users x films, 1 where liked, to `--factors`
dimensions. The last row adds up the scores of the model and of the factorisation, each with mean 0
and deviation 1 over a user's candidates.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags as absl_flags

from trainers import args
from trainers.files import replacing

LIKED, NOT = "liked", "not"
FEWEST = 8  # films that a user must have liked
_ARTICLE = re.compile(r"^(.*), (The|A|An|Les?|La|Il|Das|Der|Die) (\(.*)$")
_NO_GENRES = {"movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL",
              "unknown"}  # fmt: skip


def recommend_flags(flags: args.FlagValues) -> None:
    """Recommendation."""
    define, whole = {"flag_values": flags}, absl_flags.DEFINE_integer
    absl_flags.DEFINE_string("data_dir", "data/movies", "folder of data and pairs", **define)
    absl_flags.DEFINE_string("model", None, "classifier of pairs to rank with", **define)
    whole("history", 3, "films liked that a text names, the latest", 1, **define)
    whole("pairs", 4000, "pairs to learn from", 2, **define)
    whole("users", 200, "users to test on", 1, **define)
    whole("candidates", 50, "films to rank, the test film included", 2, **define)
    whole("factors", 20, "dimensions of matrix factorisation", 1, **define)
    whole("seed", 0, "draws users, pairs and candidates", **define)


class Movies(NamedTuple):
    """What people liked.

    Attributes:
      names: film -> title and genres as a text has them.
      liked: user -> films with 4 or 5 stars, the earliest first; FEWEST or more each.
      rated: user -> all films with any stars.
    """

    names: dict[int, str]
    liked: dict[int, list[int]]
    rated: dict[int, set[int]]


def main(flags: args.FlagValues) -> None:
    movies = read_movies(flags.data_dir)
    rng = np.random.default_rng(flags.seed)
    users = [int(user) for user in rng.permutation(sorted(movies.liked))]
    parts = {"train": training_pairs(movies, users, flags.pairs, flags.history, rng)}
    parts["dev"] = [
        pair for user in users[: min(200, len(users))]
        for pair in _pairs(movies, user, -2, flags.history, rng)
    ]  # fmt: skip
    for part, pairs in parts.items():
        with replacing(os.path.join(flags.data_dir, f"{part}.jsonl")) as file:
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        print(f"{flags.data_dir}/{part}.jsonl: {len(pairs):,} pairs")

    users = users[: flags.users]
    lists = [draw_candidates(movies, user, flags.candidates, rng) for user in users]
    by_svd = factorisation(movies, users, lists, flags.factors, flags.seed)
    scores = {"popularity": popularity(movies, lists), "matrix factorisation": by_svd}
    if flags.model:
        scores["text"] = text_scores(flags.model, movies, users, lists, flags.history)
        scores["text and factors"] = standardised(scores["text"]) + standardised(by_svd)
    truth = [movies.liked[user][-1] for user in users]
    print(f"{len(users)} users, {flags.candidates} candidates, seed {flags.seed}; the half-widths "
          "are of 95 % intervals over users")  # fmt: skip
    print(f"{'':22}{'NDCG@10':>16}{'hits@10':>10}")
    ranks = np.arange(1, flags.candidates + 1)
    print(_row("chance", np.array([gain(rank) for rank in ranks]), None))
    for name, found in scores.items():
        ranks = np.array([rank_of(*row) for row in zip(truth, lists, found, strict=True)])
        gains = np.array([gain(rank) for rank in ranks])
        print(_row(name, gains, 1.96 * gains.std() / math.sqrt(len(gains))))


def _row(name: str, gains, width: float | None) -> str:
    interval = "" if width is None else f" ± {width:.3f}"
    return f"{name:22}{f'{gains.mean():.3f}{interval}':>16}{np.mean(gains > 0):>10.3f}"


def read_movies(folder: str) -> Movies:
    """Reads the tables of MovieLens 100K."""
    from pyarrow import parquet

    tables = {}
    for name in ("data", "items"):
        path = Path(folder) / f"MovieLens100k_{name}.parquet.brotli"
        if not path.exists():
            raise ValueError(f"{path}: not there; python -m examples.fetch_data movies")
        tables[name] = parquet.read_table(path).to_pylist()
    names = {
        row["movie_id"]: movie_text(
            row["movie_title"], [name for name in row if name not in _NO_GENRES and row[name]]
        )
        for row in tables["items"]
    }
    liked, rated = {}, {}
    for row in sorted(tables["data"], key=lambda row: (row["timestamp"], row["movie_id"])):
        user, film = row["user_id"], row["movie_id"]
        rated.setdefault(user, set()).add(film)
        if row["rating"] >= 4:
            liked.setdefault(user, []).append(film)
    return Movies(names, {u: films for u, films in liked.items() if len(films) >= FEWEST}, rated)


def movie_text(title: str, genres: list[str]) -> str:
    """`The Usual Suspects (1995) (Crime, Thriller)` of MovieLens' `Usual Suspects, The (1995)`."""
    title = _ARTICLE.sub(r"\2 \1 \3", title)
    return f"{title} ({', '.join(genres)})" if genres else title


def history_text(movies: Movies, films: list[int]) -> str:
    """What a text says of the films liked, the earliest first."""
    return "liked: " + "; ".join(movies.names[film] for film in films)


def training_pairs(movies: Movies, users, count: int, history: int, rng) -> list[dict]:
    """Pairs of films before the two held out, one liked and one not by turns, user by user."""
    pairs = []
    while len(pairs) < count:
        for user in users:
            place = int(rng.integers(1, len(movies.liked[user]) - 2))
            pairs += _pairs(movies, user, place, history, rng)
    return pairs[:count]


def _pairs(movies: Movies, user: int, place: int, history: int, rng) -> list[dict]:
    """The film liked in this place of the user's, and one that was never rated."""
    liked = movies.liked[user]
    text = history_text(movies, liked[:place][-history:])
    # The test film may come up as any other: that it is never drawn would tell of it.
    free = sorted(movies.names.keys() - (movies.rated[user] - {liked[-1]}))
    films = {LIKED: liked[place], NOT: free[rng.integers(len(free))]}
    return [
        {"text": text, "text_pair": movies.names[film], "label": label}
        for label, film in films.items()
    ]


def draw_candidates(movies: Movies, user: int, count: int, rng) -> list[int]:
    """The test film among films that the user never rated, in any order."""
    free = sorted(movies.names.keys() - movies.rated[user])
    if len(free) < count - 1:
        raise ValueError(f"--candidates={count}: user {user} leaves {len(free)} films unrated")
    films = [*rng.choice(free, count - 1, replace=False), movies.liked[user][-1]]
    return [int(film) for film in rng.permutation(films)]


def popularity(movies: Movies, lists: list[list[int]]) -> np.ndarray:
    """How many liked each film before their test film: (users, candidates)."""
    counts = np.zeros(max(movies.names) + 1)
    for films in movies.liked.values():
        counts[films[:-1]] += 1
    return counts[np.array(lists)]


def factorisation(movies: Movies, users, lists, factors: int, seed: int) -> np.ndarray:
    """What a truncated SVD of users x films makes of each: (users, candidates)."""
    from scipy.sparse import lil_matrix
    from sklearn.decomposition import TruncatedSVD

    rows = {user: row for row, user in enumerate(sorted(movies.liked))}
    matrix = lil_matrix((len(rows), max(movies.names) + 1))
    for user, films in movies.liked.items():
        matrix[rows[user], films[:-1]] = 1
    svd = TruncatedSVD(factors, random_state=seed)
    projected = svd.fit_transform(matrix.tocsr())[[rows[user] for user in users]]  # (U, F)
    found = projected @ svd.components_  # (U, films)
    return np.take_along_axis(found, np.array(lists), axis=1)


def text_scores(path: str, movies: Movies, users, lists, history: int) -> np.ndarray:
    """Log-odds of `liked` that a classifier of pairs gives: (users, candidates)."""
    import tensorflow as tf

    import gpt_keras

    model = gpt_keras.SequenceClassifier.from_pretrained(path)
    if set(model.config.id2label) != {LIKED, NOT}:
        raise ValueError(f"--model={path}: its labels are {', '.join(model.config.id2label)}; "
                         f"train one with examples/recommend.yaml")  # fmt: skip
    sign = 1 if model.config.id2label[1] == LIKED else -1
    strings = tf.TensorSpec([None], tf.string)
    logits = tf.function(model.text_logits, input_signature=[strings, strings])
    scores = []
    for user, films in zip(users, lists, strict=True):
        text = history_text(movies, movies.liked[user][:-1][-history:])
        names = [movies.names[film] for film in films]
        found = logits([text] * len(names), names).numpy()  # (C, 2)
        scores.append(sign * (found[:, 1] - found[:, 0]))
    return np.array(scores)


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores (users, candidates), each user's with mean 0 and deviation 1 so that kinds add up."""
    deviations = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.where(deviations > 0, deviations, 1)


def rank_of(film: int, films: list[int], scores) -> int:
    """The film's rank from 1; of equal scores the first in the list leads."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return int(np.flatnonzero(np.array(films)[order] == film)[0]) + 1


def gain(rank: int) -> float:
    """NDCG@10 of one relevant film at this rank."""
    return 1 / math.log2(1 + rank) if rank <= 10 else 0.0


if __name__ == "__main__":
    args.run(main, [recommend_flags])
