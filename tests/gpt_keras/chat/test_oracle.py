"""Chat beside Hugging Face's `apply_chat_template`."""

import json
import pathlib
import random

import pytest
import tensorflow as tf

from gpt_keras import chat
from gpt_keras.tokenizers import train_byte_level_bpe

pytestmark = pytest.mark.oracle

SMOLLM2 = pathlib.Path(__file__).parents[3] / "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROLES = ("system", "user", "assistant")
BITS = (
    "Hi", "\n", "\n\n", "  ", "<|im_end|>", "<|im_start|>", "<|im_end", "|>", "漢字", "12345", "é",
    "user", "assistant\n", "<repo_name>", "\t", "!?", "👋🏽", " the capital", "<|endoftext|>", "\0",
    "</s>", "<|user|>\n", "[INST]", "it's",
)  # fmt: skip


def conversations(n, roles=ROLES):
    dice = random.Random(0)
    for _ in range(n):
        yield [
            {
                "role": dice.choice(roles),
                "content": "".join(dice.choices(BITS, k=dice.randrange(6))),
            }
            for _ in range(dice.randrange(1, 5))
        ]


def huggingface(tokenizer, directory, template):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(directory)
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    peer.chat_template = template
    return peer


def check_encode(tokenizer, peer):
    compiled = chat.compile_for(tokenizer)
    batch = list(conversations(200))
    got = compiled.encode(tf.constant([json.dumps(m) for m in batch]), tokenizer).to_list()
    num_clean = 0
    for messages, ids in zip(batch, got, strict=True):
        asked = {"add_generation_prompt": True, "return_dict": False}
        assert ids == peer.apply_chat_template(messages, sanitize_control_tokens=True, **asked)
        said = "".join(message["content"] for message in messages)
        if not any(token in said for token in tokenizer.special_tokens):
            assert ids == peer.apply_chat_template(messages, **asked)
            num_clean += 1
    assert num_clean > 20


def test_render(templates, name, tmp_path):
    tokenizer = train_byte_level_bpe(["some text"] * 4, 258, ["<|end|>"])
    peer = huggingface(tokenizer, tmp_path, templates[name])
    refusals = 0
    variables = chat.token_variables(tokenizer) | {"date_string": "26 Jul 2024"}
    for messages in conversations(200):
        for prompt in (True, False):
            try:
                expected = peer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=prompt,
                    date_string="26 Jul 2024",
                )  # fmt: skip
            except Exception:
                refusals += 1
                with pytest.raises(ValueError, match="The chat template"):
                    chat.render(templates[name], messages, prompt, **variables)
            else:
                assert chat.render(templates[name], messages, prompt, **variables) == expected
    assert refusals < 380


def test_encode(templates, tmp_path):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = train_byte_level_bpe(
        ["".join(BITS)] * 4, 300, special, pre_tokenizer="digits_gpt2",
        chat_template=templates["smollm2"],
    )  # fmt: skip
    check_encode(tokenizer, huggingface(tokenizer, tmp_path, templates["smollm2"]))


@pytest.mark.skipif(
    not SMOLLM2.exists(), reason="no weights: run `python -m examples.fetch_data smollm2`"
)
def test_encode_as_smollm2(tmp_path):
    from gpt_keras.checkpoint import read_tokenizer

    tokenizer = read_tokenizer(SMOLLM2)
    check_encode(tokenizer, huggingface(tokenizer, tmp_path, tokenizer.chat_template))
