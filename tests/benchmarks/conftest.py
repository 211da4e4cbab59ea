"""A tiny language model, exported once a test process."""

import keras
import pytest

import gpt_keras
from benchmarks.load import COMMON
from export import saved_model
from export.capacity import Capacity
from gpt_keras import tokenizers


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(folder of its versions, folder of the model)"""
    tokenizer = tokenizers.train_byte_level_bpe([COMMON] * 3, 320, ("<|endoftext|>",))
    config = gpt_keras.GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2,
        intermediate_size=40, max_position_embeddings=128, initializer_range=0.3, bos_token_id=0,
    )  # fmt: skip
    keras.utils.set_random_seed(3)
    model = gpt_keras.CausalLM(config, tokenizer)
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder / "model")
    capacity = Capacity.of(config, slots=4, tokens=512, block=8)
    quick = {"with_warmup": False, "with_verification": False}
    saved_model.export(model, folder / "versions", capacity=capacity, **quick)
    return folder / "versions", folder / "model"
