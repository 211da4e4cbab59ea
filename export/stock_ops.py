"""Will a stock TensorFlow Serving know every op of a SavedModel?

The server links TensorFlow's core ops and those of TensorFlow Text, has no Python, and answers a
call that reaches an XLA-compiled function with an error. A model that breaks one of these rules
may well load; only a call shows it. So it is checked before a model is published.
"""

import functools
import gzip
import importlib.resources
import json
import os
import pathlib

from absl import flags
from tensorflow.core.protobuf import saved_model_pb2

from export import cli

PYTHON_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")  # registered everywhere, kernels nowhere
XLA_MARK = "_XlaMustCompile"


@functools.cache
def servers() -> dict[str, dict[str, frozenset[str]]]:
    """Server version -> op -> names of its attributes, for the versions we promise to run on."""
    file = importlib.resources.files("export").joinpath("data", "stock_ops.json.gz")
    return parse(file.read_bytes())


def parse(data: bytes) -> dict[str, dict[str, frozenset[str]]]:
    """The content of a file that `data/build_stock_ops.py` wrote, as `servers` gives it."""
    lists = json.loads(gzip.decompress(data))["servers"]
    return {
        version: {op: frozenset(attrs) for ops in libraries.values() for op, attrs in ops.items()}
        for version, libraries in lists.items()
    }


def read(directory: str | os.PathLike) -> saved_model_pb2.SavedModel:
    """The `saved_model.pb` of a SavedModel directory.

    Raises:
      ValueError: it is missing or no SavedModel.
    """
    file = pathlib.Path(directory) / "saved_model.pb"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; give the directory of one version of a SavedModel")
    try:
        return saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError is not a public name of every release
        raise ValueError(f"{file}: not a SavedModel ({error})") from error


def check(saved_model: saved_model_pb2.SavedModel) -> list[str]:
    """What a stock server would not run, one line a finding; empty when all is well."""
    findings = {}  # finding -> server versions it holds for, or () for all; each finding once
    for meta_graph in saved_model.meta_graphs:
        library = meta_graph.graph_def.library
        functions = {function.signature.name for function in library.function}
        places = [("the main graph", meta_graph.graph_def.node)]
        for function in library.function:
            place = f"function {function.signature.name}"
            if _by_xla(function.attr):
                findings[f"{place}: compiled by XLA, which the server has switched off"] = ()
            places.append((place, function.node_def))
        for place, nodes in places:
            for node in nodes:
                if node.op not in functions:
                    _check_node(node, place, findings)
                elif _by_xla(node.attr):
                    findings[f"op {node.op} in {place}: a call compiled by XLA"] = ()
    return [
        f"{finding} TensorFlow Serving {', '.join(versions)}" if versions else finding
        for finding, versions in findings.items()
    ]


def _check_node(node, place, findings):
    where = f"op {node.op} in {place} (node {node.name})"
    if node.op in PYTHON_OPS:
        findings[f"{where}: runs Python, which the server lacks"] = ()
        return
    if node.op.lstrip("_").startswith("Xla") or _by_xla(node.attr):
        findings[f"{where}: needs XLA, which the server has switched off"] = ()
        return
    for version, ops in servers().items():
        if node.op not in ops:
            findings.setdefault(f"{where}: unknown to", []).append(version)
            continue
        for attr in node.attr:
            # A leading underscore marks notes of the runtime, which no op declares.
            if attr not in ops[node.op] and not attr.startswith("_"):
                findings.setdefault(f"{where}: attribute {attr} unknown to", []).append(version)


def _by_xla(attrs):
    # Asking a protobuf map for a missing key would add it.
    return XLA_MARK in attrs and attrs[XLA_MARK].b


def server_names() -> str:
    """The versions we promise to run on, such as "2.19 and 2.20"."""
    return " and ".join(servers())


def count_nodes(saved_model: saved_model_pb2.SavedModel) -> int:
    """Number of nodes, those of the graphs and of their function libraries together."""
    graphs = [meta_graph.graph_def for meta_graph in saved_model.meta_graphs]
    return sum(
        len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
        for graph in graphs
    )


def main():
    saved_model = read(flags.FLAGS.saved_model)
    findings = check(saved_model)
    for finding in findings:
        print(finding)
    if findings:
        raise ValueError(f"{len(findings)} finding(s): TensorFlow Serving would not run this model")
    print(f"TensorFlow Serving {server_names()} knows all {count_nodes(saved_model):,} nodes")


if __name__ == "__main__":
    flags.DEFINE_string("saved_model", None, "SavedModel directory, with saved_model.pb in it.")
    flags.mark_flag_as_required("saved_model")
    cli.run(main)
