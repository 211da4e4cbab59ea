"""Windows: every token of a context behind its question."""

import numpy as np
import pytest

from gpt_keras import tokenizers, windows

CONTEXTS = [
    "The cat sat on the mat, and the dog sat on the cat. " * 3,
    "",
    "naïve 🙂 今天天气很好 cats",
    "short",
]
QUESTIONS = ["Where did the cat sit?", "Why?", "", "the dog sat and sat and sat on the cat, or no?"]


@pytest.fixture(scope="module", params=[True, False])
def tokenizer(request):
    trained = tokenizers.train_byte_level_bpe(["The cat sat on the mat, and the dog."] * 3, 300)
    if not request.param:
        return trained
    spec = trained.spec.model
    return tokenizers.ByteLevelBPE.from_vocab_and_merges(
        spec.vocab, spec.merges, bos_token_id=7, eos_token_id=9, add_bos_token=True,
        add_eos_token=True,
    )  # fmt: skip


@pytest.mark.parametrize(("length", "stride"), [(24, 5), (24, 1000), (400, 3), (13, 1)])
def test_windows_cover_contexts(tokenizer, length, stride):
    found = windows.split(QUESTIONS, CONTEXTS, tokenizer, length, stride)
    around = tokenizer.post_processor.pair
    # A window ends with a token that is not of the context.
    ending = list(around.suffix.ids) or tokenizer.tokenize(["\n"]).to_list()[0]
    room = length - around.num_tokens - len(ending) + len(around.suffix.ids)
    assert ending
    ends_line = "" if around.separator.ids else "\n"
    asked = tokenizer.tokenize([question + ends_line for question in QUESTIONS]).to_list()
    context = tokenizer.tokenize_with_offsets(CONTEXTS)
    rows = found.rows.numpy()
    assert np.all(np.diff(rows) >= 0)
    for row in range(4):
        question = asked[row][: room // 2]
        ids, starts = context.ids[row].numpy(), context.starts[row].numpy()
        step, size = min(stride, room - len(question)), room - len(question)
        mine = np.flatnonzero(rows == row)
        begin = 0
        for window in mine:
            piece = ids[begin : begin + size].tolist()
            expected = [*around.prefix.ids, *question, *around.separator.ids, *piece]
            assert found.tokens[window].numpy().tolist() == [*expected, *ending]
            of_context = found.starts[window].numpy()
            first = len(expected) - len(piece)
            assert of_context[first : len(expected)].tolist() == starts[begin:][:size].tolist()
            assert set(of_context[:first]) | set(of_context[len(expected) :]) <= {-1}
            last, begin = begin + size, begin + step
        assert last >= len(ids)  # the last one reaches the end, and only that
        assert len(mine) == 1 or last - step < len(ids)


def test_pieces_are_as_one(tokenizer, monkeypatch):
    whole = windows.split_all(QUESTIONS, CONTEXTS, tokenizer, 24, 5)
    monkeypatch.setattr("gpt_keras.preprocessing.CHUNK_BYTES", 60)
    for one, other in zip(
        whole, windows.split_all(QUESTIONS, CONTEXTS, tokenizer, 24, 5), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_no_room(tokenizer):
    added = max(tokenizer.post_processor.pair.num_tokens, 1)  # a line break at least
    length = 1 + added
    with pytest.raises(ValueError, match=f"--window_length={length}: {added} tokens come around"):
        windows.split(["a"], ["b"], tokenizer, length, 1)
