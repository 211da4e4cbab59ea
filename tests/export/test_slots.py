"""Slots and blocks are given to whom they are free for, and to nobody twice."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from export import slots
from export.slots import LEASE_MS, LEASE_VISITS

S, M, BLOCKS = 5, 3, 9


def make_table(**columns):
    blank = {name: [0] * S for name in slots.Slots._fields} | columns
    held = slots.Slots(*(tf.constant(blank[name], tf.int64) for name in slots.Slots._fields))
    return slots.Table(held, slots.Counters(*(tf.constant(n, tf.int64) for n in (7, 6, 5, 4))))


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
        (3, LEASE_MS + 1, LEASE_VISITS + 1, True),
        (3, LEASE_MS, LEASE_VISITS + 1, False),
        (3, 10 * LEASE_MS, LEASE_VISITS, False),  # the machine stood still: nobody came by
    ],
)
def test_a_lease(ticket, away_ms, visits, free):
    table = make_table(ticket=[ticket] * S, visited_ms=[1000] * S, visited=[50] * S)
    found = slots.is_free(table.slots, 1000 + away_ms, 50 + visits)
    assert found.numpy().tolist() == [free] * S


@settings(max_examples=60, deadline=None)
@given(
    held=st.lists(st.integers(0, M), min_size=S, max_size=S),
    needed=st.lists(st.integers(1, M), max_size=8),
    seed=st.integers(0, 99),
)
def test_admission(held, needed, seed):
    """As many texts as fit, in order; slots and blocks that nobody has."""
    order = np.random.default_rng(seed).permutation(BLOCKS) + 1
    pages, taken = np.zeros((S, M), np.int32), 0
    for slot, n in enumerate(held):
        n = min(n, BLOCKS - taken)
        pages[slot, :n] = order[taken : taken + n]
        taken += n
    free = pages.max(axis=1) == 0
    pages[free] = 1  # what a former tenant left does not count
    admission = slots.admit(
        tf.constant(free), tf.constant(pages), BLOCKS, tf.constant(needed, tf.int32)
    )
    expected, room = 0, BLOCKS - taken
    for n in needed:
        if n > room or expected == free.sum():
            break
        expected, room = expected + 1, room - n
    assert admission.texts.numpy().tolist() == list(range(expected))
    got = admission.slots.numpy().tolist()
    assert len(set(got)) == expected
    assert all(free[slot] for slot in got)
    blocks = admission.pages.numpy()
    assert (blocks > 0).sum(axis=1).tolist() == needed[:expected]
    assert all((row[:n] > 0).all() for row, n in zip(blocks, needed, strict=False))
    given = blocks[blocks > 0].tolist()
    in_use = pages[~free]
    assert len(set(given)) == len(given)
    assert not set(given) & set(in_use[in_use > 0].tolist())
