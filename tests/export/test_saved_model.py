"""What an export leaves on disk, and when it refuses to leave anything."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import protocol, saved_model, signatures, stock_ops, verification
from export.capacity import Capacity
from gpt_keras import chat, tokenizers

pytestmark = pytest.mark.xdist_group("exported_causal_lm")  # one export for all of them


def logs(directory):
    """The warm-up requests of a version."""
    records = tf.data.TFRecordDataset(str(directory / protocol.WARMUP_FILE))
    return [protocol.PredictionLog.FromString(record.numpy()) for record in records]


QUICK = {"with_verification": False, "with_warmup": False}


def small(task, tokenizer, **changes):
    """A model that is exported in a second."""
    fields = {
        "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8,
        "max_position_embeddings": 32, "initializer_range": 0.5, "bos_token_id": 0, **changes,
    }  # fmt: skip
    keras.utils.set_random_seed(5)
    return task(gpt_keras.GPTConfig(tokenizer.vocab_size, **fields), tokenizer)


@pytest.fixture
def small_classifier(tokenizer):
    return small(gpt_keras.SequenceClassifier, tokenizer, id2label=("no", "yes"))


@pytest.mark.parametrize("name", ["causal_lm", "classifier"])
def test_weights_are_saved_once_and_as_variables(request, name):
    exported = request.getfixturevalue(name)
    weights = sum(4 * w.shape.num_elements() for w in exported.model.weights)
    data = exported.saved_model_dir / "variables" / "variables.data-00000-of-00001"
    description = 60_000  # of the objects, in the same file
    assert weights <= data.stat().st_size <= weights + description
    written = stock_ops.read(exported.saved_model_dir).meta_graphs[0].graph_def
    nodes = [*written.node, *(n for f in written.library.function for n in f.node_def)]
    constants = [n.attr["value"].tensor for n in nodes if n.op == "Const"]
    largest = max(t.ByteSize() for t in constants if t.dtype == tf.float32.as_datatype_enum)
    assert largest < 200


def test_a_stock_server_knows_it(causal_lm, classifier):
    for exported in (causal_lm, classifier):
        assert stock_ops.check(stock_ops.read(exported.saved_model_dir)) == []


def test_the_tokenizer_is_in_it_once(causal_lm):
    graph = stock_ops.read(causal_lm.saved_model_dir).meta_graphs[0].graph_def
    bodies = [f for f in graph.library.function if "continue_tokens" in f.signature.name]
    assert len(bodies) == 1  # of four signatures


def test_warm_up_requests(causal_lm, classifier):
    requests = [log.predict_log.request for log in logs(causal_lm.saved_model_dir)]
    assert [r.model_spec.signature_name for r in requests] == [
        "serving_default", "generate", "generate_tokens", "score", "stats", "chat",
    ]  # fmt: skip
    for request in requests:
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        infos = causal_lm.loaded.signature_defs[request.model_spec.signature_name].inputs
        for name, value in request.inputs.items():
            assert value.dtype == infos[name].dtype
        answer = causal_lm.loaded.run(request.model_spec.signature_name, inputs)
        assert all(len(value) == 1 for value in answer.values())
    kinds = [log.WhichOneof("log_type") for log in logs(classifier.saved_model_dir)]
    assert kinds == ["predict_log", "predict_log", "classify_log"]
    call = logs(classifier.saved_model_dir)[2].classify_log.request
    assert call.model_spec.signature_name == "classify_examples"
    (example,) = call.input.example_list.examples
    assert example.features.feature["text"].bytes_list.value


def test_versions_and_defaults_of_requests(tokenizer, tmp_path, capsys):
    model = small(gpt_keras.CausalLM, tokenizer)
    chosen = {
        "max_new_tokens": 7, "temperature": 0.5, "top_k": 9, "top_p": 0.25, "min_p": 0.125,
        "repetition_penalty": 1.25, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    }  # fmt: skip
    (tmp_path / "1").mkdir()
    assert saved_model.export(model, tmp_path, **QUICK, **chosen) == tmp_path / "2"
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]
    assert not (tmp_path / "2" / protocol.WARMUP_FILE).exists()
    written = stock_ops.read(tmp_path / "2").meta_graphs[0].signature_def["generate"]
    defaults = {name: tf.make_ndarray(value)[0] for name, value in written.defaults.items()}
    assert defaults == {**chosen, "seed": -1, "logprobs": 0, "stop": b"[]"}
    printed = capsys.readouterr().out
    assert "    max_new_tokens: int32 [?] = 7\n" in printed
    assert "    stop: string [?] = []\n" in printed
    with verification.load(tmp_path / "2") as loaded:
        answer = loaded.run("serving_default", {"prompts": ["The weather"]})
    assert answer["num_tokens"].tolist() == [7]


def test_special_tokens_are_put_before_prompts_but_not_before_chats(tokenizer, tmp_path):
    model, special = tokenizer.spec.model, list(tokenizer.special_tokens)
    begun = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        model.vocab, model.merges, special, pre_tokenizer="digits_gpt2", bos_token_id=0,
        add_bos_token=True, chat_template="{{ bos_token }}" + tokenizer.chat_template,
    )  # fmt: skip
    causal_lm = small(gpt_keras.CausalLM, begun)
    saved_model.export(causal_lm, tmp_path, version=1, with_warmup=False, require_chat=True)
    prompts = ["I am", "", "<|endoftext|>x"]
    messages = [[{"role": "user", "content": text}] for text in prompts]
    with verification.load(tmp_path / "1") as loaded:
        answer = loaded.run("generate", {"prompts": prompts})
        said = loaded.run("chat", {"messages": [json.dumps(m) for m in messages]})
    lengths = tokenizer.tokenize(prompts).row_lengths().numpy()
    assert answer["prompt_tokens"].tolist() == (lengths + 1).tolist()
    assert [text.decode() for text in answer["text"]] == causal_lm.generate(prompts)
    rendered = [chat.render(begun.chat_template, m, bos_token="<|endoftext|>") for m in messages]
    assert said["prompt_tokens"][0] == tokenizer.tokenize(rendered).row_lengths()[0]
    expected = causal_lm.generate(rendered[:2], add_special_tokens=False)
    assert [text.decode() for text in said["text"][:2]] == expected


@pytest.mark.parametrize("kernels", ["panels", "slabs"])
@pytest.mark.parametrize("shared", [True, False])
def test_split_matrices_answer_as_the_plain_ones(tokenizer, tmp_path, kernels, shared):
    model = small(gpt_keras.CausalLM, tokenizer, max_position_embeddings=64)
    prompts = ["The weather", "I am so"]
    expected = model.generate(prompts, max_new_tokens=9)
    capacity = Capacity.of(model.config) if shared else None
    saved_model.export(model, tmp_path, kernels=kernels, capacity=capacity, **QUICK)
    with verification.load(tmp_path / "1") as loaded:
        answer = loaded.run("generate", {"prompts": prompts, "max_new_tokens": [9]})
    assert [text.decode() for text in answer["text"]] == expected
    with pytest.raises(ValueError, match="are split"):
        model.save_pretrained(tmp_path / "saved")


def test_output_of_the_program(classifier, capsys):
    print(saved_model.describe(classifier.loaded.signature_defs))
    assert capsys.readouterr().out == (
        "classify (predict)\n"
        "    texts: string [?]\n"
        "    -> labels: string [?, 3]\n"
        "    -> scores: float32 [?, 3]\n"
        "classify_examples (classify)\n"
        "    inputs: string [?]\n"
        "    -> classes: string [?, 3]\n"
        "    -> scores: float32 [?, 3]\n"
        "serving_default (predict)\n"
        "    texts: string [?]\n"
        "    -> labels: string [?, 3]\n"
        "    -> scores: float32 [?, 3]\n"
    )


def test_tensorflow_loads_it_too(classifier):
    function = tf.saved_model.load(str(classifier.saved_model_dir)).signatures["classify"]
    labels, _ = classifier.model.classify_texts(tf.constant(["I am"]))
    assert (
        function(texts=tf.constant(["I am"]))["labels"].numpy().tolist() == labels.numpy().tolist()
    )


class WithPython(gpt_keras.SequenceClassifier):
    """Leaves the graph, as no server can."""

    def classify_texts(self, texts, pairs=None):
        labels, scores = super().classify_texts(texts, pairs)
        return labels, tf.ensure_shape(tf.py_function(lambda x: x, [scores], tf.float32), [None, 2])


class Forgetful(gpt_keras.SequenceClassifier):
    """Says something else in Python than in the graph."""

    def classify_texts(self, texts, pairs=None):
        labels, scores = super().classify_texts(texts, pairs)
        return labels, scores if tf.executing_eagerly() else scores[:, ::-1]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (WithPython, r"TensorFlow Serving would not run this model: op EagerPyFunc in function "),
        (
            Forgetful,
            r"answers otherwise than the Python model: classify\(\{'texts': \['The weather is",
        ),
    ],
)
def test_what_would_not_work_is_not_published(tokenizer, tmp_path, task, message):
    model = small(task, tokenizer, id2label=("no", "yes"))
    with pytest.raises(ValueError, match=message):
        saved_model.export(model, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_language_model_that_says_something_else_is_found(causal_lm, tokenizer):
    other = gpt_keras.CausalLM(causal_lm.model.config, tokenizer)
    entries = signatures.of(causal_lm.model)
    with pytest.raises(ValueError, match=r"answers otherwise than the Python model: generate\("):
        verification.verify(causal_lm.saved_model_dir, other, entries)


def test_tokens_that_are_as_good_as_the_best_are_no_difference(causal_lm):
    model = causal_lm.model
    prompt = model.tokenizer.tokenize(["The weather"]).to_list()[0]
    answer = []
    for _ in range(4):  # the fifth would be the stop token, see the fixture
        logits = model(np.array([prompt + answer], "int32"))[0, -1].numpy()
        answer.append(int(logits.argmax()))

    def is_greedy(answer, max_new_tokens, model=model):
        return verification.is_greedy(model, prompt, answer, max_new_tokens)

    assert is_greedy(answer, 4)
    assert is_greedy(answer, 9)
    assert is_greedy(answer[:3], 3)
    assert not is_greedy(answer[:3], 9)  # ends too soon
    *first, last = answer
    second = int(np.argsort(logits)[-2])
    assert not is_greedy([*first, second], 4)
    # Two tokens with the same column of the embedding are equally good after any text.
    assert second not in prompt + first
    table = model.backbone.embedding.table.numpy()
    table[:, second] = table[:, last]
    twin = gpt_keras.CausalLM(model.config, model.tokenizer)
    twin.set_weights(model.get_weights())
    twin.backbone.embedding.table.assign(table)
    assert is_greedy([*first, second], 4, model=twin)


def test_refusals(small_classifier, tokenizer, tmp_path):
    (tmp_path / "3").mkdir()
    refused = [
        (small_classifier, {"version": 3}, r"--version=3 exists in .*: leave --version out for 4"),
        (small_classifier, {"top_k": 3}, r"--top_k is of no use to a SequenceClassifier"),
        (small(gpt_keras.CausalLM, tokenizer), {"top_p": 0.0}, r"top_p=0.0: expected above 0"),
        (
            small(gpt_keras.CausalLM, tokenizer),
            {"max_new_tokens": 33},
            r"at least 1 and at most 32",
        ),
    ]
    for model, options, message in refused:
        with pytest.raises(ValueError, match=message):
            saved_model.export(model, tmp_path, **options)
    small_classifier.tokenizer = None
    with pytest.raises(ValueError, match=r"this model has no tokenizer: put tokenizer.json into"):
        saved_model.export(small_classifier, tmp_path)
    assert os.listdir(tmp_path) == ["3"]


def test_the_program(small_classifier, tmp_path):
    small_classifier.save_pretrained(tmp_path / "model")
    command = [
        sys.executable, "-m", "export.saved_model", f"--model={tmp_path / 'model'}",
        f"--output_dir={tmp_path / 'models' / 'mood'}", "--version=4", "--nowarmup",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.match(r".*/model: SequenceClassifier, [0-9,]+ parameters\n", result.stdout)
    assert "it answers as the Python model does\n" in result.stdout
    assert re.search(r"published: .*/models/mood/4\n$", result.stdout)
    version = tmp_path / "models" / "mood" / "4"
    assert sorted(os.listdir(version)) == ["assets", "saved_model.pb", "variables"]
