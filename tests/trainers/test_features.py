import itertools

import numpy as np
import pytest

from gpt_keras import preprocessing
from gpt_keras.tokenizers import ByteLevelBPE, train_byte_level_bpe
from trainers.features import (
    chat_features,
    completion_features,
    document_features,
    framed,
    token_bytes,
    tokenize,
)

TEXT = """The cat sat on the mat. The dog sat on the log. Good dogs and good cats sat there, and the
cats sang: naïve songs, 1 2 3 4 songs, “quoted” songs.\n\n    The end of the songs.\n"""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    made = train_byte_level_bpe(
        [TEXT] * 3, vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def beginning(tokenizer):
    """Function from flags to the same tokenizer with <|im_start|> before each text."""

    def make(**flags):
        model, special = tokenizer.spec.model, list(tokenizer.special_tokens)
        return ByteLevelBPE.from_vocab_and_merges(
            model.vocab, model.merges, special, bos_token_id=1, eos_token_id=0,
            add_bos_token=True, chat_template=TEMPLATE, **flags,
        )  # fmt: skip

    return make


def records(*rows):
    return [{**row, "where": f"x.jsonl:{i}"} for i, row in enumerate(rows, 1)]


def sequences(found, values=None):
    values = found.values if values is None else values
    return [values[a:b].tolist() for a, b in itertools.pairwise(found.row_splits)]


def texts_of(tokenizer, ids):
    return tokenizer.detokenize([ids]).numpy()[0].decode()


def target_text(tokenizer, found, i=0):
    """What of sequence i is to be predicted, and what is not, special tokens written out."""
    ids, mask = sequences(found)[i], sequences(found, found.is_target)[i]
    return tuple(
        b"".join(
            tokenizer.detokenize([[t]], skip_special_tokens=False).numpy()[0]
            for t, is_target in zip(ids, mask, strict=True)
            if is_target == wanted
        ).decode()
        for wanted in (True, False)
    )


def test_tokenize_in_chunks_gives_what_one_call_gives(tokenizer, monkeypatch):
    texts = [TEXT[i : i + 7 * i] for i in range(20)] + [""] * 3 + ["naïve 🙂"]
    expected = tokenizer.tokenize(texts)
    monkeypatch.setattr(preprocessing, "CHUNK_BYTES", 64)
    values, splits = tokenize(texts, tokenizer)
    assert values.dtype == np.int32
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(splits, expected.row_splits)
    values, splits = tokenize([], tokenizer)
    assert (values.size, splits.tolist()) == (0, [0])


def test_token_bytes_add_up_to_the_text(tokenizer):
    ids = tokenizer.tokenize([TEXT]).values.numpy()
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (tokenizer.vocab_size,)
    assert sizes[ids].sum() == len(TEXT.encode())
    assert all(sizes[token] == 0 for token in tokenizer.special_tokens.values())


def test_documents_end_and_first_tokens_are_no_targets(tokenizer):
    rows = records({"text": "The dog sat."}, {"text": ""}, {"text": "naïve"})
    found = document_features(rows, tokenizer)
    ids = tokenizer.tokenize(["The dog sat.", "naïve"]).to_list()
    eos = tokenizer.eos_token_id
    assert sequences(found) == [[*ids[0], eos], [*ids[1], eos]]
    assert found.num_dropped == 1
    sizes = token_bytes(tokenizer)
    assert found.num_target_bytes == len("The dog sat.naïve".encode()) - sum(
        sizes[sequence[0]] for sequence in ids
    )
    assert [not mask[0] and all(mask[1:]) for mask in sequences(found, found.is_target)] == [1, 1]


@pytest.mark.parametrize("flags", [{}, {"add_eos_token": True}])
def test_documents_that_begin_with_a_token_predict_all_their_text(tokenizer, beginning, flags):
    found = document_features(records({"text": "The dog sat."}), beginning(**flags))
    ids = tokenizer.tokenize(["The dog sat."]).to_list()[0]
    assert sequences(found) == [[1, *ids, 0]]  # one end, whoever puts it there
    assert sequences(found, found.is_target) == [[False, *[True] * (len(ids) + 1)]]
    assert found.num_target_bytes == len("The dog sat.")
    found = document_features(records({"text": ""}, {"text": "a"}), beginning(**flags))
    assert (found.num_dropped, found.num_target_bytes) == (0, 1)


def test_special_tokens_of_the_other_tasks(tokenizer, beginning):
    """Prompts have what generation gives them, chats none."""
    begun = beginning(add_eos_token=True)
    prompt, completion = tokenizer.tokenize(["The cat", " sat"]).to_list()
    rows = records({"prompt": "The cat", "completion": " sat"})
    found = completion_features(rows, begun, max_length=99)
    assert sequences(found) == [[1, *prompt, 0, *completion, 0]]
    targets = [False] * (len(prompt) + 2) + [True] * (len(completion) + 1)
    assert sequences(found, found.is_target) == [targets]
    says = [{"role": role, "content": role} for role in ("user", "assistant")]
    found, plain = (
        chat_features(records({"messages": says}), one, max_length=99) for one in (begun, tokenizer)
    )
    assert sequences(found) == sequences(plain)


def test_framed():
    rows = [[5, 6], [], [], [7]]
    values, splits = np.concatenate(rows).astype(np.int32), np.array([0, 2, 2, 2, 3])
    for before, after in itertools.product([[], [1], [1, 2]], [[], [3], [3, 4]]):
        found, ends = framed(values, splits, before, after)
        pieces = [found[a:b].tolist() for a, b in itertools.pairwise(ends)]
        assert pieces == [[*before, *row, *after] for row in rows]
        assert (found.dtype, ends[-1]) == (np.int32, len(found))


def test_only_the_completion_and_its_end_are_targets(tokenizer):
    rows = records(
        {"prompt": "The cat", "completion": " sat"},
        {"prompt": "", "completion": " sang"},
        {"prompt": "The dog sat on the log " * 5, "completion": "x"},
        {"prompt": "The", "completion": " songs" * 30},
    )
    found = completion_features(rows, tokenizer, max_length=20)
    end = tokenizer.id_to_token(tokenizer.eos_token_id)
    assert target_text(tokenizer, found) == (f" sat{end}", "The cat")
    assert sequences(found)[1] == [
        *tokenizer.tokenize([" sang"]).to_list()[0],
        tokenizer.eos_token_id,
    ]
    assert len(sequences(found)[2]) == 20
    assert (found.num_truncated, found.num_dropped) == (2, 1)
    with pytest.raises(ValueError, match=r"nothing to learn in any of 1 records.*max_length=4"):
        completion_features(rows[2:3], tokenizer, max_length=4)


def test_only_the_assistants_turns_are_targets(tokenizer):
    messages = [
        {"role": "user", "content": "The cat?"},
        {"role": "assistant", "content": "Sat on the mat."},
        {"role": "user", "content": "The dog?"},
        {"role": "assistant", "content": "Sang"},
    ]
    found = chat_features(
        records({"messages": messages}, {"messages": messages[:1]}), tokenizer, max_length=200
    )
    assert target_text(tokenizer, found) == (
        "Sat on the mat.<|im_end|>Sang<|im_end|>",
        "<|im_start|>user\nThe cat?<|im_end|>\n<|im_start|>assistant\n"
        "\n<|im_start|>user\nThe dog?<|im_end|>\n<|im_start|>assistant\n\n",
    )
    assert found.num_dropped == 1
    # The tokens before an answer are those that generation sees.
    prompt = "<|im_start|>user\nThe cat?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.tokenize([prompt]).to_list()[0]
    assert sequences(found)[0][: len(ids)] == ids
    assert found.is_target.tolist().index(True) == len(ids)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", r"x\.jsonl:1: messages must be a list .* got 'Hi'"),
        ([["user", "Hi"]], r"x\.jsonl:1: messages must be a list"),
        (None, r"x\.jsonl:1: messages must be a list"),
        ([{"role": "user", "content": object}], r"x\.jsonl:1: .*JSON values"),
    ],
)
def test_bad_conversations(tokenizer, messages, message):
    with pytest.raises(ValueError, match=message):
        chat_features(records({"messages": messages}), tokenizer, max_length=99)


def test_a_model_without_chat_template(tokenizer):
    plain = train_byte_level_bpe([TEXT], vocab_size=270, special_tokens=["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"no chat template: .*tokenizer_config"):
        chat_features(records({"messages": []}), plain, max_length=99)
