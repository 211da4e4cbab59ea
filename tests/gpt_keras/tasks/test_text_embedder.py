"""TextEmbedder: one vector a text; all-MiniLM-L6-v2 as torch computes it."""

import json
import pathlib
import runpy

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import CausalLM, MaskedLM, TextEmbedder, tokenizers
from gpt_keras.pooling import SentenceEmbedding

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
MINILM = ROOT / "data" / "minilm"
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 37, (3, 9)).astype(np.int32)

needs_minilm = pytest.mark.skipif(
    not MINILM.exists(), reason="no data/minilm: run `python -m examples.fetch_data minilm`"
)


def test_as_a_layer(tiny, check_layer):
    check_layer(lambda policy: TextEmbedder(tiny, dtype=policy), IDS, output_dtype="float32")


@pytest.mark.parametrize("causal", [False, True])
def test_rows_of_different_lengths(tiny, causal):
    model = TextEmbedder(tiny.replace(causal=causal), embedding=SentenceEmbedding("mean", True))
    lengths = [9, 4, 1]
    together = model(IDS, padding_mask=np.arange(9) < np.array(lengths)[:, None])
    assert together.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for row, length in enumerate(lengths):
        alone = model(IDS[row : row + 1, :length])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_save_and_load(tiny, tmp_path):
    """As the backbone alone, whose tensors have no prefix, beside what is done with its vectors."""
    embedding = SentenceEmbedding("last", True, 7)
    model = TextEmbedder(tiny, embedding=embedding)
    for _ in range(2):  # the second time over the first
        model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == [
        "LlamaModel"
    ]
    again = TextEmbedder.from_pretrained(tmp_path / "model")
    assert again.embedding == embedding
    np.testing.assert_array_equal(again(IDS), model(IDS))


def test_of_a_checkpoint_with_another_head(tiny, tmp_path):
    model = CausalLM(tiny.replace(tie_embeddings=False))
    model.save_pretrained(tmp_path / "model")
    embedder = TextEmbedder.from_pretrained(tmp_path / "model")
    assert embedder.embedding == SentenceEmbedding()
    expected = model.backbone(IDS).numpy().mean(axis=1)
    np.testing.assert_allclose(embedder(IDS), expected, rtol=1e-5, atol=1e-6)


def cosines(ours, theirs):
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    return (ours * theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).sum(axis=1)


@pytest.fixture(scope="module")
def minilm():
    return TextEmbedder.from_pretrained(MINILM)


@needs_minilm
def test_minilm_as_torch_computed_it(minilm):
    golden = json.loads((GOLDEN / "embeddings_minilm.json").read_text("utf-8"))["rows"]
    assert minilm.embedding == SentenceEmbedding("mean", True, 256)
    texts = [row["text"] for row in golden]
    expected = np.array([row["embedding"] for row in golden])
    found = minilm.embed(texts).numpy()
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.99999
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    for i, text in enumerate(texts):  # whatever the neighbours are
        np.testing.assert_allclose(minilm.embed([text])[0], found[i], rtol=0, atol=2e-6)
    sunny, stadium = found[0] @ found[1], found[0] @ found[2]
    assert sunny > 0.5 > stadium


@needs_minilm
def test_embed_in_a_graph(minilm):
    graph = tf.function(minilm.embed, input_signature=[tf.TensorSpec([None], tf.string)])
    texts = ["one text", "", "another, longer text"]
    np.testing.assert_allclose(graph(texts), minilm.embed(texts), rtol=0, atol=1e-6)
    assert graph(tf.constant([], tf.string)).shape == (0, 384)


@needs_minilm
def test_other_heads_begin_anew(minilm):
    model = MaskedLM.from_pretrained(MINILM)
    np.testing.assert_array_equal(model.backbone.embedding.table, minilm.backbone.embedding.table)
    with pytest.raises(ValueError, match=r"causal=False: a bidirectional model \(bert\)"):
        CausalLM.from_pretrained(MINILM)


@pytest.mark.oracle
@needs_minilm
def test_live_hundred_sentences(minilm):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    # As texts: torch's import asks `inspect` about all modules, which fails at one of a Path.
    writer = runpy.run_path(str(GOLDEN / "write_embeddings.py"))
    more = runpy.run_path(str(GOLDEN / "write_parity.py"))["TEXTS"]
    play = sorted((ROOT / "data" / "shakespeare").glob("hamlet_gut.txt"))[0]
    lines = [line for line in play.read_text("utf-8", "replace").split("\n") if len(line) > 30]
    texts = [*writer["TEXTS"], *more, *lines[100:170]]
    assert len(texts) == 100
    assert cosines(minilm.embed(texts).numpy(), writer["embed"](texts)).min() > 0.9999


@pytest.fixture(scope="module")
def tokenizer():
    words = ["a cat sat on a mat", "a dog ran fast", "where is the cat", "who ran"]
    return tokenizers.train_byte_level_bpe(words * 4, 300)


RECORDS = [
    {"query": "where is the cat", "positive": "a cat sat", "negatives": ["a dog ran", "who"]},
    {"query": "who ran", "positive": "a dog ran", "negatives": "a cat sat"},
    {"query": "who ran", "positive": "a dog ran fast"},
]
RECORDS = [{**record, "where": f"x.jsonl:{i}"} for i, record in enumerate(RECORDS, 1)]


def config_of(tokenizer, tiny, **options):
    return tiny.replace(vocab_size=tokenizer.vocab_size, task_params={"embedding": options})


