"""Added tokens in texts, against the reference."""

import json
import random

import pytest
import tensorflow as tf

from gpt_keras import tokenizers

FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


def with_added(fields, *tokens):
    """Fields with these added tokens: pairs of a string and the flags that are set."""
    first = len(fields["model"]["vocab"])
    added = [
        {"id": first + i, "content": content} | {flag: flag in flags for flag in FLAGS}
        for i, (content, flags) in enumerate(tokens)
    ]
    return fields | {"added_tokens": added}


def texts_around(contents, seed, count=400):
    """Texts of added tokens, parts of them, white space and other characters."""
    rng = random.Random(seed)
    pieces = [*contents, *(c[:-1] for c in contents), *(c[1:] for c in contents)]
    pieces += [
        " ",
        "  ",
        "\n",
        "\u3000",
        "\xa0\t",
        "\0",
        "x",
        "日",
        "'s",
        "",
        "_",
        "\u0301",
        "é",
        "e\u0301",
    ]
    return ["".join(rng.choices(pieces, k=rng.randrange(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(10))
def test_tokens_of_all_kinds(fields, pair, check_ids, seed):
    """Some are parts of others, or white space, so that the order of searches shows."""
    rng = random.Random(seed)
    contents = ["<a>", "<a><|b.*|>", ">日", " <c>", "   ", "wxrd", "e\u0301a"]
    flags = [[flag for flag in FLAGS if rng.random() < 0.4] for _ in contents]
    normalizer = rng.choice([None, {"type": "NFC"}, {"type": "Lowercase"}])
    fields = with_added(fields, *zip(contents, flags, strict=True)) | {"normalizer": normalizer}
    ours, reference = pair(fields)
    texts = texts_around(contents, seed)
    check_ids(ours, reference, texts)
    check_ids(ours, reference, texts, allow_special=False)


def test_many_tokens(fields, pair, check_ids):
    rng = random.Random(5)
    contents = ["<s>", "</s>", "zz", "abzz", "abc☃", "日本", "🙂🙂", "\0\0", "$^.", "[x]", "\\d"]
    contents += [f"<|reserved_{i}|>" for i in range(300)]
    flags = [[flag for flag in FLAGS[:2] if rng.random() < 0.5] for _ in contents]
    ours, reference = pair(with_added(fields, *zip(contents, flags, strict=True)))
    texts = texts_around(contents, seed=2, count=1500)
    ids = check_ids(ours, reference, texts)
    check_ids(ours, reference, texts, allow_special=False)
    assert ours.detokenize(ids).numpy().tolist() == [text.encode() for text in texts]
    assert ours.special_tokens.keys() == {
        content for content, flags in zip(contents, flags, strict=True) if "special" in flags
    }


def test_tokens_of_white_space(fields, pair, check_ids):
    """As code models have them, for indentation."""
    contents = [" " * n for n in range(2, 9)] + ["\n\n", "\t\t"]
    ours, reference = pair(with_added(fields, *((content, ()) for content in contents)))
    texts = texts_around(contents, seed=3)
    ids = check_ids(ours, reference, texts)
    assert ours.detokenize(ids).numpy().tolist() == [text.encode() for text in texts]


def test_token_of_the_vocabulary(fields, pair, check_ids):
    """An added token may be one that the model knows, as SmolLM2's are."""
    token = {"id": fields["model"]["vocab"]["the"], "content": "the"}
    token |= dict.fromkeys(FLAGS, False) | {"special": True}
    ours, reference = pair(fields | {"added_tokens": [*fields["added_tokens"], token]})
    texts = ["the", "other there the", " thethe", "The"]
    check_ids(ours, reference, texts)
    check_ids(ours, reference, texts, allow_special=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": ""}, "added token '': expected a string of its own"),
        ({"content": "<y>"}, "added token '<y>': expected a string of its own"),
        ({"id": 3}, "added token '<x>' has id 3, where Hugging Face's tokenizers gives it 1501"),
        ({"content": "the", "id": 1501}, "added token 'the' has id 1501, where .* gives it"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(fields, change, words):
    fields = with_added(fields, ("<y>", ()), ("<x>", ()))
    fields["added_tokens"][1] |= change
    with pytest.raises(ValueError, match=f"^tokenizer.json: .*{words}"):
        tokenizers.ByteLevelBPE(json.dumps(fields))


def test_without_added_tokens(fields, pair, check_ids):
    ours, reference = pair(fields | {"added_tokens": []})
    check_ids(ours, reference, ["<|endoftext|>", "a"])
    assert ours.special_tokens == {}
    ids = ours.tokenize("<|endoftext|>")
    assert ours.detokenize(ids, skip_special_tokens=True) == tf.constant([b"<|endoftext|>"])
