"""Special tokens around texts, against Hugging Face `tokenizers`."""

import json

import pytest
import tensorflow as tf
import tokenizers as hf

from gpt_keras import tokenizers
from gpt_keras.tokenizers import post_processor

BEGIN, END = "<|im_start|>", "<|endoftext|>"
IDS = {END: 0, BEGIN: 1}
BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True
}  # fmt: skip
TEXTS = ["Hello there", "", " two  words", "<|im_start|>twice"]


def template(single, pair, ids=None):
    """A TemplateProcessing of parts such as "<s>:0" and "$A:0"."""

    def parts(text):
        for part in text.split():
            name, kind = part.rsplit(":", 1)
            key = "Sequence" if name[0] == "$" else "SpecialToken"
            yield {key: {"id": name.removeprefix("$"), "type_id": int(kind)}}

    special = {
        token: {"id": token, "ids": (ids or {}).get(token, [i]), "tokens": [token]}
        for token, i in IDS.items()
    }
    return {
        "type": "TemplateProcessing", "single": list(parts(single)), "pair": list(parts(pair)),
        "special_tokens": special,
    }  # fmt: skip


LLAMA = template(f"{BEGIN}:0 $A:0", f"{BEGIN}:0 $A:0 {BEGIN}:1 $B:1")
NODES = {
    "none": None,
    "bytes": BYTE_LEVEL,
    "llama 2": LLAMA,
    "llama 3": {"type": "Sequence", "processors": [BYTE_LEVEL, LLAMA]},
    "bert": template(
        f"{BEGIN}:0 $A:0 {END}:0", f"{BEGIN}:0 $A:0 {END}:0 $B:1 {END}:1"
    ),
    "types": template(f"$A:2 {END}:3", f"$A:1 {END}:4 {BEGIN}:5 $B:6"),
    "several": template(f"{BEGIN}:0 $A:0", f"{BEGIN}:0 $A:0 $B:1 {END}:2", {BEGIN: [1, 0, 1]}),
    "old bert": {"type": "BertProcessing", "sep": [END, 0], "cls": [BEGIN, 1]},
    "roberta": {
        "type": "RobertaProcessing", "sep": [END, 0], "cls": [BEGIN, 1], "trim_offsets": True,
        "add_prefix_space": False,
    },
}  # fmt: skip


@pytest.fixture(params=NODES)
def both(request, fields, pair):
    """(ours, the reference) of each kind."""
    return pair(fields | {"post_processor": NODES[request.param]})


def test_one_text(both):
    ours, reference = both
    expected = reference.encode_batch(TEXTS)
    assert ours.encode(TEXTS).to_list() == [encoding.ids for encoding in expected]
    types = ours.post_processor.single.types(ours.tokenize(TEXTS))
    assert types.to_list() == [encoding.type_ids for encoding in expected]
    plain = reference.encode_batch(TEXTS, add_special_tokens=False)
    assert ours.tokenize(TEXTS).to_list() == [encoding.ids for encoding in plain]


def test_two_texts(both):
    ours, reference = both
    texts = [ours.tokenize(side) for side in (TEXTS, TEXTS[::-1])]
    expected = reference.encode_batch(list(zip(TEXTS, TEXTS[::-1], strict=True)))
    template = ours.post_processor.pair
    assert template.ids(*texts).to_list() == [encoding.ids for encoding in expected]
    assert template.types(*texts).to_list() == [encoding.type_ids for encoding in expected]


def test_long_texts_lose_none_of_the_special_tokens(both):
    ours, reference = both
    added = ours.post_processor.single.num_tokens
    for length in (added + 1, added + 2, 50):
        reference.enable_truncation(length)
        expected = [encoding.ids for encoding in reference.encode_batch(TEXTS)]
        assert ours.encode(TEXTS, max_length=length).to_list() == expected
    if added:
        with pytest.raises(ValueError, match=f"max_length=0: the tokenizer adds {added} special"):
            ours.encode(TEXTS, max_length=0)


def test_no_texts(both):
    ours, _ = both
    assert ours.encode([]).to_list() == []
    traced = tf.function(ours.encode, input_signature=[tf.TensorSpec([None], tf.string)])
    assert traced(tf.constant(TEXTS)).to_list() == ours.encode(TEXTS).to_list()


def test_saved_again(both, tmp_path):
    ours, _ = both
    ours.save(tmp_path)
    assert tokenizers.load(tmp_path).post_processor == ours.post_processor


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "Other"}, "post_processor Other: unsupported; supported are ByteLevel and one"),
        (
            {"type": "Sequence", "processors": [LLAMA, LLAMA]},
            "post_processor TemplateProcessing, TemplateProcessing: unsupported",
        ),
        (template(f"{BEGIN}:0", "$A:0 $B:1"), "with the texts  in this order: .* expected A"),
        (template("$A:0", "$B:0 $A:1"), "with the texts B, A in this order: .* expected A, B"),
        (template("$A:0", "$A:0 $B:1 $A:0"), "with the texts A, B, A in this order"),
        (template("$A:0 <x>:0", "$A:0 $B:1"), "malformed: KeyError"),
        (
            template(f"{END}:0 $A:0", "$A:0 $B:1", {END: [99999]}),
            "post_processor adds the token id 99999, which is not in the vocabulary",
        ),
        ("TemplateProcessing", "malformed"),
    ],
)
def test_refused(fields, node, words):
    with pytest.raises(ValueError, match=f"^here: .*{words}"):
        tokenizers.ByteLevelBPE(json.dumps(fields | {"post_processor": node}), where="here")


def test_written():
    """What we write means in Hugging Face's library what it means here."""
    for ends in ((None, None), ((BEGIN, 1), None), (None, (END, 0)), ((BEGIN, 1), (END, 0))):
        node = post_processor.to_json(*ends)
        found = post_processor.from_json(node, IDS.values(), "here")
        ids = [() if end is None else end[1:] for end in ends]
        assert [found.single.prefix.ids, found.single.suffix.ids] == ids
        assert found.pair.separator.ids == ids[1] + ids[0]
        model = {"type": "BPE", "vocab": IDS | {"a": 2}, "merges": []}
        text = json.dumps({"version": "1.0", "model": model, "post_processor": node})
        assert hf.Tokenizer.from_str(text).encode("a").ids == [*ids[0], 2, *ids[1]]


def test_classes_that_add_nothing(fields):
    """As transformers makes them, whatever the file says."""
    text = json.dumps(fields | {"post_processor": LLAMA})
    for name, added in {"GPTNeoXTokenizerFast": 0, "LlamaTokenizerFast": 1}.items():
        config = {"tokenizer_class": name, "add_bos_token": True}
        assert tokenizers.ByteLevelBPE(text, config).post_processor.single.num_tokens == added


def test_saved_model(fields, check_served):
    text = json.dumps(fields | {"post_processor": NODES["bert"]})
    check_served(tokenizers.ByteLevelBPE(text), TEXTS)
