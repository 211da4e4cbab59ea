import threading
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_keras.tasks.examples import Examples
from trainers.batches import (
    ExampleBatches,
    PackedBatches,
    Prefetcher,
    choose_bucket_lengths,
)
from trainers.features import LanguageFeatures
from trainers.packing import pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def classification(lengths, group=1):
    """Row i is made of the token i, with the label i % 3, each token with its place as a target."""
    n = len(lengths)
    return Examples(
        values=np.repeat(np.arange(n, dtype=np.int32), lengths),
        row_splits=np.cumsum([0, *lengths]),
        targets={"label": np.arange(n, dtype=np.int32) % 3, "weight": np.ones(n, np.float32)},
        record_ids=np.arange(n, dtype=np.int32),
        records=[{}] * n,
        token_targets={"place": np.concatenate([np.arange(m, dtype=np.int32) for m in lengths])},
        labels=("a", "b", "c"),
        group=group,
    )


def language(lengths):
    splits = np.cumsum([0, *lengths])
    targets = np.ones(splits[-1], bool)
    targets[splits[:-1]] = False
    return LanguageFeatures(np.arange(splits[-1], dtype=np.int32), splits, targets, 0)


def epoch(source, number=0):
    steps = source.steps_per_epoch
    return [source.batch(step) for step in range(number * steps, (number + 1) * steps)]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@given(LENGTHS, st.data())
