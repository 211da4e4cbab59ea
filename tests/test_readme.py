"""What README.md, README.zh.md and docs/tasks.md name is there: targets, modules, flags, files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
both = pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
pages = pytest.mark.parametrize(
    "path", [*READMES, ROOT / "docs" / "tasks.md"], ids=lambda path: path.name
)


def commands(path):
    """The commands in a page's blocks of bash, continued lines joined and comments cut off."""
    for block in re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"(^|\s)#.*", "", line).strip(" &")


@pages
def test_commands_exist(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    modules = 0
    for command in filter(None, commands(path)):
        for target in re.findall(r"\bmake ([a-z-]+)", command):
            assert target in targets, command
        for module in re.findall(r"python -m ([\w.]+)", command):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), command
            modules += 1
        for file in re.findall(r"\bexamples/[\w.]+", command):
            assert (ROOT / file).exists(), command
    assert modules > 3


@pages
def test_flags_exist(path):
    folders = ("gpt_keras", "trainers", "export", "examples")
    sources = [file.read_text("utf-8") for name in folders for file in (ROOT / name).rglob("*.py")]
    defined = set(re.findall(r'"(\w+)"', "\n".join(sources))) | {"help"}
    for command in commands(path):
        if "python -m" in command:
            assert set(re.findall(r"\s--(\w+)", command)) <= defined, command


@both
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8"))
    assert {"README.zh.md", "README.md"} & set(links)
    for link in links:
        file, _, section = link.partition("#")
        assert (ROOT / file).exists(), link
        if section:
            titles = re.findall(r"^#+ (.+)$", (ROOT / file).read_text("utf-8"), re.MULTILINE)
            assert section in {title.lower().replace(" ", "-") for title in titles}, link
