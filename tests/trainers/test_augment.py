"""Texts that are a little different in every epoch."""

from collections import Counter

import numpy as np
import pytest

from gpt_keras import SequenceClassifier, tokenizers
from trainers.augment import AugmentedBatches, Augmenter, augmented, split

ENGLISH = "The cat sat on the mat, and the dog ran fast over the hill to the river"
CHINESE = "这家酒店的房间很干净，服务也很好，下次还会再来。"


def words(text):
    return [word for word, _ in split(text)]


def test_words_and_characters():
    assert split("I ate 米饭, OK") == [
        ("I", " "), ("ate", " "), ("米", ""), ("饭", ""), (",", " "), ("OK", ""),
    ]  # fmt: skip
    assert len(words("カタカナ𠀀")) == 5
    for text in (ENGLISH, CHINESE, "a\n\n b"):
        assert "".join(map(str.__add__, *zip(*split(text), strict=True))) == text


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, f"  {ENGLISH} {CHINESE}"])
def test_what_changes(text):
    """A quarter each: nothing, words missing, in another order, of the vocabulary."""
    vocabulary = "zebra 马 yak"
    augment = Augmenter([vocabulary], rate=0.2, seed=3)
    before, n, kinds = Counter(words(text)), len(words(text)), Counter()
    for number in range(400):
        found = augment(text, epoch=1, number=number)
        after, changed = Counter(words(found)), 0
        if found == text:
            kinds["same"] += 1
        elif after == before:
            kinds["order"] += 1
            changed = sum(map(str.__ne__, words(found), words(text)))
        elif after < before:
            kinds["missing"] += 1
        else:
            kinds["replaced"] += 1
            assert len(words(found)) == n
            assert set(after - before) <= set(words(vocabulary))
            assert (after - before).total() == round(0.2 * n)
        assert changed <= 2 * round(0.2 * n)
    assert min(kinds.values()) > 70, kinds
    assert set(kinds) == {"same", "order", "missing", "replaced"}


def test_replacements_come_as_often_as_in_the_data():
    augment = Augmenter(["a a a b"], rate=0.9, seed=0)
    counts = Counter()
    for number in range(300):
        counts.update(words(augment("x " * 20, 0, number)))
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.2)


def test_a_change_depends_on_seed_epoch_and_number_alone():
    one, other = (Augmenter([ENGLISH], 0.3, seed) for seed in (1, 2))
    places = [(epoch, number) for epoch in range(3) for number in range(20)]
    first = [one(ENGLISH, *place) for place in places]
    assert [one(ENGLISH, *place) for place in reversed(places)] == first[::-1]
    assert len(set(first)) > 30
    assert [other(ENGLISH, *place) for place in places] != first


@pytest.mark.parametrize("text", ["", "  \n", "one", "好"])
def test_short_texts(text):
    augment = Augmenter([ENGLISH], 0.5, 0)
    for number in range(20):
        assert len(words(augment(text, 0, number))) == len(words(text))


def test_batches_of_other_texts_in_each_epoch(config):
    tokenizer = tokenizers.train_byte_level_bpe([ENGLISH] * 3, 300)
    config = config.replace(vocab_size=300)
    records = [
        {"text": ENGLISH[: 8 + 3 * i], "label": "ab"[i % 2], "where": f"x:{i}"} for i in range(12)
    ]
    augment = Augmenter([r["text"] for r in records], 0.4, 5)

    def make(epoch):
        return SequenceClassifier.examples(
            augmented(records, ("text", "text_pair"), augment, epoch), tokenizer, config, 32
        )

    plain = SequenceClassifier.examples(records, tokenizer, config, 32)
    source = AugmentedBatches(plain, make, 4, seed=1, bucket_lengths=[16, 32], pad_id=0)
    assert source.steps_per_epoch == 3
    seen = {}
    for step in (4, 0, 3, 5, 1, 2, 4):  # in any order, as a run that resumes
        batch, epoch = source.batch(step), step // 3
        texts = augmented(records, ("text",), augment, epoch)
        for row, sample in enumerate(batch["sample_id"]):
            ids = batch["token_ids"][row][batch["padding_mask"][row]].tolist()
            expected = make(epoch)
            begin, end = expected.row_splits[sample : sample + 2]
            assert ids == expected.values[begin:end].tolist()
            assert batch["label"][row] == sample % 2
            seen[epoch, int(sample)] = ids
        assert texts[0]["label"] == "a"
    assert len(seen) == 24
    assert sum(seen[0, i] != seen[1, i] for i in range(12)) > 4
    np.testing.assert_array_equal(source.batch(0)["token_ids"].shape[0], 4)
