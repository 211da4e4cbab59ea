"""Directories that we save, through the eyes of transformers."""

import pytest

from gpt_keras import tokenizers

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
