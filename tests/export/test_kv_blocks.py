"""Attention over blocks in a pool is attention over each text."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export.kv_blocks import BlockCache, BlockPool, Tokens, View
from export.memory import Memory
from gpt_keras import GPTConfig
from gpt_keras.stacked import StackedBackbone

# One of each kind that attention and positions come in, see `tests/golden/families.py`.
FAMILIES = [
    "llama_dynamic", "llama_yarn", "mistral", "qwen2_some_windows", "qwen3", "smollm3_windows",
    "olmo2", "phi3_longrope_partial", "starcoder2", "gpt_neox", "gemma2", "gemma3_text",
    "mixtral", "qwen3_moe",
]  # fmt: skip
RNG = np.random.default_rng(0)
H, K, h, BLOCK, BLOCKS, LAYERS = 4, 2, 4, 3, 12, 2
# Each text: its blocks, tokens in the pool already, new tokens; texts with one new token first.
TEXTS = [([4, 9, 2], 6, 1), ([7], 0, 1), ([1, 12, 5, 3], 5, 6), ([11, 6], 0, 4)]


def attention(q, k, v, window):
    """(T, H, h) queries that end the text (S, K, h), one at a time."""
    S, T = len(k), len(q)
    context = np.zeros_like(q)
    for t in range(T):
        end = S - T + t + 1
        first = max(0, end - window) if window else 0
        for head in range(H):
            keys, values = k[first:end, head // (H // K)], v[first:end, head // (H // K)]
            scores = np.exp(keys @ q[t, head])
            context[t, head] = scores / scores.sum() @ values
    return context


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize(
    ("which", "empty"),
    [((0, 1), None), ((2, 3), None), ((2, 3), "singles"), ((0, 1, 2, 3), None)],
    ids=["singles", "several", "several-beside-none", "both"],
)
def test_attention(window, which, empty):
    config = GPTConfig(
        vocab_size=5, hidden_size=H * h, num_layers=LAYERS, num_heads=H, num_kv_heads=K,
        intermediate_size=8, max_position_embeddings=32, sliding_window=window,
    )  # fmt: skip
    name = f"test_attention_{window}_{len(which)}_{which[0]}_{empty}"
    memory = Memory(name, BlockPool.shape(config, BLOCKS, BLOCK), tf.float32)
    pool = BlockPool(memory, config, BLOCKS)
    texts = [TEXTS[i] for i in which]
    pages = np.zeros((len(texts), 4), np.int32)
    for row, (blocks, _, _) in zip(pages, texts, strict=True):
        row[: len(blocks)] = blocks
    past = [RNG.normal(size=(2, n, K, h)).astype("float32") for _, n, _ in texts]
    new = [RNG.normal(size=(2, n, K, h)).astype("float32") for _, _, n in texts]
    queries = [RNG.normal(size=(n, H, h)).astype("float32") for _, _, n in texts]
    singles = sum(n == 1 for _, _, n in texts)

    def cache(counts, starts, layer):
        texts = tf.constant(pages), tf.constant(starts), tf.constant(counts)
        part = {"singles": slice(0, singles), "others": slice(singles, None)}
        views = {
            name: View.of(pool, Tokens.of(*(x[rows] for x in texts)), rows.start)
            if len(counts[rows]) or name == empty
            else None
            for name, rows in part.items()
        }
        return BlockCache(pool, tf.constant(layer), pool.places(Tokens.of(*texts)), **views)

    def put(which, counts, starts, q, layer):
        k, v = (np.concatenate([text[i] for text in which]) for i in (0, 1))
        heads = np.concatenate([q, k, v], axis=1)[:, None]  # (N, 1, H+2K, h)
        return cache(counts, starts, layer).attend(tf.constant(heads))

    for layer in range(LAYERS):  # what stands in the other layer must not show
        for i, before in enumerate(past):
            n = before.shape[1]
            if n:
                heads = pool.heads(tf.constant(pages[i, np.arange(n) // BLOCK]))  # (n, K)
                offsets = np.tile(np.arange(n)[:, None] % BLOCK, (1, K))
                for part in (0, 1):
                    row = heads + (2 * layer + part) * pool.layer_rows
                    memory.put_at(tf.stack([row, offsets], -1), before[part] + layer)
    starts = np.array([n for _, n, _ in texts], np.int32)
    counts = np.array([n for _, _, n in texts], np.int32)
    q = np.concatenate(queries)
    got, _ = put(new, counts, starts, q, layer=0)
    expected = [
        attention(query, *np.concatenate([before, after], 1), window)
        for query, before, after in zip(queries, past, new, strict=True)
    ]
    np.testing.assert_allclose(got[:, 0], np.concatenate(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", FAMILIES)
def test_families_decode_as_the_whole_sequence(case, tmp_path, write_family):
    """Two prompts in two pieces each, beside a third text that goes on token by token."""
    model = gpt_keras.CausalLM.from_pretrained(write_family(case, tmp_path)[0])
    config, stack = model.config, StackedBackbone(model.backbone)
    memory = Memory(f"test_{case}", BlockPool.shape(config, BLOCKS, BLOCK), tf.float32)
    pool = BlockPool(memory, config, BLOCKS)
    pages = np.array([[4, 9, 2, 0], [7, 1, 0, 0], [12, 5, 3, 6]], np.int32)
    texts = [RNG.integers(3, 83, n).astype(np.int32) for n in (8, 6, 11)]
    longest = np.array([len(text) for text in texts], np.int32)

    @tf.function(reduce_retracing=True)
    def compute(rows, starts, counts, singles):
        """Tokens of some texts, those with a single one first: (n, D)."""
        given = tf.gather(pages, rows), starts, counts
        tokens = Tokens.of(*given)
        cache = BlockCache(
            pool,
            None,
            pool.places(tokens),
            View.of(pool, Tokens.of(*(x[:singles] for x in given))),
            View.of(pool, Tokens.of(*(x[singles:] for x in given)), singles),
        )
        of, positions = tf.gather(rows, tokens.rows), tokens.positions
        padded = tf.ragged.constant(texts).to_tensor()
        ids = tf.gather_nd(padded, tf.stack([of, positions], 1))
        return stack.decode(
            ids[:, None],
            positions[:, None],
            lambda i: dataclasses.replace(cache, layer=i),
            tf.gather(longest, of)[:, None],
        )[:, 0]

    hidden, filled = [[] for _ in texts], [0, 0, 0]
    for counts in [(1, 4, 0), (1, 1, 7), (6, 0, 2), (0, 1, 1), (0, 0, 1)]:
        rows = sorted((i for i in range(3) if counts[i]), key=lambda i: counts[i] > 1)
        n = [counts[i] for i in rows]
        got = compute(
            tf.constant(rows), tf.constant([filled[i] for i in rows]), tf.constant(n),
            tf.constant(n.count(1)),
        )  # fmt: skip
        for i, part in zip(rows, np.split(got, np.cumsum(n)[:-1]), strict=True):
            hidden[i].extend(part)
            filled[i] += counts[i]
    for text, got in zip(texts, hidden, strict=True):
        expected = model.backbone(text[None])[0].numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.stack(got) / scale, expected / scale, atol=1e-5)


def test_clearing_touches_its_blocks_alone():
    config = GPTConfig(
        vocab_size=5, hidden_size=H * h, num_layers=LAYERS, num_heads=H, num_kv_heads=K,
        intermediate_size=8, max_position_embeddings=32,
    )  # fmt: skip
    memory = Memory("test_clearing", BlockPool.shape(config, 3, BLOCK), tf.float32)
    pool = BlockPool(memory, config, 3)
    memory.assign(tf.ones(memory.shape))
    pool.clear(tf.constant([2], tf.int32))
    left = memory.read().numpy().reshape(2 * LAYERS, 4, K, -1)  # parts, blocks, heads
    assert not left[:, 2].any()
    assert left[:, [0, 1, 3]].all()
