"""What tests of the trainers share: a tiny model, as an object and as a directory, and batches."""

import json
import os
import sys

import keras
import numpy as np
import pytest

import gpt_keras
from gpt_keras import tokenizers
from trainers import shards
from trainers.preparation import Documents, Position, Preparation

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "hat", "fast", "slow", "good", "bad")
CONFIG = gpt_keras.GPTConfig(
    vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
    max_position_embeddings=32, initializer_range=0.2, eos_token_ids=(0,), pad_token_id=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(5)


@pytest.fixture(scope="session", autouse=True)
def _found_by_processes():
    """What tests start finds the packages where the tests have found them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture
def config():
    return CONFIG


class LanguageSource:
    """A `BatchSource` of random tokens, two segments a row."""

    source_names = ()
    steps_per_epoch, shapes, num_samples, num_tokens, num_bytes = 3, [(8, 12)], 24, 288, 300

    def batch(self, step):
        rng = np.random.default_rng([1, step % self.steps_per_epoch])
        segment_ids = np.where(np.arange(12) < rng.integers(3, 9, (8, 1)), 1, 2).astype(np.int32)
        segment_ids[0, 9:] = 0  # padding
        return {
            "token_ids": rng.integers(0, 40, (8, 12)).astype(np.int32),
            "segment_ids": segment_ids,
            "loss_mask": ((rng.random((8, 12)) < 0.7) & (segment_ids > 0)).astype(np.float32),
            "sample_id": np.arange(8, dtype=np.int32) + 8 * (step % self.steps_per_epoch),
        }


class LabelSource:
    """A `BatchSource` of two lengths; a text's label follows from its last token."""

    source_names = ()
    steps_per_epoch, shapes, num_samples, num_tokens, num_bytes = 4, [(8, 6), (8, 10)], 30, 200, 0

    def batch(self, step):
        index = step % self.steps_per_epoch
        rng, T = np.random.default_rng([2, index]), (6, 10)[index % 2]
        lengths = rng.integers(2, T + 1, 8)
        token_ids = rng.integers(0, 40, (8, T)).astype(np.int32)
        weight = np.ones(8, np.float32)
        sample_id = np.arange(8, dtype=np.int32) + 8 * index
        if index == self.steps_per_epoch - 1:
            weight[6:], sample_id[6:], lengths[6:] = 0, -1, 1
        last = token_ids[np.arange(8), lengths - 1]
        return {
            "token_ids": token_ids,
            "padding_mask": np.arange(T) < lengths[:, None],
            "label": np.where(weight > 0, last % 3, 0).astype(np.int32),
            "weight": weight,
            "sample_id": sample_id,
        }


@pytest.fixture
def language_source():
    return LanguageSource()


@pytest.fixture
def label_source():
    return LabelSource()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A tiny language model with a tokenizer and a chat template, as a directory."""
    keras.utils.set_random_seed(11)
    texts = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = tokenizers.train_byte_level_bpe(
        texts, 320, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], chat_template=template
    )
    config = CONFIG.replace(vocab_size=tokenizer.vocab_size, max_position_embeddings=48)
    path = tmp_path_factory.mktemp("model") / "tiny"
    gpt_keras.CausalLM(config, tokenizer=tokenizer).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """`labelled.jsonl`, `chat.jsonl` and `texts.txt`; the word `good` or `bad` is the label."""
    path, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def text():
        return " ".join(rng.choice(WORDS[:11], rng.integers(2, 9)))

    labelled = []
    for i in range(40):
        label = ("good", "bad")[i % 2]
        labelled.append({"text": f"{text()} {label}", "label": label})
    chats = [
        {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": "a"}]}
        for _ in range(12)
    ]
    for name, rows in (("labelled", labelled), ("chat", chats)):
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "texts.txt").write_text("\n".join(text() for _ in range(60)))
    return path


@pytest.fixture
def make_shards(model_dir):
    """Function that makes a folder of shards out of token lists, and opens it."""

    def make(path, train, held_out=(), per_shard=4, tokenizer=model_dir):
        with Preparation(path, {"shard_tokens": per_shard}, []) as preparation:
            made_by = tokenizers.load(tokenizer)
            preparation.save_tokenizer(made_by)
            for at in range(0, max(len(train), len(held_out)), per_shard):
                parts = {
                    split: as_documents(documents[at : at + per_shard])
                    for split, documents in (("train", train), ("eval", held_out))
                }
                preparation.add(parts, [bytes([at]) * 16], {"read": per_shard}, Position())
                preparation.commit(np.uint16)
            preparation.finish(made_by)
        return shards.open_folder(path)

    return make


def as_documents(token_lists):
    """`Documents` of which each token but the first stands for two bytes."""
    lengths = np.array([len(tokens) for tokens in token_lists], np.int64)
    tokens = np.array([token for tokens in token_lists for token in tokens], np.uint16)
    return Documents(tokens, lengths, 2 * int((lengths - 1).sum()))
