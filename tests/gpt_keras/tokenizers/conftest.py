"""What tests of tokenizers share: random texts, and small tokenizers with their reference."""

import itertools
import json
import pathlib
import random
import sysconfig

import pytest
import tensorflow as tf
import tokenizers as hf

from export import stock_ops
from gpt_keras import tokenizers

CHINESE = "这本书很好看，作者的文笔也不错。我喜欢！但是价格有点贵，送货也慢了两天。书的质量一般。"
EMOJI = "so happy 🙂🙂 #blessed @you’re 👍🏽 naïve café ½ 10² ١٢٣ can't we'll I'D "
_BASIC_PLANE = [*range(0xD800), *range(0xE000, 0x10000)]
_SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000\u180e\u200b"


def _random_texts(count, seed, extra=()):
    """Texts of all sorts of characters in short runs; `extra`: strings to put between them."""
    rng = random.Random(seed)
    kinds = [
        lambda: chr(rng.randrange(0x80)),
        lambda: chr(rng.randrange(0x250)),
        lambda: chr(rng.randrange(0x300, 0x370)),  # combining marks
        lambda: rng.choice(_SPACES),
        lambda: " ",
        lambda: rng.choice("''’sStmdrevl "),
        lambda: chr(rng.randrange(0x4E00, 0x9FFF)),
        lambda: chr(rng.randrange(0x1F300, 0x1F700)),
        lambda: chr(rng.choice(_BASIC_PLANE)),
        lambda: chr(rng.randrange(0x10000, 0x110000)),
        lambda: rng.choice("\0\x04\x06\x7f"),
        lambda: rng.choice("0123456789²½٣Ⅻ一"),
        lambda: rng.choice(["he", "re", "the ", " of", "ing", *extra]),
    ]
    return [
        "".join(
            kind()
            for kind in rng.choices(kinds, k=rng.randrange(12))
            for _ in range(rng.choice([1, 1, 1, 2, 3, 8]))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def random_texts():
    """(count, seed, extra strings) -> list of random texts."""
    return _random_texts


@pytest.fixture(scope="session")
def english():
    """A few hundred kB of Python's standard library, which is everywhere."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "typing", "random", "textwrap", "calendar", "difflib")
    return [folder.joinpath(f"{name}.py").read_text(encoding="utf-8") for name in names]


@pytest.fixture(scope="session")
def trained(english):
    """A tokenizer of 1,500 tokens."""
    texts = [*english, *[CHINESE] * 20, *[EMOJI] * 20]
    return tokenizers.train_byte_level_bpe(texts, 1500, ("<|endoftext|>", "<|im_start|>"))


@pytest.fixture(scope="session")
def fields(trained, tmp_path_factory):
    """Fields of the `tokenizer.json` of `trained`; copy before changing."""
    folder = tmp_path_factory.mktemp("trained")
    trained.save(folder)
    return json.loads(folder.joinpath("tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def pair():
    """Fields of a `tokenizer.json` -> (our tokenizer, the reference)."""

    def make(fields):
        text = json.dumps(fields)
        return tokenizers.ByteLevelBPE(text), hf.Tokenizer.from_str(text)

    return make


@pytest.fixture(scope="session")
def check_ids():
    """Asserts that our tokenizer and the reference give the same ids; see `_check_ids`."""
    return _check_ids


def _check_ids(ours, reference, texts, allow_special=True):
    got = ours.tokenize(texts, allow_special=allow_special)
    reference.encode_special_tokens = not allow_special
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    splits = got.row_splits.numpy()
    assert splits[-1] == sum(map(len, expected))
    if got.values.numpy().tolist() != list(itertools.chain(*expected)):
        for text, row, ids in zip(texts, got.to_list(), expected, strict=True):
            assert row == ids, repr(text)
    assert [len(ids) for ids in expected] == (splits[1:] - splits[:-1]).tolist()
    return got


class Served(tf.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, texts):
        ids = self.tokenizer.encode(texts)
        return {"ids": ids.values, "text": self.tokenizer.detokenize(ids)}


@pytest.fixture
def check_served(tmp_path):
    """Function (tokenizer, texts): it does the same in a SavedModel, which a stock server knows."""

    def check(tokenizer, texts):
        served = Served(tokenizer)
        tf.saved_model.save(served, str(tmp_path), signatures=served.serve)
        assert stock_ops.check(stock_ops.read(tmp_path)) == []
        got = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](tf.constant(texts))
        ids = tokenizer.encode(texts)
        assert got["ids"].numpy().tolist() == ids.values.numpy().tolist()
        assert got["text"].numpy().tolist() == tokenizer.detokenize(ids).numpy().tolist()

    return check
