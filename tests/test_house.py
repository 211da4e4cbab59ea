"""The rules of the house: who may import whom, and that nothing works at import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("gpt_keras", "trainers", "export") for path in (ROOT / folder).rglob("*.py")
)


def imports(path):
    """Full dotted names of all that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; name the module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(path):
    """Prefixes of modules that this file may not import."""
    place = path.relative_to(ROOT).as_posix()
    never = ["torch", "transformers", "pickle", "tests", "benchmarks", "examples"]
    if place.startswith("gpt_keras/"):
        never += ["trainers", "export", "tensorflow_serving", "grpc"]
    if place.startswith("trainers/"):
        never += ["export"]
    if place.startswith("export/"):
        never += ["trainers"]
    if place.startswith(("export/server/", "export/serve.py")):
        never += ["gpt_keras"]
    if place != "export/protocol.py":
        never += ["tensorflow_serving.apis"]
    return never


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path):
    for name in imports(path):
        for prefix in forbidden(path):
            assert not (name + ".").startswith(prefix + "."), f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_eval_and_nothing_done_at_import(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"{path}:{node.lineno}"
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, *definitions)
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        is_backend = "KERAS_BACKEND" in ast.unparse(node)
        is_imports = isinstance(node, ast.With) and all(
            isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body
        )
        assert isinstance(node, allowed) or is_text or is_main or is_backend or is_imports, (
            f"{path}:{node.lineno} does something at import: {ast.unparse(node)[:80]}"
        )
