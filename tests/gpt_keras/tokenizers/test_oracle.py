"""Directories that we save, through the eyes of transformers."""

import json

import pytest
import sentencepiece
import tensorflow as tf

from gpt_keras import tokenizers
from gpt_keras.tokenizers import post_processor

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|endoftext|>\n{% endfor %}"
)
MESSAGES = [{"role": "user", "content": "Hi there, 42 can't"}]


@pytest.mark.oracle
@pytest.mark.parametrize("pre_tokenizer", ["gpt2", "digits_gpt2"])
def test_auto_tokenizer_loads_what_we_save(fields, tmp_path, random_texts, pre_tokenizer):
    transformers = pytest.importorskip("transformers")
    model = fields["model"]
    ours = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        model["vocab"], model["merges"], ["<|endoftext|>", "<|im_start|>"],
        pre_tokenizer=pre_tokenizer, bos_token_id=1, eos_token_id=0, pad_token_id=0,
        chat_template=TEMPLATE,
    )  # fmt: skip
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 0, 0)
    assert theirs.chat_template == ours.chat_template == TEMPLATE
    assert len(theirs) == ours.vocab_size
    assert set(theirs.all_special_tokens) == set(ours.special_tokens)
    texts = random_texts(300, seed=9, extra=["<|im_start|>", "  "])
    ids = ours.tokenize(texts)
    assert ids.to_list() == theirs(texts, add_special_tokens=False).input_ids
    assert ids.to_list() == theirs(texts).input_ids  # and none is added
    for skip in (False, True):
        decoded = theirs.batch_decode(ids.to_list(), skip_special_tokens=skip)
        assert decoded == [
            text.decode() for text in ours.detokenize(ids, skip_special_tokens=skip).numpy()
        ]
    prompt = theirs.apply_chat_template(MESSAGES, tokenize=False)
    rendered = theirs.apply_chat_template(MESSAGES, return_dict=False)
    assert ours.tokenize(prompt).to_list()[0] == rendered
    theirs.save_pretrained(tmp_path / "theirs")
    again = tokenizers.load(tmp_path / "theirs")
    assert again.tokenize(texts).to_list() == ids.to_list()
    assert (again.chat_template, again.bos_token_id, again.eos_token_id) == (TEMPLATE, 1, 0)


LLAMA = post_processor.to_json(("<|im_start|>", 1))
BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True
}  # fmt: skip
# What the directories of the families say: class, flags, post-processor.
FORMS = {
    "llama 3": ("PreTrainedTokenizerFast", {},
                {"type": "Sequence", "processors": [BYTE_LEVEL, LLAMA]}),
    "mistral tekken": ("PreTrainedTokenizerFast", {"add_bos_token": False}, LLAMA),
    "qwen2": ("Qwen2Tokenizer", {"add_bos_token": False}, BYTE_LEVEL),
    "smollm2, starcoder2": ("GPT2Tokenizer", {"add_bos_token": True}, None),
    "gpt2": ("GPT2TokenizerFast", {}, BYTE_LEVEL),
    "gpt_neox": ("GPTNeoXTokenizerFast", {"add_bos_token": True}, LLAMA),
    "qwen3 embedding": ("Qwen2Tokenizer", {}, post_processor.to_json(None, ("<|endoftext|>", 0))),
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("form", FORMS)
def test_special_tokens_around_texts(fields, tmp_path, form):
    transformers = pytest.importorskip("transformers")
    name, flags, node = FORMS[form]
    config = {
        "tokenizer_class": name, "bos_token": "<|im_start|>", "eos_token": "<|endoftext|>", **flags
    }  # fmt: skip
    text = json.dumps(fields | {"post_processor": node})
    tmp_path.joinpath("tokenizer.json").write_text(text, encoding="utf-8")
    tmp_path.joinpath("tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    check_special_tokens(transformers.AutoTokenizer.from_pretrained(tmp_path), tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["LlamaTokenizer", "GemmaTokenizer"])
@pytest.mark.parametrize("begin", [None, False, True])
@pytest.mark.parametrize("end", [None, True])
def test_special_tokens_of_a_tokenizer_model(english, tmp_path, name, begin, end):
    """Where there is no tokenizer.json the flags say it; what we write has one, or the flags."""
    transformers = pytest.importorskip("transformers")
    flags = {"add_bos_token": begin, "add_eos_token": end, "bos_token": "<s>", "eos_token": "</s>"}
    config = {key: value for key, value in flags.items() if value is not None}
    folder = tmp_path / "in"
    folder.mkdir()
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(english[1].split("\n")), model_writer=file, vocab_size=600,
            model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=name == "LlamaTokenizer",
            minloglevel=2,
        )  # fmt: skip
    text = json.dumps({"tokenizer_class": name, **config})
    folder.joinpath("tokenizer_config.json").write_text(text, encoding="utf-8")
    check_special_tokens(transformers.AutoTokenizer.from_pretrained(folder), folder)
    tokenizers.load(folder).save(tmp_path / "out")
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    check_special_tokens(written, folder)


def check_special_tokens(theirs, folder):
    ours = tokenizers.load(folder)
    texts = ["Hello there", "", "the <|im_start|>x", "<s>once"]
    plain = theirs(texts, add_special_tokens=False).input_ids
    single, pair = ours.post_processor.single, ours.post_processor.pair
    expected = [[*single.prefix.ids, *row, *single.suffix.ids] for row in plain]
    assert theirs(texts).input_ids == expected
    rows = tf.ragged.constant(plain, dtype=tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)
    two = theirs(texts, texts[::-1], return_token_type_ids=True)
    assert pair.ids(rows, rows[::-1]).to_list() == two.input_ids
    assert pair.types(rows, rows[::-1]).to_list() == two.token_type_ids
    if plain == ours.tokenize(texts).to_list():
        assert ours.encode(texts).to_list() == expected
