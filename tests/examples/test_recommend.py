import json

import keras
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import gpt_keras
from examples import recommend
from gpt_keras import tokenizers
from trainers import args

FILMS, USERS = 40, 12


@pytest.fixture
def data_dir(tmp_path):
    """Even users like even films, odd users odd ones, ten each; one star for some others."""
    items = [
        {"movie_id": i, "movie_title": f"Film {i}, The (1990)", "unknown": 0, "Drama": i % 2,
         "Comedy": 1 - i % 2}
        for i in range(1, FILMS + 1)
    ]  # fmt: skip
    rng, ratings = np.random.default_rng(0), []
    for user in range(1, USERS + 1):
        films = [film for film in range(1, FILMS + 1) if film % 2 == user % 2]
        for time, film in enumerate(rng.permutation(films)[:10]):
            ratings.append((user, int(film), int(4 + film % 2), time))
        ratings.append((user, 1 + user % 2, 1, 99))
    ratings.append((USERS + 1, 1, 5, 0))  # likes too little to be tested
    rows = [dict(zip(("user_id", "movie_id", "rating", "timestamp"), row, strict=True))
            for row in ratings]  # fmt: skip
    for name, table in (("items", items), ("data", rows)):
        path = tmp_path / f"MovieLens100k_{name}.parquet.brotli"
        parquet.write_table(pyarrow.Table.from_pylist(table), path)
    return tmp_path


def run(data_dir, *flags):
    argv = ["recommend", f"--data_dir={data_dir}", "--pairs=50", "--candidates=11", *flags]
    return args.exit_status(recommend.main, [recommend.recommend_flags], argv)


def test_movies(data_dir):
    movies = recommend.read_movies(data_dir)
    assert movies.names[3] == "The Film 3 (1990) (Drama)"
    assert movies.liked.keys() == set(range(1, USERS + 1))
    assert all(len(films) == 10 for films in movies.liked.values())
    assert all(len(films) == 11 for films in movies.rated.values() if len(films) > 1)
    assert recommend.movie_text("Léon", []) == "Léon"


def test_pairs_tell_nothing_of_what_is_tested(data_dir):
    movies = recommend.read_movies(data_dir)
    rng = np.random.default_rng(0)
    pairs = recommend.training_pairs(movies, list(movies.liked), 200, 3, rng)
    assert len(pairs) == 200
    users = [user for _ in range(50) for user in movies.liked]
    for pair, user in zip(pairs, users, strict=False):
        names = [movies.names[film] for film in movies.liked[user]]
        history = pair["query"].removeprefix("liked: ").split("; ")
        place = names.index(pair["positive"])
        assert history == names[max(0, place - 3) : place]
        assert 0 < place < 8  # neither of the two last


def test_candidates_are_one_film_liked_and_others_never_rated(data_dir):
    movies = recommend.read_movies(data_dir)
    for user in movies.liked:
        films = recommend.draw_candidates(movies, user, 11, np.random.default_rng(user))
        assert len(set(films)) == 11
        assert set(films) & movies.rated[user] == {movies.liked[user][-1]}


def test_ranks_and_gains():
    assert recommend.rank_of(7, [5, 7, 9], [0.1, 0.5, 0.5]) == 1
    assert recommend.rank_of(9, [5, 7, 9], [0.1, 0.5, 0.5]) == 2
    assert [recommend.gain(rank) for rank in (1, 3, 10, 11)] == [1, 0.5, 1 / np.log2(11), 0]


def test_baselines(data_dir, capsys):
    """Taste is all there is here: factors find it, popularity cannot."""
    assert run(data_dir, "--factors=2") == 0
    printed = capsys.readouterr().out
    lines = {line[:25].strip(): line[25:].split() for line in printed.splitlines()}
    factors, popular = lines["matrix factorisation"], lines["popularity"]
    assert float(factors[0]) > 0.5
    assert float(factors[0]) > float(popular[0])
    difference = float(popular[0]) - float(factors[0])
    np.testing.assert_allclose(float(popular[4]), difference, atol=2e-3)
    np.testing.assert_allclose(
        float(lines["chance"][0]),
        np.mean([recommend.gain(rank) for rank in range(1, 12)]),
        atol=5e-4,
    )
    movies = recommend.read_movies(data_dir)
    rows = [json.loads(line) for line in (data_dir / "dev.jsonl").read_text().splitlines()]
    likes = sorted(movies.names[films[-2]] for films in movies.liked.values())
    assert sorted(row["positive"] for row in rows) == likes
    before = (data_dir / "train.jsonl").read_text()
    assert run(data_dir) == 0
    assert (data_dir / "train.jsonl").read_text() == before


def test_lists_do_not_depend_on_pairs(data_dir, capsys):
    """Or results of models that learned from fewer could not be compared."""
    tables = []
    for pairs in (10, 30):
        assert run(data_dir, f"--pairs={pairs}") == 0
        tables.append(capsys.readouterr().out.splitlines()[2:])
    assert tables[0] == tables[1]


def test_intervals():
    assert recommend.mean_text(np.array([0.0, 1.0, 0.0, 1.0])) == "0.500 ± 0.490"
    assert recommend.mean_text(np.full(9, 0.25), "+") == "+0.250 ± 0.000"


def test_a_model_ranks_by_its_cosines(data_dir, capsys):
    movies = recommend.read_movies(data_dir)
    tokenizer = tokenizers.train_byte_level_bpe(list(movies.names.values()), 300, ("<|end|>",))
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_layers=1, num_heads=4, num_kv_heads=2,
        intermediate_size=40, max_position_embeddings=256, initializer_range=0.3,
        task_params={"embedding": {"contrast_temperature": 0.2}},
    )  # fmt: skip
    keras.utils.set_random_seed(1)
    model = gpt_keras.TextEmbedder(config, tokenizer)
    model.save_pretrained(data_dir / "model")
    users, lists = [1, 2], [[3, 4, 5], [6, 7, 8]]
    found = recommend.text_scores(data_dir / "model", movies, users, lists, 3)
    for row, user, films in zip(found, users, lists, strict=True):
        text = recommend.history_text(movies, movies.liked[user][6:9])
        cosines = model.rank([text] * 3, [movies.names[film] for film in films])
        np.testing.assert_allclose(row, cosines / 0.2, atol=1e-4)
    assert run(data_dir, f"--model={data_dir / 'model'}", "--users=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:25].strip() for line in lines[-3:]] == [
        "text", "text and popularity", "text, popularity, factors"
    ]  # fmt: skip


def test_scores_of_two_kinds_add_up_whatever_their_scale():
    scores = np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    found = recommend.standardised(scores)
    np.testing.assert_allclose(found[0].mean(), 0, atol=1e-12)
    np.testing.assert_allclose([found[0].std(), *found[1]], [1, 0, 0, 0])
    np.testing.assert_allclose(recommend.standardised(100 * scores + 7), found)


def test_misuse(data_dir, capsys):
    assert run("/none") == 1
    assert "python -m examples.fetch_data movies" in capsys.readouterr().err
    assert run(data_dir, "--candidates=40") == 1
    assert "--candidates=40: user" in capsys.readouterr().err
    assert run(data_dir, "--users=0") == 2
