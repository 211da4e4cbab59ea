"""QuestionAnswerer: answers that stand in a context."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open

from gpt_keras import CausalLM, QuestionAnswerer, pieces, tasks, tokenizers
from gpt_keras.losses import Regularizers
from gpt_keras.tasks.question_answerer import answers_of

CONTEXT = "The cat sat on the mat 🙂, and the dog sat in 北京, near the naïve cat. "
ROWS = [
    (
        "Where did the dog sit?",
        CONTEXT * 2,
        {"text": ["北京", "in 北京"], "answer_start": [45, 42]},
    ),
    ("Why?", CONTEXT, {"text": [], "answer_start": []}),
    ("", "", None),
    ("Who?", "short", "short"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_byte_level_bpe(["The cat sat on the mat, and the dog."] * 3, 300)


def configured(tiny, **options):
    options = {"window_length": 32, "doc_stride": 9, "max_answer_length": 6, **options}
    return tiny.replace(
        vocab_size=300, bos_token_id=7, max_position_embeddings=48,
        task_params={"extractive_qa": options},
    )  # fmt: skip


@pytest.fixture(params=["causal", "encoder"])
def model(tiny, tokenizer, request):
    config = configured(tiny)
    if request.param == "encoder":
        config = config.replace(causal=False, token_types=2)
    return QuestionAnswerer(config, tokenizer)


def records(*rows):
    names = ("question", "context", "answers")
    return [
        dict(zip(names, row, strict=True)) | {"where": f"x.jsonl:{i}"}
        for i, row in enumerate(rows, 1)
    ]


def batch_of(found):
    """All examples as one batch, as `trainers.batches` makes it."""

    def dense(values):
        return tf.RaggedTensor.from_row_splits(values, found.row_splits).to_tensor().numpy()

    lengths = found.lengths
    return {
        "token_ids": dense(found.values),
        "padding_mask": np.arange(lengths.max()) < lengths[:, None],
        "sample_id": np.arange(len(lengths), dtype=np.int32),
        **found.targets,
        **{name: dense(values) for name, values in found.token_targets.items()},
    }


def loss_of(model, batch, *args):
    return model.batch_loss(batch, model.features(batch), *args)


def test_as_a_layer(tiny, check_layer):
    ids = np.random.default_rng(0).integers(3, 37, (3, 9)).astype(np.int32)
    check_layer(lambda policy: QuestionAnswerer(tiny, dtype=policy), ids, output_dtype="float32")


def test_answers():
    found = [answers_of(record) for record in records(*ROWS)]
    begin = len(CONTEXT[:45].encode())
    assert found[0] == [("北京", begin, begin + 6), ("in 北京", begin - 3, begin + 6)]
    assert found[1:3] == [[], []]
    assert found[3] == [("short", 0, 5)]
    one = {"text": " sat ", "answer_start": 7}
    for answers in (one, [one]):
        assert answers_of(records(("", CONTEXT, answers))[0]) == [("sat", 8, 11)]
    for answers in (
        "dag",
        {"text": ["cat"], "answer_start": [5]},
        {"text": "cat", "answer_start": -1},
    ):
        assert answers_of(records(("", CONTEXT, answers))[0]) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, "x", []), "question must be a string, got None"),
        (("x", 3, []), "context must be a string, got 3"),
        (("x", "x", [3]), "answers must be as in SQuAD"),
        (("x", "x", {"text": ["x"]}), "answers must be as in SQuAD"),
        (("x", "x", {"text": ["x"], "answer_start": []}), "answers must be as in SQuAD"),
        (("x", "x", {"text": "", "answer_start": 0}), "answers must be as in SQuAD"),
        (("x", "x", {"text": "x", "answer_start": "0"}), "answers must be as in SQuAD"),
    ],
)
def test_bad_records(tiny, tokenizer, row, message):
    rows = records(ROWS[0], row)
    with pytest.raises(ValueError, match=r"x\.jsonl:2: " + message):
        QuestionAnswerer.examples(rows, tokenizer, configured(tiny), 48)


def test_examples(model):
    tokenizer, causal = model.tokenizer, model.config.causal
    rows = records(*ROWS, ("?", "a cat", "dog"))
    found = model.examples(rows, tokenizer, model.config, 48)
    assert found.skipped == {"an answer that is not in its context": 1}
    assert set(found.record_ids) == {0, 1, 2, 3}
    context = rows[0]["context"].encode()
    with_answer = 0
    for i, record in enumerate(found.record_ids):
        here = slice(*found.row_splits[i : i + 2])
        starts, ends = (found.token_targets[f"byte_{name}"][here] for name in ("start", "end"))
        start, end = (int(found.targets[name][i]) for name in ("start", "end"))
        null = len(starts) - 1 if causal else 0
        if ends[start] > starts[start] and (start, end) != (null, null):
            with_answer += 1
            if record == 0:
                assert context[starts[start] : ends[end]].decode().strip() == "北京"
                assert starts[start] < 60  # where it was said to be, not where it stands again
            else:
                assert (record, starts[start], ends[end]) == (3, 0, 5)
        else:
            assert (start, end) == (null, null)
    assert with_answer >= 3
    assert np.all(found.targets["weight"] == 1)
    assert ("token_type_ids" in found.token_targets) == (not causal)


def test_an_answer_in_no_window_is_not_learned(tiny, tokenizer):
    answer = CONTEXT[4:60]
    rows = records(("?", CONTEXT, answer), ("?", CONTEXT, "cat"))
    found = QuestionAnswerer.examples(rows, tokenizer, configured(tiny, doc_stride=50), 48)
    assert [set(found.targets["weight"][found.record_ids == i]) for i in (0, 1)] == [{0}, {1}]


def test_shorter_than_a_window(tiny, tokenizer):
    with pytest.raises(
        ValueError, match="--max_length=31 is less than a window, --window_length=32"
    ):
        QuestionAnswerer.examples(records(*ROWS), tokenizer, configured(tiny), 31)
    with pytest.raises(ValueError, match="--doc_stride=0: expected 1 or more"):
        QuestionAnswerer(configured(tiny, doc_stride=0))


def best_by_hand(logits, starts, ends, longest):
    """The best legal pair of tokens of a window, by trying all."""
    best = (-np.inf, 0, 0)
    for i in range(len(starts)):
        for j in range(i, min(i + longest, len(starts))):
            if ends[i] > starts[i] and ends[j] > starts[j]:
                best = max(best, (logits[i, 0] + logits[j, 1], -i, -j))
    return best[0], starts[-best[1]], ends[-best[2]]


def test_loss_and_best_spans(model):
    found = model.examples(records(*ROWS), model.tokenizer, model.config, 48)
    batch = batch_of(found)
    types = {k: batch[k] for k in ("token_type_ids",) if k in batch}
    logits = model(batch["token_ids"], padding_mask=batch["padding_mask"], **types).numpy()
    for regularizers in (Regularizers(), Regularizers(0.1, 0.01)):
        loss, total = loss_of(model, batch, regularizers), 0
        for i, length in enumerate(found.lengths):
            starts, ends = batch["byte_start"][i, :length], batch["byte_end"][i, :length]
            null = length - 1 if model.config.causal else 0
            score, begin, end = best_by_hand(logits[i], starts, ends, 6)
            ours = loss.outputs[i].numpy()
            if np.isfinite(score):
                np.testing.assert_allclose(ours[0], score, rtol=1e-4)
                assert ours[1:3].tolist() == [begin, end]
            else:
                assert ours[0] < -1e8
            np.testing.assert_allclose(ours[3], logits[i, null].sum(), rtol=1e-4, atol=1e-5)
            legal = (ends > starts) | (np.arange(length) == null)
            for k, name in enumerate(("start", "end")):
                some = logits[i, :length, k][legal].astype(np.float64)
                log_z = np.log(np.exp(some).sum())
                nll = log_z - logits[i, batch[name][i], k]
                if regularizers.z_loss:
                    nll = 0.9 * nll + 0.1 * (log_z - some.mean()) + 0.01 * log_z**2
                total += nll / 2
        np.testing.assert_allclose(loss.total, total, rtol=1e-4)
        np.testing.assert_allclose(
            tf.reduce_sum(loss.rows, 0), [loss.total, loss.weight], rtol=1e-5
        )


def evaluated(model, rows):
    found = model.examples(rows, model.tokenizer, model.config, 48)
    batch, source = batch_of(found), type("Source", (), {"examples": found})
    metrics, loss = model.new_metrics(source), loss_of(model, batch)
    metrics.update(batch, loss._replace(outputs=np.array(loss.outputs), rows=np.array(loss.rows)))
    return metrics


@pytest.mark.parametrize("piece", [2, 32])
@pytest.mark.parametrize("threshold", [-0.5, 0.5])
def test_serving_answers_as_an_evaluation_does(model, monkeypatch, piece, threshold):
    monkeypatch.setattr(pieces, "TOKENS", piece * 32)
    config = model.config.replace(
        task_params={
            "extractive_qa": {
                **model.config.task_params["extractive_qa"],
                "null_threshold": threshold,
            }
        }
    )
    served = QuestionAnswerer(config, model.tokenizer)
    served.set_weights(model.get_weights())
    questions, contexts = ([row[i] for row in ROWS] for i in range(2))
    answer = {k: v.numpy() for k, v in served.answer(questions, contexts).items()}
    texts = [text.decode() for text in answer["text"]]
    # What an evaluation finds is right if it is what the server says, and only then.
    rows = [
        (question, context, {"text": text, "answer_start": int(start)} if text.strip() else [])
        for question, context, text, start in zip(
            questions, contexts, texts, answer["start"], strict=True
        )
    ]
    assert evaluated(served, records(*rows)).result()["exact_match"] == 1
    for i, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        places = [answer[name][i] for name in ("start", "end", "byte_start", "byte_end")]
        if text:
            assert context[places[0] : places[1]] == text
            assert context.encode()[places[2] : places[3]].decode() == text
        else:
            assert places == [-1] * 4
        alone = served.answer(questions[i : i + 1], contexts[i : i + 1])
        for name, value in answer.items():
            if name == "score":
                np.testing.assert_allclose(alone[name][0], value[i], rtol=1e-4)
                assert 0 <= value[i] <= 1
            else:
                assert alone[name][0].numpy() == value[i]
    assert texts[2] == ""  # nothing to find
    assert served.answer(tf.zeros([0], tf.string), tf.zeros([0], tf.string))["text"].shape == (0,)


def test_learns(model):
    rows = records((ROWS[0][0], CONTEXT, ROWS[0][2]), *ROWS[1:])
    batch = batch_of(model.examples(rows, model.tokenizer, model.config, 48))
    optimizer = keras.optimizers.Adam(0.01)
    for _ in range(60):
        with tf.GradientTape() as tape:
            loss = loss_of(model, batch)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss.total, [v.value for v in variables]), variables)
    assert evaluated(model, rows).result()["exact_match"] == 1


def test_from_and_to_a_directory(tiny, tokenizer, tmp_path):
    CausalLM(configured(tiny), tokenizer).save_pretrained(tmp_path / "lm")
    model = QuestionAnswerer.from_pretrained(tmp_path / "lm")
    model.save_pretrained(tmp_path / "model")
    assert tasks.of(tmp_path / "model") is QuestionAnswerer
    back = QuestionAnswerer.from_pretrained(tmp_path / "model")
    assert back.config == model.config
    ids = np.array([[5, 6, 7]], np.int32)
    np.testing.assert_array_equal(back(ids), model(ids))


@pytest.mark.parametrize(
    ("family", "architecture", "prefix"),
    [
        ("llama", "LlamaForQuestionAnswering", "transformer.layers.0."),
        ("mistral", "MistralForQuestionAnswering", "model.layers.0."),
        ("phi3", "GptKerasForQuestionAnswerer", "model.layers.0."),
    ],
)
def test_names_of_tensors(tiny, tmp_path, family, architecture, prefix):
    """Those of Hugging Face, whose Llama has another prefix for this task."""
    QuestionAnswerer(tiny.replace(model_type=family)).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [architecture]
    with safe_open(tmp_path / "model" / "model.safetensors", "numpy") as file:
        names = set(file.keys())
    assert {"qa_outputs.weight", "qa_outputs.bias"} < names
    assert any(name.startswith(prefix) for name in names)
    QuestionAnswerer.from_pretrained(tmp_path / "model")
