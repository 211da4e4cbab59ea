import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.batches import PackedBatches
from trainers.shard_batches import JoinedRows, MixedBatches, ShardRows

PACKINGS = ("concat", "best_fit", "none")


class MemoryShard:
    """A shard of documents in which every token is another."""

    def __init__(self, lengths, first=0):
        self.offsets = np.cumsum([0, *lengths])
        self.num_tokens = int(self.offsets[-1])
        self.tokens = np.arange(first, first + self.num_tokens)
        self.num_target_bytes = self.num_tokens - len(lengths)


def make_rows(documents, length, packing="concat"):
    """Rows of shards with these lengths of documents."""
    shards, first = [], 0
    for lengths in documents:
        shards.append(MemoryShard(lengths, first))
        first += shards[-1].num_tokens
    return ShardRows(shards, length, packing)


def join(*sources):
    return JoinedRows(sources, "abc"[: len(sources)])


@pytest.mark.parametrize("packing", PACKINGS)
@given(
    documents=st.lists(
        st.lists(st.integers(2, 40), min_size=1, max_size=12), min_size=1, max_size=3
    ),
    length=st.integers(2, 24),
)
def test_each_token_is_predicted_once_from_its_own_document(packing, documents, length):
    rows = make_rows(documents, length, packing)
    batches = PackedBatches(rows, 4, shuffle=False)
    document_of = np.repeat(np.arange(sum(map(len, documents))), np.concatenate(documents))
    firsts = np.flatnonzero(np.diff(document_of, prepend=-1))
    predicted, num_tokens = [], 0
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        for ids, segments, mask in zip(
            batch["token_ids"], batch["segment_ids"], batch["loss_mask"], strict=True
        ):
            predicted += ids[mask > 0].tolist()
            num_tokens += int((segments > 0).sum())
            for segment in range(1, segments.max() + 1):
                piece = ids[segments == segment]
                assert (np.diff(piece) == 1).all()
                assert len(set(document_of[piece])) == 1
                assert mask[segments == segment][0] == 0
    assert sorted(predicted) == sorted(set(range(len(document_of))) - set(firsts))
    assert num_tokens == rows.num_tokens
    assert rows.num_bytes == len(predicted)


def test_concatenated_rows_are_full():
    rows = make_rows([[9, 3, 30], [50]], 8)
    batches = PackedBatches(rows, 1, shuffle=False)
    sizes = [int((batches.batch(i)["segment_ids"] > 0).sum()) for i in range(rows.num_rows)]
    assert (
        sizes == [8] * 5 + [7] + [8] * 7
    )  # the last row of a shard may be short: 42 = 6 * 7, 50 = 7 * 7 + 1


def epoch_of(batches, epoch):
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return np.concatenate([batches.batch(step)["sample_id"] for step in steps])


def test_a_pass_holds_each_row_once_in_an_order_of_seed_and_pass():
    rows = join(make_rows([[50] * 8], 8), make_rows([[40] * 3], 8))
    number = rows.num_rows
    size = next(size for size in range(2, number) if number % size == 0)
    batches = MixedBatches(rows, None, size, seed=3)
    orders = [epoch_of(batches, epoch) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(number))
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != np.arange(number)).any()
    assert (epoch_of(MixedBatches(rows, None, size, seed=4), 0) != orders[0]).any()
    assert batches.num_samples == number


def test_the_order_is_that_of_earlier_versions():
    """Runs that are resumed with a newer Grain must find the same order."""
    rows = join(make_rows([[71]], 8), make_rows([[22]], 8))  # 10 rows and 3
    batches = MixedBatches(rows, [0.7, 0.3], 6)
    order = np.concatenate([batches.batch(step)["sample_id"] for step in (0, 1)])
    assert order.tolist() == [1, 2, 4, 11, 5, 9, 10, 7, 8, 12, 6, 0]


def test_any_batch_can_be_made_without_those_before_it():
    rows = join(make_rows([[50] * 8], 8), make_rows([[40] * 3], 8))
    whole, later = (MixedBatches(rows, [1, 2], 4, seed=1) for _ in range(2))
    expected = [whole.batch(step) for step in range(40)]
    for step in (37, 2, 19):
        batch = later.batch(step)
        assert batch.keys() == expected[step].keys()
        for name, value in batch.items():
            np.testing.assert_array_equal(value, expected[step][name], err_msg=name)


def test_weights_are_shares_and_every_source_passes_whole():
    rows = [make_rows([[50] * 8], 8), make_rows([[40] * 3], 8), make_rows([[9]], 8)]
    batches = MixedBatches(join(*rows), [7.0, 2.5, 0.5], 8)
    sources, samples = [], []
    for step in range(250):
        batch = batches.batch(step)
        sources += batch["source_id"].tolist()
        samples += batch["sample_id"].tolist()
    counts = collections.Counter(sources)
    assert [counts[i] / 2000 for i in range(3)] == pytest.approx([0.7, 0.25, 0.05], abs=1e-3)
    begin = 0
    for source, part in enumerate(rows):
        own = [x for x, s in zip(samples, sources, strict=True) if s == source]
        for at in range(0, len(own) - part.num_rows, part.num_rows):
            one_pass = own[at : at + part.num_rows]
            assert sorted(one_pass) == list(range(begin, begin + part.num_rows))
        begin += part.num_rows


def test_rows_to_evaluate_on_come_in_order_and_know_their_source():
    rows = join(make_rows([[22]], 8), make_rows([], 8), make_rows([[15]], 8))  # 3, none and 2
    batches = PackedBatches(rows, 4, shuffle=False)
    assert batches.source_names == ("a", "b", "c")
    assert [batches.batch(i)["source_id"].tolist() for i in (0, 1)] == [[0, 0, 0, 2], [2, 0, 0, 0]]
    assert batches.batch(1)["sample_id"].tolist() == [4, -1, -1, -1]
    alone = PackedBatches(join(make_rows([[22]], 8)), 3, shuffle=False)
    assert not alone.source_names
    assert "source_id" not in alone.batch(0)


def test_real_shards_are_mapped_not_loaded(make_shards, tmp_path):
    folder = make_shards(tmp_path / "s", [[i + 1, i + 2, 0] for i in range(9)])
    rows = ShardRows(folder.shards("train"), 5, "concat")
    batch = PackedBatches(rows, rows.num_rows, shuffle=False).batch(0)
    assert batch["token_ids"][0].tolist() == [1, 2, 0, 2, 3]
    assert batch["token_ids"].dtype == np.int32
    assert all(isinstance(s.tokens, np.memmap) for s in folder.shards("train"))


def test_bad_arguments():
    with pytest.raises(ValueError, match="max_length=1: rows need 2 tokens"):
        make_rows([[5]], 1)
    with pytest.raises(
        ValueError, match="global_batch_size=9 is larger than the data, which has 1"
    ):
        MixedBatches(join(make_rows([[5]], 8)), None, 9)
