"""Tiny models with tokenizers of their own, exported once a test process."""

import contextlib
import dataclasses
import json
import pathlib
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_keras
from export import client, saved_model, verification
from export.capacity import Capacity
from export.server import model_config, servable, warmup
from export.server.configuration import Configuration
from export.server.manager import ModelManager
from export.server.model_server import ModelServer
from export.server.options import Options
from gpt_keras import generation, tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from gpt_keras.pooling import SentenceEmbedding

CORPUS = [
    "The weather is nice today, and the capital of France is Paris.",
    "I am so happy about this! I am so sad about that?",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "今天天气很好。 Naïve café, 3 × 7 = 21 🙂\n",
] * 3
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY = {
    "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 40,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


@dataclasses.dataclass
class Exported:
    """A model, the directory of the SavedModel made from it, and that loaded into a session."""

    model: gpt_keras.tasks.Task
    saved_model_dir: pathlib.Path
    loaded: verification.Loaded


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of about 300 tokens, with a chat template."""
    return tokenizers.train_byte_level_bpe(
        CORPUS, 320, SPECIAL_TOKENS, pre_tokenizer="digits_gpt2", chat_template=CHAT_TEMPLATE
    )


@pytest.fixture(scope="session")
def causal_lm(tokenizer, tmp_path_factory):
    """An exported CausalLM whose answers end with a stop token now and then."""
    config = gpt_keras.GPTConfig(vocab_size=tokenizer.vocab_size, bos_token_id=0, **TINY)
    keras.utils.set_random_seed(3)
    model = gpt_keras.CausalLM(config, tokenizer)
    # The token that a greedy answer has in fifth place becomes the one that ends answers.
    prompt = tokenizer.tokenize(["The weather"]).to_tensor()
    options = generation.GenerationOptions.make(1, max_new_tokens=8)
    spoken = generation.generate_tokens(model, prompt, tf.shape(prompt)[1:], options).tokens
    stop = int(spoken[0, 4])
    stopping = gpt_keras.CausalLM(config.replace(eos_token_ids=(stop,)), tokenizer)
    stopping.set_weights(model.get_weights())
    capacity = Capacity.of(config, slots=4, tokens=160, block=8)
    yield from _exported(stopping, tmp_path_factory.mktemp("causal_lm"), capacity)


@pytest.fixture(scope="session")
def classifier(tokenizer, tmp_path_factory):
    """An exported SequenceClassifier with three labels."""
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, id2label=("négatif", "neutral", "positive"), **TINY
    )
    keras.utils.set_random_seed(4)
    model = gpt_keras.SequenceClassifier(config, tokenizer)
    yield from _exported(model, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def tagger(tokenizer, tmp_path_factory):
    """An exported TokenClassifier with a conditional random field."""
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, id2label=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
        task_params={"token_classification": {"crf": True}}, **TINY,
    )  # fmt: skip
    keras.utils.set_random_seed(6)
    model = gpt_keras.TokenClassifier(config, tokenizer)
    for weight in model.crf.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    yield from _exported(model, tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="session")
def relation_extractor(tokenizer, tmp_path_factory):
    """An exported RelationExtractor with two relations."""
    labels = ("none", "lives_in", "works_for")
    config = gpt_keras.GPTConfig(vocab_size=tokenizer.vocab_size, id2label=labels, **TINY)
    keras.utils.set_random_seed(7)
    model = gpt_keras.RelationExtractor(config, tokenizer)
    model.score.bias.assign([-0.5, 0.2, 0.2])
    yield from _exported(model, tmp_path_factory.mktemp("relation_extractor"))


@pytest.fixture(scope="session")
def embedder(tokenizer, tmp_path_factory):
    """An exported TextEmbedder of normalized means, of 20 tokens at most."""
    bert = {**TINY, **FAMILIES["bert"].fixed, "activation": "gelu", "token_types": 2}
    config = gpt_keras.GPTConfig(vocab_size=tokenizer.vocab_size, model_type="bert", **bert)
    keras.utils.set_random_seed(5)
    embedding = SentenceEmbedding("mean", normalize=True, max_length=20)
    model = gpt_keras.TextEmbedder(config, tokenizer, embedding=embedding)
    yield from _exported(model, tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="session")
def masked_lm(tmp_path_factory):
    """An exported MaskedLM."""
    tokenizer = tokenizers.train_byte_level_bpe(
        CORPUS, 320, ("<|endoftext|>", "<mask>"), mask_token="<mask>"
    )
    bert = {**TINY, **FAMILIES["bert"].fixed, "activation": "gelu", "token_types": 2}
    config = gpt_keras.GPTConfig(vocab_size=tokenizer.vocab_size, model_type="bert", **bert)
    keras.utils.set_random_seed(6)
    yield from _exported(
        gpt_keras.MaskedLM(config, tokenizer), tmp_path_factory.mktemp("masked_lm")
    )


@pytest.fixture(scope="session")
def tiny():
    """Fields of a small architecture."""
    return TINY


@pytest.fixture(scope="session")
def regressor(tokenizer, tmp_path_factory):
    """An exported SequenceRegressor."""
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, id2label=("LABEL_0",), **TINY
    )  # fmt: skip
    keras.utils.set_random_seed(4)
    model = gpt_keras.SequenceRegressor(config, tokenizer)
    yield from _exported(model, tmp_path_factory.mktemp("regressor"))


@pytest.fixture(scope="session")
def answerer(tokenizer, tmp_path_factory):
    """An exported QuestionAnswerer with windows of 40 tokens."""
    options = {"window_length": 40, "doc_stride": 12, "max_answer_length": 5, "null_threshold": 0.5}
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, bos_token_id=0, task_params={"extractive_qa": options},
        **TINY,
    )  # fmt: skip
    keras.utils.set_random_seed(6)
    model = gpt_keras.QuestionAnswerer(config, tokenizer)
    yield from _exported(model, tmp_path_factory.mktemp("answerer"))


def _exported(model, path, capacity=None):
    saved_model_dir = saved_model.export(model, path, capacity=capacity)
    with verification.load(saved_model_dir) as loaded:
        yield Exported(model, saved_model_dir, loaded)


@pytest.fixture(scope="session")
def served():
    """A context: directory of a SavedModel -> a client of its server, and the URL of Predict."""
    return _served


@pytest.fixture(scope="session")
def post():
    """A function: URL and request -> answer, both of them JSON."""
    return _post


def _load(name, version, directory):
    loaded = servable.load(name, version, directory)
    warmup.run(loaded, directory)
    return loaded


@contextlib.contextmanager
def _served(saved_model_dir):
    config = model_config.of_one_model("m", str(saved_model_dir.parent))
    manager = ModelManager(_load)
    manager.start()
    configuration = Configuration(manager)
    configuration.start(config)
    assert manager.wait(timeout=500)  # each signature is warmed up
    server = ModelServer(configuration, Options(port=0, rest_api_port=0))
    with client.Client(f"127.0.0.1:{server.port}", "m") as asking:
        yield asking, f"http://127.0.0.1:{server.rest_api_port}/v1/models/m:predict"
    server.stop()
    manager.stop()


def _post(url, body):
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
        return json.load(response)