def test_each_text_once_an_epoch_whole_and_with_its_label(lengths, data):
    batch_size = data.draw(st.integers(1, len(lengths)))
    shuffle, number = data.draw(st.booleans()), data.draw(st.integers(0, 3))
    source = ExampleBatches(classification(lengths), batch_size, seed=7, shuffle=shuffle, pad_id=99)
    seen = []
    for batch in epoch(source, number):
        B, T = batch["token_ids"].shape
        assert (B, T) in source.shapes
        for row, sample in enumerate(batch["sample_id"]):
            ids, real = batch["token_ids"][row], batch["padding_mask"][row]
            assert (ids[~real] == 99).all()
            if sample < 0:  # filler
                assert batch["weight"][row] == 0
                assert real.tolist() == [True] + [False] * (T - 1)
                continue
            seen.append(sample)
            assert batch["weight"][row] == 1
            assert batch["label"][row] == sample % 3
            assert real.sum() == real[: lengths[sample]].sum() == lengths[sample]
            assert (ids[real] == sample).all()
            assert batch["place"][row, real].tolist() == list(range(lengths[sample]))
    assert sorted(seen) == list(range(len(lengths)))
    assert source.steps_per_epoch == -(-len(lengths) // batch_size)
    assert len(source.shapes) <= 3


@given(LENGTHS, st.data())
def test_each_packed_row_once_an_epoch(lengths, data):
    rows = pack(language([length + 1 for length in lengths]), 16)
    batch_size = data.draw(st.integers(1, rows.num_rows))
    source = PackedBatches(rows, batch_size, seed=3, shuffle=data.draw(st.booleans()), pad_id=-7)
    seen = np.concatenate([batch["sample_id"] for batch in epoch(source, 1)])
    assert sorted(seen[seen >= 0]) == list(range(rows.num_rows))
    for batch in epoch(source):
        assert batch["token_ids"].shape == source.shapes[0] == (batch_size, 16)
        padding = batch["segment_ids"] == 0
        assert (batch["token_ids"][padding] == -7).all()
        assert (batch["loss_mask"][padding] == 0).all()
        assert padding[batch["sample_id"] < 0].all()


def sources():
    lengths = np.random.default_rng(0).integers(1, 60, 50)
    for shuffle in (True, False):
        yield ExampleBatches(classification(lengths), 8, seed=1, shuffle=shuffle)
        rows = pack(language(lengths + 1), 32, "best_fit")
        yield PackedBatches(rows, 8, seed=1, shuffle=shuffle)


def test_a_batch_depends_on_seed_and_step_alone():
    for first, second in zip(sources(), sources(), strict=True):
        steps = np.random.default_rng(0).permutation(4 * first.steps_per_epoch)
        ordered = [first.batch(step) for step in range(4 * first.steps_per_epoch)]
        for step in steps:
            assert_same(second.batch(int(step)), ordered[step])


def test_types_are_those_of_the_contract():
    expected = {
        "token_ids": np.int32,
        "padding_mask": np.bool_,
        "label": np.int32,
        "place": np.int32,
        "weight": np.float32,
        "sample_id": np.int32,
        "segment_ids": np.int32,
        "loss_mask": np.float32,
    }
    names = set()
    for source in sources():
        for name, value in source.batch(0).items():
            assert value.dtype == expected[name]
            names.add(name)
    assert names == set(expected)


def test_epochs_and_seeds_shuffle_differently_and_evaluation_not_at_all():
    lengths = [5] * 40
    order = {}
    for seed in (0, 1):
        source = ExampleBatches(classification(lengths), 8, seed=seed)
        for number in (0, 1):
            order[seed, number] = tuple(
                np.concatenate([batch["sample_id"] for batch in epoch(source, number)])
            )
    assert len(set(order.values())) == 4
    still = ExampleBatches(classification(lengths), 8, seed=0, shuffle=False)
    assert np.concatenate([b["sample_id"] for b in epoch(still, 1)]).tolist() == list(range(40))


def test_long_and_short_batches_come_mixed():
    source = ExampleBatches(classification([4] * 80 + [40] * 80), 8, seed=0)
    widths = [batch["token_ids"].shape[1] for batch in epoch(source)]
    assert sorted(set(widths)) == [8, 40]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_texts_that_fill_no_batch_of_their_bucket_move_up():
    source = ExampleBatches(
        classification([4] * 9 + [12] * 2 + [40] * 6), 8, bucket_lengths=[8, 16, 40]
    )
    assert source.shapes == [(8, 8), (8, 40)]
    assert source.steps_per_epoch == 3
    assert source.num_tokens == 4 * 9 + 12 * 2 + 40 * 6


def test_shapes_stay_over_the_epochs():
    lengths = np.random.default_rng(1).integers(1, 60, 61)
    source = ExampleBatches(classification(lengths), 8, seed=1)
    for number in range(20):
        assert {batch["token_ids"].shape for batch in epoch(source, number)} == set(source.shapes)


@given(LENGTHS, st.data())
def test_rows_of_a_group_stay_together(lengths, data):
    group = data.draw(st.integers(1, 3))
    lengths = (lengths * group)[: len(lengths) // group * group] or lengths * group
    size = group * data.draw(st.integers(1, len(lengths) // group))
    source = ExampleBatches(classification(lengths, group), size, seed=3)
    rows = [batch["sample_id"].reshape(-1, group) for batch in epoch(source, 1)]
    rows = np.concatenate(rows)
    rows = rows[rows[:, 0] >= 0]
    assert (rows[:, 0] % group == 0).all()
    assert (rows == rows[:, :1] + np.arange(group)).all()
    assert sorted(rows.reshape(-1)) == list(range(len(lengths)))


def test_a_batch_that_would_cut_groups():
    with pytest.raises(ValueError, match=r"global_batch_size=5: 2 rows .* give a multiple of 2"):
        ExampleBatches(classification([3] * 6, group=2), 5)


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"global_batch_size=8 .* data, which has 5 samples"):
        ExampleBatches(classification([3] * 5), 8)
    rows = pack(language([10, 10]), 8)
    with pytest.raises(ValueError, match=f"global_batch_size=9 .* has {rows.num_rows} rows of 8"):
        PackedBatches(rows, 9)
    with pytest.raises(ValueError, match="global_batch_size=0"):
        PackedBatches(rows, 0)
    with pytest.raises(ValueError, match=r"bucket_lengths=\[8\]: the longest text has 9 tokens"):
        ExampleBatches(classification([9]), 1, bucket_lengths=[8])


def test_evaluation_fills_a_batch_larger_than_the_data():
    source = ExampleBatches(classification([3] * 5), 8, shuffle=False)
    assert source.batch(0)["weight"].tolist() == [1] * 5 + [0] * 3
    assert source.steps_per_epoch == 1


@given(st.lists(st.integers(0, 64), min_size=1, max_size=30), st.integers(1, 3))
def test_bucket_lengths_waste_the_least(lengths, max_buckets):
    chosen = choose_bucket_lengths(np.array(lengths), max_buckets, tolerance=0.0)

    def padded(buckets):
        return sum(min(b for b in buckets if b >= length) for length in lengths)

    top = max(8, -(-max(lengths) // 8) * 8)
    candidates = range(8, top, 8)
    best = min(
        padded([*cut, top]) for k in range(max_buckets) for cut in combinations(candidates, k)
    )
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == top
    assert len(chosen) <= max_buckets
    assert padded(chosen) == best


def test_few_buckets_where_more_save_little():
    assert choose_bucket_lengths(np.array([31] * 100 + [20])) == [32]
    assert choose_bucket_lengths(np.array([5] * 100 + [100])) == [8, 104]


class Failing:
    steps_per_epoch = 5

    def batch(self, step):
        if step == 4:
            raise ValueError("step 4 is bad")
        return {"step": np.array(step)}


def test_prefetcher_gives_the_batches_of_its_steps_in_order():
    source = next(sources())
    with Prefetcher(source, 3, 9) as batches:
        got = list(batches)
        assert list(batches) == []
    assert [step for step, _ in got] == [3, 4, 5, 6, 7, 8]
    for step, batch in got:
        assert_same(batch, source.batch(step))


def test_prefetcher_raises_the_error_of_its_source_after_the_batches_before():
    with Prefetcher(Failing(), 2) as batches:
        ahead = iter(batches)
        assert [next(ahead)[0], next(ahead)[0]] == [2, 3]
        with pytest.raises(ValueError, match="step 4"):
            next(ahead)


def test_prefetcher_ends_its_thread_when_left():
    before = threading.active_count()
    with Prefetcher(next(sources())) as batches:
        next(iter(batches))
        deadline = time.monotonic() + 5
        while batches._queue.qsize() < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert batches._queue.qsize() == 2  # and no more, though the source has no end
    assert threading.active_count() == before


def test_shares_of_mixup_depend_on_seed_epoch_and_sample_alone():
    def shares(seed, epoch_number, batch_size):
        source = ExampleBatches(classification([3] * 10), batch_size, seed=seed, mixup=0.4)
        found = {}
        for batch in epoch(source, epoch_number):
            assert (batch["mixup"][batch["sample_id"] < 0] == 1).all()
            found |= dict(zip(batch["sample_id"].tolist(), batch["mixup"].tolist(), strict=True))
        found.pop(-1, None)
        return found

    first = shares(1, 0, 4)
    assert len(set(first.values())) == 10
    assert all(0 <= share <= 1 for share in first.values())
    assert shares(1, 0, 3) == first
    assert shares(1, 1, 4) != first != shares(2, 0, 4)
    assert "mixup" not in ExampleBatches(classification([3] * 4), 2).batch(0)
