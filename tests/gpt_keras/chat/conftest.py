"""Chat templates of public models, whole or, where long, without their parts about tools."""

import functools
import pathlib

import pytest

from gpt_keras import chat

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
    """Function from a name to the compiled template."""
    return functools.cache(lambda name: chat.compile_template(TEMPLATES[name], **VARIABLES))
