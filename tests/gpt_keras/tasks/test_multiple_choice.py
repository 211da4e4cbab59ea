"""MultipleChoice: the likeliest of some texts after a question."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt_keras import CausalLM, GPTConfig, MultipleChoice, SequenceClassifier, tasks, tokenizers
from gpt_keras.losses import PLAIN, Regularizers
from gpt_keras.tasks import MultiTask

QUESTIONS = [
    ("Is the cat on the mat?", ["yes", "no"], "no"),
    ("今天天气?\n", ["很好", "🙂🙂🙂", "The dog sat on the mat, and the cat."], 2),
    ("", ["the", " cat", "x"], 0),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_byte_level_bpe(["The cat sat on the mat, and the dog."] * 3, 300)


@pytest.fixture
def model(tiny, tokenizer):
    return MultipleChoice(configured(tiny), tokenizer)


def configured(tiny, **options) -> GPTConfig:
    return tiny.replace(
        vocab_size=300, bos_token_id=7, max_position_embeddings=64,
        task_params={"multiple_choice": options} if options else {},
    )  # fmt: skip


def records(*rows):
    return [
        {"question": question, "choices": choices, "answer": answer, "where": f"x.jsonl:{i}"}
        for i, (question, choices, answer) in enumerate(rows, 1)
    ]


def batch_of(found):
    """All examples as one batch, as `trainers.batches` makes it."""
    tokens = tf.RaggedTensor.from_row_splits(found.values, found.row_splits)
    lengths = found.lengths
    return {
        "token_ids": tokens.to_tensor().numpy(),
        "padding_mask": np.arange(lengths.max()) < lengths[:, None],
        "sample_id": np.arange(len(lengths), dtype=np.int32),
        **found.targets,
    }


def loss_of(model, batch, regularizers=PLAIN):
    return model.batch_loss(batch, model.features(batch), regularizers)


def by_hand(model, question, choice):
    """Log-probability of a choice's tokens by the logits of the whole row."""
    before, said = model.tokenizer.tokenize([question, choice]).to_list()
    before = before or [7]
    logits = model(np.array([before + said], np.int32))[0]
    logprobs = tf.nn.log_softmax(logits).numpy()[len(before) - 1 : -1]
    return logprobs[np.arange(len(said)), said].sum(), len(said)


def test_examples(tiny, tokenizer):
    found = MultipleChoice.examples(records(*QUESTIONS), tokenizer, configured(tiny), 64)
    rows = [row.tolist() for row in np.split(found.values, found.row_splits[1:-1])]
    assert found.group == 3
    pieces = lambda *texts: [  # noqa: E731
        token for ids in tokenizer.tokenize(list(texts)).to_list() for token in ids
    ]
    assert rows == [
        pieces("Is the cat on the mat?", " yes"),
        pieces("Is the cat on the mat?", " no"),
        [7],
        pieces("今天天气?\n", "很好"),  # white space is there already
        pieces("今天天气?\n", "🙂🙂🙂"),
        pieces("今天天气?\n", "The dog sat on the mat, and the cat."),
        [7, *pieces("the")],  # there is no question to part it from
        [7, *pieces(" cat")],
        [7, *pieces("x")],
    ]
    assert found.targets["weight"].tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert found.targets["answer"].argmax(axis=1).tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    sizes = found.targets["said_mask"].sum(axis=1)
    for row, size in enumerate(sizes.astype(int)):
        assert found.targets["said"][row, :size].tolist() == rows[row][len(rows[row]) - size :]
    assert found.targets["size"][found.targets["weight"] > 0].tolist() == [
        size for size in sizes if size
    ]
    assert found.record_ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_a_long_question_loses_its_beginning_and_a_long_choice_its_record(tiny, tokenizer):
    rows = records(("cat " * 9 + "dog?", ["yes", "no"], 0), ("?", ["x", "☃" * 9], 0))
    found = MultipleChoice.examples(rows, tokenizer, configured(tiny), 12)
    first, second = np.split(found.values, found.row_splits[1:-1])
    ids, yes = tokenizer.tokenize([rows[0]["question"], " yes"]).to_list()
    assert first.tolist() == [*ids[-(12 - max(found.targets["size"].astype(int))) :], *yes]
    assert second[: -int(found.targets["size"][1])].tolist() == first[: -len(yes)].tolist()
    assert found.num_truncated == 1
    assert list(found.skipped.values()) == [1]
    assert found.record_ids.tolist() == [0, 0]
    with pytest.raises(ValueError, match="nothing is left of 1 questions: 1 with a choice without"):
        MultipleChoice.examples(rows[1:], tokenizer, configured(tiny), 12)


