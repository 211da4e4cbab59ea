"""Dates in the graph, beside Python's."""

import calendar
import datetime
import random

import pytest
import tensorflow as tf

from gpt_keras.chat import clock

FORM = "%Y-%m-%d|%-d.%-m.%y %B %b %A %a %H:%M:%S 100%%"


def moments():
    for year in (1970, 1999, 2000, 2004, 2026, 2099, 2100, 2400):
        for month, day in ((1, 1), (2, 28), (3, 1), (12, 31)):
            yield datetime.datetime(year, month, day, 23, 59, 59)
    yield datetime.datetime(2024, 2, 29)
    dice = random.Random(0)
    for _ in range(200):
        yield datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=dice.randrange(10**10))


def test_every_directive():
    graph = tf.function(lambda seconds: clock.strftime(FORM, seconds))
    for moment in moments():
        seconds = tf.constant(calendar.timegm(moment.timetuple()) + 0.75, tf.float64)
        assert graph(seconds).numpy().decode() == moment.strftime(FORM)


def test_marks_become_dates():
    marked = f"Today: {clock.Marks.strftime('%d %b')}, {clock.Marks.strftime('%Y')}. %d"
    assert clock.formats(marked) == {"%d %b", "%Y"}
    seconds = tf.constant(calendar.timegm((2026, 11, 3, 0, 0, 0)), tf.float64)
    texts = clock.fill_in(tf.constant([marked, "none"]), clock.formats(marked), seconds)
    assert texts.numpy().tolist() == [b"Today: 03 Nov, 2026. %d", b"none"]


@pytest.mark.parametrize("form", ["%j", "%d %Z", "%"])
def test_other_formats_are_refused(form):
    with pytest.raises(ValueError, match=r"strftime_now\(.*\): %.? is unsupported; supported are"):
        clock.formats(clock.Marks.strftime(form))
