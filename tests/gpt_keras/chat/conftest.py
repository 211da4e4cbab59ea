"""Chat templates of public models, whole, or where long their rules without those for tools."""

import calendar
import dataclasses
import datetime
import functools
import pathlib

import pytest
import tensorflow as tf

from gpt_keras import chat
from gpt_keras.chat import template as jinja

TEMPLATES = {
    file.stem: file.read_text("utf-8")
    for file in sorted((pathlib.Path(__file__).parent / "templates").glob("*.jinja"))
}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "date_string": "26 Jul 2024"}


@pytest.fixture(params=TEMPLATES, scope="session")
def name(request):
    """The name of each template in turn."""
    return request.param


@pytest.fixture(scope="session")
def templates():
    """Name -> template."""
    return TEMPLATES


@pytest.fixture(scope="session")
def variables():
    """Variables that are enough for all templates."""
    return VARIABLES


@pytest.fixture(scope="session")
def compile_named():
    """Function from a name to the compiled template, whose clock stands at `MOMENT`."""

    @functools.cache
    def compiled(name):
        seconds = float(calendar.timegm(MOMENT.timetuple()))
        return dataclasses.replace(
            chat.compile_template(TEMPLATES[name], **VARIABLES),
            now=lambda: tf.constant(seconds, tf.float64),
        )

    return compiled


@pytest.fixture(scope="session")
def render_named():
    """Function from name and messages to what Jinja makes of them at `MOMENT`."""

    def rendered(name, messages):
        return jinja.run(jinja.compile_jinja(TEMPLATES[name], moment), messages, True, VARIABLES)

    return rendered


MOMENT = datetime.datetime(2024, 2, 9, 10, 11, 12)


def moment():
    return MOMENT