@pytest.mark.parametrize("unit", ["token", "byte", "none"])
def test_scores_and_loss(tiny, tokenizer, unit):
    config = configured(tiny, length_normalization=unit, choice_separator="_")
    model = MultipleChoice(config, tokenizer)
    batch = batch_of(model.examples(records(*QUESTIONS), tokenizer, config, 64))
    loss = loss_of(model, batch)
    chosen = model.choose(*zip(*((q, c) for q, c, _ in QUESTIONS), strict=True))
    total = 0
    for i, (question, choices, _) in enumerate(QUESTIONS):
        scores = []
        for choice in choices:
            parted = question[-1:].strip() and choice[:1].strip()
            text = "_" + choice if parted else choice
            logprob, num_tokens = by_hand(model, question, text)
            divisor = {"token": num_tokens, "byte": len(text.encode()), "none": 1}
            scores.append(logprob / divisor[unit])
        ours = loss.outputs[3 * i : 3 * i + len(choices), 0]
        np.testing.assert_allclose(ours, scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(chosen.scores[i], scores, rtol=1e-4, atol=1e-5)
        assert chosen.index[i] == np.argmax(scores)
        right = [1, 2, 0][i]
        of_question = np.log(np.exp(scores).sum()) - scores[right]
        np.testing.assert_allclose(loss.rows[3 * i], [of_question, 1], rtol=1e-4)
        total += of_question
    np.testing.assert_allclose(loss.total, total, rtol=1e-4)
    assert float(loss.weight) == 3
    np.testing.assert_allclose(tf.reduce_sum(loss.rows, 0), [loss.total, 3], rtol=1e-5)


def test_regularizers(model):
    found = model.examples(records(*QUESTIONS[:2]), model.tokenizer, model.config, 64)
    batch = batch_of(found)
    scores = loss_of(model, batch).outputs.numpy()[:, 0]
    expected = 0
    for some, right in ((scores[:2], 1), (scores[3:], 2)):
        log_z = np.log(np.exp(some).sum())
        expected += 0.9 * (log_z - some[right]) + 0.1 * (log_z - some.mean()) + 0.01 * log_z**2
    total = loss_of(model, batch, Regularizers(0.1, 0.01)).total
    np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_rows_that_fill_a_batch_add_nothing(model):
    batch = batch_of(model.examples(records(*QUESTIONS), model.tokenizer, model.config, 64))
    filler = {name: np.zeros_like(value[:3]) for name, value in batch.items()}
    filler["padding_mask"][:, 0], filler["sample_id"][:] = True, -1
    filled = {name: np.concatenate([batch[name], filler[name]]) for name in batch}
    with tf.GradientTape(persistent=True) as tape:
        losses = [loss_of(model, some) for some in (batch, filled)]
        plain, more = (loss.total for loss in losses)
    variables = [v.value for v in model.trainable_variables]
    for one, other in zip(
        tape.gradient(plain, variables), tape.gradient(more, variables), strict=True
    ):
        np.testing.assert_allclose(
            tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_allclose(plain, more, rtol=1e-5)
    results = []
    for some, loss in zip((batch, filled), losses, strict=True):
        metrics = model.new_metrics()
        arrays = [np.asarray(x) for x in (loss.outputs, loss.rows)]
        metrics.update(some, loss._replace(outputs=arrays[0], rows=arrays[1]))
        results.append(metrics.details())
    assert results[0] == pytest.approx(results[1])
    assert results[0]["questions"] == 3


def test_learns_the_right_choices(model):
    batch = batch_of(model.examples(records(*QUESTIONS), model.tokenizer, model.config, 64))
    optimizer = keras.optimizers.Adam(0.01)
    for _ in range(25):
        with tf.GradientTape() as tape:
            loss = loss_of(model, batch)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss.total, [v.value for v in variables]), variables)
    assert model.choose(*zip(*((q, c) for q, c, _ in QUESTIONS), strict=True)).index == [1, 2, 0]


def test_groups_are_not_cut(model):
    batch = batch_of(model.examples(records(*QUESTIONS), model.tokenizer, model.config, 64))
    cut = {name: value[:4] for name, value in batch.items()}
    with pytest.raises(ValueError, match="4 rows at once, and 3 choices belong together"):
        loss_of(model, cut)


@pytest.mark.parametrize("tied", [True, False])
def test_its_checkpoint_is_one_of_a_causal_lm(tiny, tokenizer, tmp_path, tied):
    config = configured(tiny, length_normalization="byte").replace(tie_embeddings=tied)
    model = MultipleChoice(config, tokenizer)
    model.save_pretrained(tmp_path / "model")
    assert tasks.of(tmp_path / "model") is CausalLM
    ids = np.array([[5, 6, 7]], np.int32)
    for kind in (CausalLM, MultipleChoice):
        back = kind.from_pretrained(tmp_path / "model")
        assert back.config == config
        np.testing.assert_array_equal(back(ids), model(ids))


def test_alone(tiny, tokenizer):
    params = {"a": {"task": "multiple_choice"}, "b": {"task": "multiple_choice"}}
    with pytest.raises(ValueError, match="the language model's own head: train it alone"):
        MultiTask(configured(tiny).replace(task_params=params), tokenizer)
    other = SequenceClassifier(configured(tiny).replace(id2label=("a", "b")))
    with pytest.raises(ValueError, match="train it alone"):
        MultipleChoice(configured(tiny), tokenizer, backbone=other.backbone)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, ["a", "b"], 0), "question must be a string, got None"),
        (("x", "a, b", 0), "choices must be a list of two or more different texts, got 'a, b'"),
        (("x", ["a"], 0), "choices must be a list of two or more"),
        (("x", ["a", ""], 0), "choices must be a list of two or more"),
        (("x", ["a", "a"], 0), "choices must be a list of two or more different"),
        (("x", ["a", "b"], 2), r"answer must be one of the choices \['a', 'b'\], or its index"),
        (("x", ["a", "b"], "c"), "answer must be one of the choices"),
        (("x", ["a", "b"], True), "answer must be one of the choices"),
    ],
)
def test_bad_records(tiny, tokenizer, row, message):
    with pytest.raises(ValueError, match=r"x\.jsonl:2: " + message):
        MultipleChoice.examples(records(QUESTIONS[0], row), tokenizer, configured(tiny), 64)
