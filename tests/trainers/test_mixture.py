import json

import pytest

from gpt_keras import tokenizers
from trainers import args, data, mixture
from trainers.args import UsageError
from trainers.data_flags import data_flags, train_data_flags

DOCUMENTS = [[i + 1] * 9 + [0] for i in range(8)]
GROUPS = (train_data_flags, data_flags)


@pytest.fixture
def wiki(make_shards, tmp_path):
    return make_shards(tmp_path / "wiki", DOCUMENTS, DOCUMENTS[:2]).path


@pytest.fixture
def code(make_shards, tmp_path):
    return make_shards(tmp_path / "code", DOCUMENTS[:4], DOCUMENTS[:1]).path


def open_mixture(*train_data, tokenizer=""):
    flags = args.parse(GROUPS, ["program", f"--train_data={','.join(train_data)}"])
    return mixture.open_mixture(flags.train_data, tokenizer, verify=True)


def test_files_are_no_mixture(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert open_mixture(str(tmp_path)) is None
    assert open_mixture(str(tmp_path / "a=b.txt")) is None


def test_folders_with_and_without_weights(wiki, code):
    plain = open_mixture(wiki, code)
    assert (plain.names, plain.weights) == (("wiki", "code"), None)
    mixed = open_mixture(f"a=3:{wiki}", f"b=0.5:{code}")
    assert (mixed.names, mixed.weights) == (("a", "b"), (3.0, 0.5))
    assert [folder.path for folder in mixed.folders] == [wiki, code]
    assert mixed.digests["a"] == plain.digests["wiki"] != mixed.digests["b"]


def test_what_is_refused(wiki, code, make_shards, tmp_path):
    (tmp_path / "raw").mkdir()
    empty = make_shards(tmp_path / "empty", [], DOCUMENTS[:1]).path
    tokenizer = tmp_path / "tokenizer"
    tokenizers.train_byte_level_bpe(["a b c"], 300, ["<|endoftext|>"]).save(tokenizer)
    other = make_shards(tmp_path / "other", DOCUMENTS, tokenizer=tokenizer).path
    cases = [
        ((f"a=0:{wiki}",), UsageError, "source 'a' has the weight '0'; give a number above 0"),
        ((f"a=-1:{wiki}",), UsageError, "source 'a' has the weight '-1'"),
        ((f"a=nan:{wiki}",), UsageError, "source 'a' has the weight 'nan'"),
        ((f"a=x:{wiki}",), UsageError, "source 'a' has the weight 'x'"),
        ((f"a=1:{wiki}", code), UsageError, f"{code}' has no weight, though others have one"),
        ((f"a=1:{wiki}", f"a=1:{code}"), UsageError, "source 'a' comes twice"),
        ((wiki, wiki), UsageError, "comes twice"),
        ((wiki, str(tmp_path / "raw")), UsageError, "raw holds no shards, though others do"),
        ((f"a=1:{tmp_path / 'raw'}",), ValueError, "manifest.json: No such file"),
        ((f"a=1:{wiki}", f"b=1:{empty}"), ValueError, "source 'b' is empty: .* no document"),
        ((wiki, other), ValueError, "'wiki' and 'other' were made with different tokenizers"),
    ]
    for train_data, error, message in cases:
        with pytest.raises(error, match=message):
            open_mixture(*train_data)
    with pytest.raises(ValueError, match=r"--tokenizer=.*has the SHA-256"):
        open_mixture(wiki, tokenizer=str(tokenizer))


def test_the_tokenizer_of_a_model_is_that_of_the_shards(wiki, model_dir, tmp_path):
    mixture = open_mixture(wiki)
    mixture.check_tokenizer(tokenizers.load(model_dir), "DIR")
    other = tokenizers.train_byte_level_bpe(["a b c"], 300, ["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"--model=DIR: .*wiki were made with .*--tokenizer=DIR"):
        mixture.check_tokenizer(other, "DIR")

    tokenizers.load(model_dir).save(tmp_path)  # the same, but that texts end otherwise
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|im_end|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"--model=DIR: ends texts with token 2, .* end with 0"):
        mixture.check_tokenizer(tokenizers.load(tmp_path), "DIR")


def test_programs_for_files_say_what_shards_are_for(wiki):
    flags = args.parse(GROUPS, ["program", f"--train_data={wiki}"])
    with pytest.raises(UsageError, match=r"wiki holds shards, .* trainers\.pretrain"):
        data.load_records("causal_lm", flags.train_data, flags)
