"""Which film next: interest in a candidate, read from the titles and genres of the films liked.

    python -m examples.fetch_data movies minilm
    python -m examples.recommend --model=data/minilm     # pairs to learn; baselines; untrained
    python -m trainers.finetune --config_file=examples/recommend.yaml --model=data/minilm \\
        --output_dir=runs/movies
    python -m examples.recommend --model=runs/movies/model        # after training

A record is `query`, "liked: Fargo (1996) (Crime, Drama, Thriller); ...", and `positive`, the film
liked next, written alike. The task is `ranking`: both become vectors, and the cosine over the
temperature is the interest. So a film's vector is computed once, whoever asks.

Films are negatives in the batches as often as they are liked, so what is learned is the logarithm
of p(film | history) / p(film), and "text and popularity" adds that of 1 + the likes of a candidate
(the correction by log Q of Yi et al., 2019, https://doi.org/10.1145/3298689.3346996).

The protocol. Of MovieLens 100K, users with 8 films liked or more (4 or 5 stars); the last liked is
the test, the one before it the dev set, the rest is learned from (leave-last-out by time; MovieLens
has many ratings in one sitting, so the order within it says little). Each of `--users` users ranks
the test film among `--candidates` - 1 films that were drawn evenly from those this user never
rated. NDCG@10 is the mean of 1 / log2(1 + rank), 0 beyond rank 10. Numbers against drawn candidates
are higher than against all films, and compare methods of one table alone (Krichene & Rendle, 2020).

All rows see the same likes before the test film. Popularity is how many liked a film, matrix
factorisation PureSVD (Cremonesi et al., 2010): users x films, 1 where liked, to `--factors`
dimensions. The last row adds up "text and popularity" and the factorisation, each with mean 0 and
deviation 1 over a user's candidates.
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

FEWEST = 8  # films that a user must have liked
FACTORS = "matrix factorisation"
_ARTICLE = re.compile(r"^(.*), (The|A|An|Les?|La|Il|Das|Der|Die) (\(.*)$")
_NO_GENRES = {"movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL",
              "unknown"}  # fmt: skip


def recommend_flags(flags: args.FlagValues) -> None:
    """Recommendation."""
    define, whole = {"flag_values": flags}, absl_flags.DEFINE_integer
    absl_flags.DEFINE_string("data_dir", "data/movies", "folder of data and pairs", **define)
    absl_flags.DEFINE_string("model", None, "embedder of texts to rank with", **define)
    whole("history", 3, "films liked that a text names, the latest", 1, **define)
    whole("pairs", 10000, "pairs to learn from", 1, **define)
    whole("users", 1000, "users to test on, at most", 1, **define)
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
    for_users, for_pairs, for_lists = np.random.default_rng(flags.seed).spawn(3)
    users = [int(user) for user in for_users.permutation(sorted(movies.liked))]
    parts = {
        "train": training_pairs(movies, users, flags.pairs, flags.history, for_pairs),
        "dev": [pair_of(movies, user, -2, flags.history) for user in users[:200]],
    }
    for part, pairs in parts.items():
        with replacing(os.path.join(flags.data_dir, f"{part}.jsonl")) as file:
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        print(f"{flags.data_dir}/{part}.jsonl: {len(pairs):,} pairs")

    users = users[: flags.users]
    lists = [draw_candidates(movies, user, flags.candidates, for_lists) for user in users]
    likes = popularity(movies, lists)
    by_svd = factorisation(movies, users, lists, flags.factors, flags.seed)
    scores = {"popularity": likes, FACTORS: by_svd}
    if flags.model:
        scores["text"] = text_scores(flags.model, movies, users, lists, flags.history)
        both = scores["text and popularity"] = scores["text"] + np.log1p(likes)
        scores["text, popularity, factors"] = standardised(both) + standardised(by_svd)
    truth = [movies.liked[user][-1] for user in users]
    gains = {
        name: np.array([gain(rank_of(*row)) for row in zip(truth, lists, found, strict=True)])
        for name, found in scores.items()
    }
    print(f"{len(users)} users, {flags.candidates} candidates, seed {flags.seed}; ± is half of a "
          "95 % interval over users")  # fmt: skip
    print(f"{'':25}{'NDCG@10':>16}{'hits@10':>10}{'above factorisation':>22}")
    chance = np.array([gain(rank) for rank in range(1, flags.candidates + 1)])
    print(f"{'chance':25}{chance.mean():>16.3f}{np.mean(chance > 0):>10.3f}")
    for name, found in gains.items():
        above = "" if name == FACTORS else mean_text(found - gains[FACTORS], "+")
        print(f"{name:25}{mean_text(found):>16}{np.mean(found > 0):>10.3f}{above:>22}".rstrip())


def mean_text(values: np.ndarray, sign: str = "") -> str:
    """Mean of (users,) and half of its 95 % interval; of differences that of pairs."""
    return f"{values.mean():{sign}.3f} ± {1.96 * values.std() / math.sqrt(len(values)):.3f}"


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


def training_pairs(movies: Movies, users, count: int, history: int, rng) -> list[dict[str, str]]:
    """Pairs of films before the two held out, at random places, user by user."""
    pairs = []
    while len(pairs) < count:
        for user in users:
            place = int(rng.integers(1, len(movies.liked[user]) - 2))
            pairs.append(pair_of(movies, user, place, history))
    return pairs[:count]


def pair_of(movies: Movies, user: int, place: int, history: int) -> dict[str, str]:
    """The film liked in this place of the user's, and those before it."""
    liked = movies.liked[user]
    text = history_text(movies, liked[:place][-history:])
    return {"query": text, "positive": movies.names[liked[place]]}


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
    """Cosines of histories and films over the temperature: (users, candidates)."""
    from sklearn.preprocessing import normalize

    import gpt_keras

    model = gpt_keras.TextEmbedder.from_pretrained(path)
    temperature = model.option(model.config, "contrast_temperature")
    films = {film: row for row, film in enumerate(movies.names)}
    rows = np.array([[films[film] for film in row] for row in lists])  # (U, C)
    texts = [history_text(movies, movies.liked[user][:-1][-history:]) for user in users]
    queries = normalize(model.embed(texts).numpy())  # (U, D)
    documents = normalize(model.embed(list(movies.names.values())).numpy())  # (films, D)
    found = queries @ documents.T  # (U, films)
    return np.take_along_axis(found, rows, axis=1) / temperature


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
