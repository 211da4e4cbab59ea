"""Slots and blocks are given to whom they are free for, and to nobody twice."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from export import slots
from export.slots import ABSENT_MS, ABSENT_ROUNDS, LEASE_MS, LEASE_ROUNDS

S, M, BLOCKS, BLOCK = 5, 3, 9, 2


def make_table(**columns):
    blank = {name: [0] * S for name in slots.Slots._fields} | columns
    held = slots.Slots(*(tf.constant(blank[name], tf.int64) for name in slots.Slots._fields))
    numbers = iter(range(8, 0, -1))
    counters, first = (
        kind(*(tf.constant(next(numbers), tf.int64) for _ in kind._fields))
        for kind in (slots.Counters, slots.First)
    )
    return slots.Table(held, counters, first)


def test_a_table_survives_its_matrix():
    columns = {name: list(range(i, i + S)) for i, name in enumerate(slots.Slots._fields)}
    table = make_table(**columns)
    assert table.matrix().shape == slots.Table.shape(S)
    again = slots.Table.of(table.matrix())
    for before, after in zip(tf.nest.flatten(table), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(before, after)


def test_put_and_take():
    table = make_table(ticket=[1, 2, 3, 4, 5])
    changed = table.slots.put(tf.constant([3, 1]), ticket=[9, 8], limit=6)
    assert changed.ticket.numpy().tolist() == [1, 8, 3, 9, 5]
    assert changed.limit.numpy().tolist() == [0, 6, 0, 6, 0]
    taken = changed.take(tf.constant([3, 0]))
    assert taken.ticket.numpy().tolist() == [9, 1]
    assert taken.limit.numpy().tolist() == [6, 0]


@pytest.mark.parametrize(
    ("ticket", "away_ms", "visits", "free"),
    [
        (0, 0, 0, True),
        (3, 0, 0, False),
        (3, LEASE_MS + 1, LEASE_ROUNDS * (S + 1) + 1, True),
        (3, LEASE_MS, LEASE_ROUNDS * (S + 1) + 1, False),
        (3, 10 * LEASE_MS, LEASE_ROUNDS * (S + 1), False),  # the machine stood still
    ],
)
def test_a_lease(ticket, away_ms, visits, free):
    table = make_table(ticket=[ticket] * S, visited_ms=[1000] * S, visited=[50] * S)
    found = slots.release(table.slots, 1000 + away_ms, 50 + visits)
    assert found.ticket.numpy().tolist() == [0 if free else ticket] * S


LONG, OFTEN = ABSENT_MS + 1, ABSENT_ROUNDS * 4 + 1


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        ((0, 0, 0), (70, 100, 9), (70, 100, 9)),  # nobody is
        ((50, 90, 8), (70, 100, 9), (50, 90, 8)),  # that one waits longer
        ((50, 90, 8), (40, 100, 9), (40, 100, 9)),
        ((50, 90, 8), (50, 100, 9), (50, 100, 9)),  # the same one is here again
        ((50, 0, 0), (70, LONG, OFTEN), (70, LONG, OFTEN)),  # gone
        ((50, 0, 0), (70, LONG - 1, OFTEN), (50, 0, 0)),
        ((50, 0, 0), (70, LONG, OFTEN - 1), (50, 0, 0)),  # a round of visits took long
    ],
)
def test_who_is_first(first, other, expected):
    first, other = (slots.First(*(tf.constant(n, tf.int64) for n in x)) for x in (first, other))
    kept = slots.Table.of(make_table()._replace(first=first).matrix()).first
    assert tuple(n.numpy() for n in kept.or_else(other, visitors=4)) == expected


@pytest.mark.parametrize(
    ("since", "gives_up", "left"), [(50, True, 0), (50, False, 50), (70, True, 50)]
)
def test_a_place_is_given_up(since, gives_up, left):
    first = slots.First(*(tf.constant(n, tf.int64) for n in (50, 90, 8)))
    found = first.without(tf.constant(since, tf.int64), tf.constant(gives_up))
    assert tuple(n.numpy() for n in found) == (left, 90, 8)


@pytest.mark.parametrize(
    ("prompt", "blocks"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [3, 1, 0, 0, 2]),
        ([1, 2, 3, 4, 5, 6], [2, 1, 0, 0, 2]),  # the last token is computed anew
        ([1, 2], [0] * 5),
        ([9], [0] * 5),
    ],
)
def test_remembered(prompt, blocks):
    table = make_table(filled=[7, 3, 8, 0, 5], prompt_length=[3, 3, 8, 9, 9])
    texts = [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [1, 2, 3, 4, 5, 6, 7, 8],
        [2, 2, 3, 4, 5, 6, 7, 8],
        [1, 2, 3, 4, 5, 6, 7, 8],
        [1, 2, 3, 4, 5, 0, 7, 8],
    ]
    tokens = tf.constant(texts)[:, : len(prompt)]
    found = slots.remembered(table.slots, tokens, tf.constant(prompt), block=2)
    assert found.numpy().tolist() == blocks


@tf.function(
    input_signature=[
        tf.TensorSpec([S], tf.int64),
        tf.TensorSpec([S], tf.int64),
        tf.TensorSpec([S], tf.bool),
        tf.TensorSpec([S, M], tf.int32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([S, M * BLOCK], tf.int32),
        tf.TensorSpec([None], tf.int32),
    ]
)
def admit(filled, visited, free, pages, needed, tokens, prompt):
    table = make_table()
    ticket = tf.where(free, tf.constant(0, tf.int64), 1)
    entries = table.slots._replace(ticket=ticket, filled=filled, visited=visited)
    known = slots.remembered(entries, tokens[:, : tf.size(prompt)], prompt, BLOCK)
    return slots.find_room(entries, pages, BLOCKS, BLOCK, needed, known)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_admission(data):
    """Texts come and go; a ledger tells what each block holds and whose it is."""
    free, filled = np.ones(S, bool), np.zeros(S, np.int64)
    visited = np.zeros(S, np.int64)
    pages, tokens = np.zeros((S, M), np.int32), np.zeros((S, M * BLOCK), np.int32)
    contents = {}  # block -> the text up to its end, as far as it is computed
    for visit in range(1, 14):
        if data.draw(st.booleans()) and not free.all():
            free[data.draw(st.sampled_from(np.flatnonzero(~free).tolist()))] = True
            continue
        length = data.draw(st.integers(1, M * BLOCK))
        prompt = data.draw(st.lists(st.integers(1, 2), min_size=length, max_size=length))
        needed = data.draw(st.integers(-(-length // BLOCK), M))
        held = pages[~free]
        held = set(held[held > 0].tolist())
        found = admit(
            *map(tf.constant, (filled, visited, free, pages)), needed, tf.constant(tokens),
            tf.constant(prompt),
        )  # fmt: skip
        blocks, shared = found.pages.numpy(), int(found.shared)
        if not found.fits:
            known = set(blocks[:shared].tolist())
            assert not free.any() or BLOCKS - len(held | known) < needed - shared
            continue
        slot = int(found.slot)
        assert free[slot]
        assert (blocks > 0).sum() == needed == len(set(blocks[blocks > 0].tolist()))
        assert not set(blocks[shared:needed].tolist()) & held
        assert shared * BLOCK < length
        for i in range(shared):
            assert contents[blocks[i]] == prompt[: (i + 1) * BLOCK]
        filled = found.filled.numpy().copy()
        for block in blocks[shared:needed]:
            contents.pop(int(block), None)
        free[slot], visited[slot], pages[slot] = False, visit, blocks
        tokens[slot] = 0
        tokens[slot, :length] = prompt
        filled[slot] = data.draw(st.integers(shared * BLOCK, length))
        for i in range(filled[slot] // BLOCK):
            contents[int(blocks[i])] = prompt[: (i + 1) * BLOCK]
        for other in np.flatnonzero(free):  # nothing is believed of what is overwritten
            for i in range(filled[other] // BLOCK):
                block = int(pages[other, i])
                assert contents[block] == tokens[other, : (i + 1) * BLOCK].tolist()


def test_the_oldest_leftovers_go_first():
    pages = tf.constant([[1, 2, 0], [3, 4, 0], [5, 6, 0], [0, 0, 0], [0, 0, 0]])
    filled, visited = tf.constant([4, 4, 4, 0, 0], tf.int64), tf.constant([7, 5, 9, 0, 0], tf.int64)
    tokens, prompt = tf.zeros([S, M * BLOCK], tf.int32), tf.constant([1])

    def blocks(needed):
        found = admit(filled, visited, tf.ones([S], tf.bool), pages, needed, tokens, prompt)
        assert int(found.slot) == 3
        return found.pages.numpy().tolist(), found.filled.numpy().tolist()

    assert blocks(3) == ([7, 8, 9], [4, 4, 4, 0, 0])
    found = slots.find_room(
        make_table().slots._replace(filled=filled, visited=visited), pages, 6, BLOCK, 3,
        tf.zeros([S], tf.int32),
    )  # fmt: skip
    assert found.pages.numpy().tolist() == [3, 4, 1]
    assert found.filled.numpy().tolist() == [0, 0, 4, 0, 0]
