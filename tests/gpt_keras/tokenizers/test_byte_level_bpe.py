"""Ids and texts of the whole tokenizer, against Hugging Face's, with small vocabularies."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from export import stock_ops
from gpt_keras.tokenizers import word_splitting

CHINESE = "这本书很好看，作者的文笔也不错。我喜欢！但是价格有点贵。"
EMOJI = "so happy 🙂🙂 #blessed @you’re 👍🏽 naïve café ½ 10² ١٢٣ can't we'll I'D "
TEXTS = [
    "", " ", "\n", "Hello world", "don't  stop\n\n", CHINESE, EMOJI, "a" * 300, "\0", "a\0b\0",
    "<|endoftext|>", "<|im_start|>user\nhi<|endoftext|><|endoftext|> there", "<|endoftext|", "é",
]  # fmt: skip


def test_random_texts(trained, fields, pair, random_texts, check_ids):
    _, reference = pair(fields)
    texts = TEXTS + random_texts(1500, seed=2, extra=["<|endoftext|>", "<|im_", "start|>"])
    ids = check_ids(trained, reference, texts)
    assert ids.dtype == tf.int32
    assert ids.shape.as_list() == [len(texts), None]
    assert trained.detokenize(ids).numpy().tolist() == [text.encode() for text in texts]
    plain = check_ids(trained, reference, texts, allow_special=False)
    assert not set(plain.values.numpy()) & set(trained.special_tokens.values())
    assert trained.detokenize(plain).numpy().tolist() == [text.encode() for text in texts]


def test_long_texts(trained, fields, pair, english, check_ids):
    _, reference = pair(fields)
    check_ids(trained, reference, [*english, CHINESE * 300, "".join(english)[:50000]])


def test_a_row_does_not_depend_on_its_neighbours(trained):
    together = trained.tokenize(TEXTS).to_list()
    assert together == [trained.tokenize(text).to_list()[0] for text in TEXTS]
    assert together == trained.tokenize(TEXTS[::-1]).to_list()[::-1]


def test_kinds_of_input(trained):
    expected = trained.tokenize(["Hello"]).to_list()
    for text in ("Hello", b"Hello", ("Hello",), tf.constant("Hello"), np.array(["Hello"])):
        assert trained.tokenize(text).to_list() == expected
    for nothing in ([], tf.constant([], tf.string)):
        assert trained.tokenize(nothing).to_list() == []
        assert trained.detokenize(trained.tokenize(nothing)).shape == (0,)
    hello = [b"Hello"]
    ids = expected[0]
    for rows in ([ids], tf.constant([ids]), np.array([ids]), tf.constant([ids], tf.int64)):
        assert trained.detokenize(rows).numpy().tolist() == hello
    assert trained.detokenize([[], ids, []]).numpy().tolist() == [b"", *hello, b""]


def test_inside_a_function(trained):
    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def there_and_back(texts):
        ids = trained.tokenize(tf.reshape(texts, [-1]))
        return ids.to_tensor(), trained.detokenize(ids)

    ids, texts = there_and_back(tf.constant([TEXTS]))
    assert texts.numpy().tolist() == [text.encode() for text in TEXTS]
    assert ids.dtype == tf.int32


def test_inside_a_dataset(trained):
    data = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(trained.tokenize)
    rows = [row for batch in data for row in batch.to_list()]
    assert rows == trained.tokenize(TEXTS).to_list()


def test_invalid_utf8_is_replaced_as_python_does(trained):
    texts = [
        b"a\xff\xe4\xbd b",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x99",
        b"<|endoftext|>\xff\xff<|endoftext|>",
    ]
    replaced = [text.decode("utf-8", errors="replace") for text in texts]
    assert trained.tokenize(texts).to_list() == trained.tokenize(replaced).to_list()


def test_token_bytes(trained):
    table = trained.token_bytes.numpy()
    assert table.shape == (trained.vocab_size,)
    for i in range(0, trained.vocab_size, 97):
        assert trained.detokenize([[i]]).numpy()[0] == table[i]
    assert table[trained.token_to_id("Ġthe")] == b" the"
    assert table[trained.eos_token_id] == b"<|endoftext|>"
    cut = trained.tokenize("日").to_list()[0][:1]  # the first byte of three
    assert trained.detokenize([cut]).numpy()[0] == "日".encode()[:1]


def test_special_tokens_can_be_left_out(trained):
    ids = trained.tokenize(["<|im_start|>hi<|endoftext|>", "<|endoftext|>"])
    assert trained.detokenize(ids, skip_special_tokens=True).numpy().tolist() == [b"hi", b""]
    assert trained.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1}


def test_tokens_and_ids(trained):
    for i in (0, 17, trained.vocab_size - 1, np.int64(300)):
        assert trained.token_to_id(trained.id_to_token(i)) == i
    assert trained.token_to_id("no such token") is None
    with pytest.raises(ValueError, match=r"token id 99999: no such token; ids are in \[0, 1500\)"):
        trained.id_to_token(99999)


@pytest.mark.parametrize("bad", [-1, 1500, 2**31 - 1])
def test_ids_outside_the_vocabulary(trained, bad):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        trained.detokenize([[3, bad, 4], [bad + 0]])
    assert "a token id is outside the vocabulary, [0, 1500):" in error.value.message
    assert f"[{bad}]" in error.value.message


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (3, r"texts: expected a batch of strings, shape \(B,\), received int32"),
        ([["a"]], r"received string of shape \(1, 1\)"),
        (["a", 3], "texts: expected strings, received"),
        (["a", "b\ud800"], r"text 1 holds the lone surrogate '\\ud800' at 1"),
        ([None], "texts: expected strings, received"),
    ],
)
def test_what_is_no_text(trained, texts, words):
    with pytest.raises(ValueError, match=words):
        trained.tokenize(texts)


@pytest.mark.parametrize(
    "ids", [[1, 2], 3, [[1.5]], [["a"]], tf.constant([[1.0]]), tf.ragged.constant([[[1]]])]
)
def test_what_are_no_ids(trained, ids):
    with pytest.raises(ValueError, match=r"^ids: expected rows of int"):
        trained.detokenize(ids)


def changed(fields, **model):
    fields = copy.deepcopy(fields)
    fields["model"].update(model)
    return fields


def without(fields, chars):
    """Fields without the tokens that hold one of these characters, but for special ones."""
    model, special = fields["model"], [token["content"] for token in fields["added_tokens"]]
    kept = [token for token in model["vocab"] if token in special or not set(chars) & set(token)]
    vocab = {token: i for i, token in enumerate(kept)}
    merges = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= vocab.keys()]
    return changed(fields, vocab=vocab, merges=merges)


@pytest.mark.parametrize("unk", [None, "<|endoftext|>", "e"])
@pytest.mark.parametrize("fuse", [False, True])
def test_bytes_that_the_vocabulary_lacks(fields, pair, random_texts, check_ids, unk, fuse):
    fields = without(fields, "tĠ½Ċä")  # a letter, white space, and bytes of other characters
    ours, reference = pair(changed(fields, unk_token=unk, fuse_unk=fuse))
    texts = [*TEXTS, "tatat ttt", "att att", "½½ äöü", *random_texts(600, seed=3)]
    check_ids(ours, reference, texts)


def test_ignore_merges(fields, pair, random_texts, check_ids):
    fields = changed(fields, ignore_merges=True)
    vocab = fields["model"]["vocab"]
    for token in ("Ġworld", "zqzq", "Ġ的", "好看", "å"):  # that no merge makes
        vocab.setdefault(token, len(vocab))
    words = ["zqzq", " zqzq", "zqzqzq", " world", "worlds world", "好看", "x好看", "zqzq日zqzq"]
    ours, reference = pair(fields)
    check_ids(ours, reference, words + random_texts(600, seed=4, extra=words))
    ours, reference = pair(changed(fields, ignore_merges=False))
    check_ids(ours, reference, words + random_texts(600, seed=5, extra=words))


def test_merges_in_any_order_and_twice(fields, pair, random_texts, check_ids, english):
    merges = fields["model"]["merges"]
    rng = np.random.default_rng(0)
    shuffled = [merges[i] for i in rng.permutation(len(merges))]
    for others in (shuffled, merges + merges[:200]):
        ours, reference = pair(changed(fields, merges=others))
        check_ids(ours, reference, [*random_texts(500, seed=6), english[0][:20000]])


def test_merges_as_strings(fields, pair, check_ids):
    merges = [" ".join(pair) for pair in fields["model"]["merges"]]
    check_ids(*pair(changed(fields, merges=merges)), TEXTS)


def test_tiny_vocabularies(fields, pair, check_ids):
    for vocab, merges in (
        ({"a": 0}, []),
        ({"a": 0, "b": 1, "ab": 2}, [["a", "b"]]),
        ({"ab": 0}, []),
        ({"a": 7, "b": 3}, []),
    ):
        changes = changed(fields, vocab=vocab, merges=merges) | {"added_tokens": []}
        ours, reference = pair(changes)
        check_ids(ours, reference, ["abab ab", "日a", "", "c"])
        assert ours.vocab_size == max(vocab.values()) + 1


def test_add_prefix_space(fields, pair, random_texts, check_ids):
    byte_level = fields["pre_tokenizer"] | {"add_prefix_space": True}
    digits = {"type": "Digits", "individual_digits": True}
    sequence = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    for node in (byte_level, sequence):
        ours, reference = pair(fields | {"pre_tokenizer": node})
        texts = [*TEXTS, "a1b22 c", *random_texts(400, seed=7, extra=["<|endoftext|>"])]
        check_ids(ours, reference, texts)


@pytest.mark.parametrize(
    ("pattern", "normalizer", "ignore_merges"),
    [
        (word_splitting.LLAMA3, None, True),  # Llama 3
        (word_splitting.CL100K, None, False),
        (word_splitting.QWEN2, {"type": "NFC"}, False),  # Qwen2, 2.5, 3
        (word_splitting.O200K, None, False),  # GPT-4o, gpt-oss
        (word_splitting.TEKKEN, None, True),  # Mistral NeMo
        (None, {"type": "NFC"}, False),  # GPT-NeoX, OLMo
    ],
)
def test_families(
    fields, pair, random_texts, check_ids, english, pattern, normalizer, ignore_merges
):
    fields = changed(fields, ignore_merges=ignore_merges) | {"normalizer": normalizer}
    if pattern:
        split = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        byte_level = fields["pre_tokenizer"] | {"use_regex": False}
        fields["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    ours, reference = pair(fields)
    texts = [*TEXTS, english[0], "e\u0301", "<|endoftext|>\u0301e\u0301", "가 1234567"]
    texts += random_texts(800, seed=12, extra=["<|endoftext|>", "e\u0301", "'LL", "\n\n"])
    ids = check_ids(ours, reference, texts)
    check_ids(ours, reference, texts, allow_special=False)
    decoded = reference.decode_batch(ids.to_list(), skip_special_tokens=False)
    assert ours.detokenize(ids).numpy().tolist() == [text.encode() for text in decoded]


def test_saved_model_in_a_plain_session(fields, pair, tmp_path):
    """What a server does: static tables come with the graph, whoever loads it."""
    trained, _ = pair(fields | {"normalizer": {"type": "NFC"}})

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = trained

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, texts):
            ids = self.tokenizer.tokenize(texts)
            plain = self.tokenizer.tokenize(texts, allow_special=False)
            return {
                "ids": ids.values,
                "splits": ids.row_splits,
                "text": self.tokenizer.detokenize(ids),
                "said": self.tokenizer.detokenize(plain, skip_special_tokens=True),
            }

    served = Served()
    tf.saved_model.save(served, str(tmp_path), signatures=served.serve)
    saved = stock_ops.read(tmp_path)
    assert stock_ops.check(saved) == []
    (library,) = (meta_graph.graph_def.library for meta_graph in saved.meta_graphs)
    ops = {node.op for function in library.function for node in function.node_def}
    assert "LookupTableFindV2" in ops
    assert not [op for op in ops if "MutableHashTable" in op]  # they would grow with traffic
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = graph.signature_def["serving_default"]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        got = session.run(outputs, {signature.inputs["texts"].name: [t.encode() for t in TEXTS]})
    ids = trained.tokenize(TEXTS)
    np.testing.assert_array_equal(got["ids"], ids.values)
    np.testing.assert_array_equal(got["splits"], ids.row_splits)
    assert got["text"].tolist() == got["said"].tolist() == [text.encode() for text in TEXTS]
