"""Training, through the reference."""

import subprocess
import sys

import pytest
import tokenizers as hf

from gpt_keras import tokenizers

TEXTS = ["the cat sat on the mat\n" * 5, "日本語と日本\n" * 5, "1999 and 2000\n" * 3]
SCRIPT = """
import sys
from gpt_keras import tokenizers
tokenizers.train_byte_level_bpe({texts!r}, 300).save(sys.argv[1])
"""


def test_training(tmp_path, check_ids):
    tokenizer = tokenizers.train_byte_level_bpe(
        TEXTS, 270, ("<|endoftext|>", "<pad>"), pre_tokenizer="digits_gpt2", chat_template="x"
    )
    assert tokenizer.vocab_size == 270
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.chat_template == "x"
    assert len(tokenizer.tokenize("the cat").to_list()[0]) < 6
    assert len(tokenizer.tokenize("1999").to_list()[0]) == 4
    everything = "".join(map(chr, range(0x3000))) + "🙂\U0010ffff<pad>"
    ids = tokenizer.tokenize(everything)
    assert tokenizer.detokenize(ids).numpy()[0].decode() == everything
    tokenizer.save(tmp_path)
    reference = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    check_ids(tokenizer, reference, [*TEXTS, everything])


def test_equal_input_equal_result(tmp_path):
    """Also in another process, where hashes are seeded differently, and from files."""
    script = SCRIPT.format(texts=TEXTS)
    subprocess.run([sys.executable, "-c", script, tmp_path / "one"], check=True)
    tokenizers.train_byte_level_bpe(iter(TEXTS), 300).save(tmp_path / "two")
    files = []
    for i, text in enumerate(TEXTS):
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_text(text, encoding="utf-8")
    tokenizers.train_byte_level_bpe(files, 300).save(tmp_path / "three")
    one, *others = (
        (tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two", "three")
    )
    assert others == [one, one]


def test_no_special_tokens():
    tokenizer = tokenizers.train_byte_level_bpe(TEXTS, 256, ())
    assert tokenizer.vocab_size == 256
    assert tokenizer.special_tokens == {}
    assert tokenizer.eos_token_id is None
    assert tokenizer.detokenize(tokenizer.tokenize(TEXTS)).numpy()[1].decode() == TEXTS[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TEXTS, 256), "vocab_size=256: expected at least 257, the 256 bytes and 1 special tokens"),
        (([], 300), "there is no text to learn from"),
        ((["", ""], 300), "there is no text to learn from"),
        (("some text", 300), "texts='some text': expected an iterable of strings"),
        (([3], 300), "expected str or pathlib.Path, received 3"),
        ((TEXTS, 300, (), "x"), "positional"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        tokenizers.train_byte_level_bpe(*arguments)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: No such file or directory; expected a UTF-8"):
        tokenizers.train_byte_level_bpe([tmp_path / "none.txt"], 300)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentence_piece(model_type, english, tmp_path):
    texts = [english[0], *TEXTS]
    tokenizer = tokenizers.train_sentence_piece(
        texts, 600, ("<|end|>",), model_type=model_type, chat_template="x"
    )
    assert tokenizer.vocab_size <= 600
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<|end|>": 3}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer.chat_template == "x"
    everything = ["the argument", "".join(map(chr, range(1, 0x2581))) + "🙂\U0010ffff", " a  b\n\n"]
    ids = tokenizer.tokenize(everything)
    assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == everything
    assert len(ids.to_list()[0]) < 5
    tokenizer.save(tmp_path)
    assert tokenizers.load(tmp_path).tokenize(everything).to_list() == ids.to_list()
    again = tokenizers.train_sentence_piece(iter(texts), 600, ("<|end|>",), model_type=model_type)
    assert again.tokenize(everything).to_list() == ids.to_list()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vocab_size": 20}, "vocab_size=20: SentencePiece cannot learn that many or that few"),
        ({"model_type": "word"}, "model_type='word': expected bpe or unigram"),
        ({"texts": []}, "there is no text to learn from"),
        ({"texts": "some text"}, "texts='some text': expected an iterable of strings"),
    ],
)
def test_bad_arguments_of_sentence_piece(arguments, words):
    with pytest.raises(ValueError, match=words):
        tokenizers.train_sentence_piece(**{"texts": TEXTS, "vocab_size": 300} | arguments)