def test_rows_of_records(tiny, tokenizer):
    found = TextEmbedder.examples(RECORDS, tokenizer, config_of(tokenizer, tiny), 16)
    assert found.group == 4
    assert found.record_ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.targets["query"].tolist() == [0] * 4 + [1] * 8
    assert found.targets["document"].tolist() == [-1, 0, 1, 2, -1, 1, 0, 0, -1, 3, 0, 0]
    assert found.targets["relevant"].tolist() == [0, 1, 0, 0] * 3
    assert found.targets["weight"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0]
    begin, end = found.row_splits[2:4]
    text = tokenizer.detokenize([found.values[begin:end].tolist()])[0]
    assert text.numpy().decode() == "a dog ran"
    config = config_of(tokenizer, tiny, max_negatives=0)
    assert TextEmbedder.examples(RECORDS, tokenizer, config, 16).group == 2


def batch_of(examples):
    ragged = tf.RaggedTensor.from_row_splits(examples.values, examples.row_splits)
    mask = tf.sequence_mask(ragged.row_lengths())
    return {"token_ids": ragged.to_tensor(), "padding_mask": mask, **examples.targets}


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_contrastive_loss(tiny, tokenizer, temperature):
    """Each query's document among those of the batch that do not answer it as well."""
    config = config_of(tokenizer, tiny, contrast_temperature=temperature)
    model = TextEmbedder(config, tokenizer)
    batch = batch_of(TextEmbedder.examples(RECORDS, tokenizer, config, 16))
    loss = model.batch_loss(batch, model.features(batch))
    embeddings = model(batch["token_ids"], padding_mask=batch["padding_mask"]).numpy()
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(loss.outputs, embeddings, atol=1e-6)
    # Rows of: each query, its document, and the wrong ones. "a dog ran" answers "who ran" too.
    cases = [(0, 1, [2, 3, 5, 9]), (4, 5, [1, 3, 6]), (8, 9, [1, 2, 3, 6])]
    expected = []
    for query, right, wrong in cases:
        logits = embeddings[[right, *wrong]] @ embeddings[query] / temperature
        expected.append(np.log(np.exp(logits - logits[0]).sum()))
    np.testing.assert_allclose(loss.rows[::4, 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.total, np.sum(expected), rtol=1e-4)
    assert loss.weight == 3
    assert loss.rows.numpy()[:, 1].tolist() == [1, 0, 0, 0] * 3


def scored(**values):
    return {"text": "a cat sat", "text_pair": "a dog ran", "score": 0.25, "where": "x:1", **values}


def test_loss_of_scored_pairs(tiny, tokenizer):
    config = config_of(tokenizer, tiny)
    model, records = TextEmbedder(config, tokenizer), [scored(), scored(text="who", score="1")]
    batch = batch_of(TextEmbedder.examples(records, tokenizer, config, 16))
    loss = model.batch_loss(batch, model.features(batch))
    cosine = model.rank(["a cat sat", "who"], ["a dog ran"] * 2).numpy()
    np.testing.assert_allclose(loss.outputs[::2, 0], cosine, rtol=1e-4)
    np.testing.assert_allclose(loss.rows[::2, 0], (cosine - [0.25, 1]) ** 2, rtol=1e-4)
    assert loss.weight == 2


def test_bad_records(tiny, tokenizer):
    config, first = config_of(tokenizer, tiny), RECORDS[0]
    for records, message in [
        ([scored(score=3)], "x:1: score is 3: expected 0 to 1"),
        ([scored(score="much")], "x:1: score must be a number"),
        ([first, scored()], "x:1: queries with documents and pairs with a score cannot be"),
        ([{**first, "positive": 3}], "x.jsonl:1: positive must be a string"),
        ([{**first, "negatives": ["a", None]}], "x.jsonl:1: negatives must be a string"),
    ]:
        with pytest.raises(ValueError, match=message):
            TextEmbedder.examples(records, tokenizer, config, 16)
    with pytest.raises(ValueError, match=r"--contrast_temperature=0.0: expected 1e-06 or more"):
        TextEmbedder(config_of(tokenizer, tiny, contrast_temperature=0.0))


def test_options_go_before_the_directory_and_into_it(tiny, tokenizer, tmp_path):
    params = {"embedding": {"pooling": "last", "normalize": True, "max_negatives": 2}}
    TextEmbedder(tiny, embedding=SentenceEmbedding("first", False, 9)).save_pretrained(
        tmp_path / "a"
    )
    model = TextEmbedder.from_pretrained(tmp_path / "a", task_params=params)
    assert model.embedding == SentenceEmbedding("last", True, 9)
    model.save_pretrained(tmp_path / "b")
    again = TextEmbedder.from_pretrained(tmp_path / "b")
    assert again.embedding == model.embedding
    assert again.config.task_params == {"embedding": {"max_negatives": 2}}
    assert TextEmbedder.longest(tmp_path / "b") == 9


def test_rank_is_the_cosine_whatever_the_neighbours(tiny, tokenizer):
    model = TextEmbedder(config_of(tokenizer, tiny), tokenizer)
    queries = ["where is the cat", "", "🙂 今天", "a cat " * 40]
    documents = ["a cat sat on a mat", "who ran", "", "天"]
    found = model.rank(queries, documents).numpy()
    for query, document, score in zip(queries, documents, found, strict=True):
        a, b = model.embed([query]).numpy()[0], model.embed([document]).numpy()[0]
        assert score == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert model.rank(tf.constant([], tf.string), tf.constant([], tf.string)).shape == (0,)
