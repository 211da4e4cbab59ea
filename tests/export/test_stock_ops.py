"""What a stock server would not run is found before it is published."""

import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import stock_ops


def graph(op, in_function=False, **attrs):
    """A SavedModel of one node."""
    saved_model = saved_model_pb2.SavedModel()
    graph_def = saved_model.meta_graphs.add().graph_def
    nodes = graph_def.node
    if in_function:
        function = graph_def.library.function.add()
        function.signature.name = "__inference_step_7"
        nodes = function.node_def
    node = nodes.add(name="here/it/is", op=op)
    for name, value in attrs.items():
        node.attr[name].i = value
    return saved_model


def save(function, path):
    module = tf.Module()
    module.function = function
    tf.saved_model.save(module, str(path), signatures={"serving_default": function})
    return stock_ops.read(path)


def test_lists_are_those_of_the_servers():
    servers = stock_ops.servers()
    assert list(servers) == ["2.19", "2.20"]
    for ops in servers.values():
        assert ops["MatMul"] >= {"T", "transpose_a", "transpose_b"}
        assert {"MutexV2", "NormalizeUTF8", "SentencepieceTokenizeOp"} <= set(ops)
    # What later releases of TensorFlow and TensorFlow Text brought.
    assert "DecodeWebP" not in servers["2.19"]
    assert "DecodeWebP" in servers["2.20"]
    assert "TFText>Utf8Binarize" not in servers["2.19"]
    assert "TFText>Utf8Binarize" in servers["2.20"]
    assert all("DecodeJxl" not in ops for ops in servers.values())


@pytest.mark.parametrize(
    ("saved_model", "finding"),
    [
        (
            graph("DecodeJxl"),
            "op DecodeJxl in the main graph (node here/it/is): unknown to TensorFlow Serving "
            "2.19, 2.20",
        ),
        (
            graph("DecodeWebP", in_function=True),
            "op DecodeWebP in function __inference_step_7 (node here/it/is): unknown to "
            "TensorFlow Serving 2.19",
        ),
        (
            graph("TensorListGetItem", in_function=True, element_dtype=1, Tshape=3),
            "op TensorListGetItem in function __inference_step_7 (node here/it/is): attribute "
            "Tshape unknown to TensorFlow Serving 2.19, 2.20",
        ),
        (
            graph("XlaLaunch"),
            "op XlaLaunch in the main graph (node here/it/is): needs XLA, which the server has "
            "switched off",
        ),
        (
            graph("EagerPyFunc", in_function=True),
            "op EagerPyFunc in function __inference_step_7 (node here/it/is): runs Python, which "
            "the server lacks",
        ),
    ],
)
def test_finding(saved_model, finding):
    assert stock_ops.check(saved_model) == [finding]


def test_runtime_notes_and_function_calls_are_no_findings():
    saved_model = graph("Identity", in_function=True, T=1, _class=3, _output_shapes=1)
    saved_model.meta_graphs[0].graph_def.node.add(name="call", op="__inference_step_7")
    assert stock_ops.check(saved_model) == []


def test_checking_changes_nothing(tmp_path):
    saved_model = save(tf.function(lambda x: x + 1, [tf.TensorSpec([None])]), tmp_path)
    before = saved_model.SerializeToString(deterministic=True)
    assert stock_ops.check(saved_model) == []
    assert saved_model.SerializeToString(deterministic=True) == before
    assert stock_ops.count_nodes(saved_model) > 3


def test_a_loop_whose_op_has_a_newer_attribute_of_default_value_passes(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([4])])
    def loop(x):
        array = tf.TensorArray(tf.float32, 4).unstack(x)
        _, total = tf.while_loop(
            lambda i, _: i < 4, lambda i, total: (i + 1, total + array.read(i)), (0, 0.0)
        )
        return {"total": total[None]}

    saved_model = save(loop, tmp_path)
    nodes = [n for f in saved_model.meta_graphs[0].graph_def.library.function for n in f.node_def]
    assert "TensorListGetItem" in {node.op for node in nodes}
    assert stock_ops.check(saved_model) == []


def test_xla_compilation_is_found(tmp_path):
    @tf.function(jit_compile=True)
    def compiled(x):
        return x * 2

    outer = tf.function(lambda x: {"y": compiled(x)}, [tf.TensorSpec([None])])
    findings = stock_ops.check(save(outer, tmp_path))
    assert findings
    assert all("XLA" in finding for finding in findings)
    assert any("compiled" in finding for finding in findings)


def test_python_is_found(tmp_path):
    def with_python(x):
        return {"y": tf.ensure_shape(tf.py_function(lambda v: v, [x], tf.float32), [None])}

    findings = stock_ops.check(save(tf.function(with_python, [tf.TensorSpec([None])]), tmp_path))
    assert len(findings) == 1
    assert "runs Python" in findings[0]


def test_read_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"saved_model.pb: no such file; give the directory of"):
        stock_ops.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match=r"saved_model.pb: not a SavedModel"):
        stock_ops.read(tmp_path)


def test_the_script_that_builds_the_lists(tmp_path):
    script = pathlib.Path(stock_ops.__file__).with_name("data") / "build_stock_ops.py"
    (tmp_path / "core.json").write_text(json.dumps({"Add": ["T"], "Abs": ["T"]}))
    (tmp_path / "text.json").write_text(json.dumps({"Split": ["a", "b"], "Extra": []}))
    outputs = []
    for name in ("one.gz", "two.gz"):
        for server in ("2.20", "2.19"):
            subprocess.run(
                [sys.executable, script, "pack", f"--server={server}",
                 f"--core={tmp_path / 'core.json'}", f"--text={tmp_path / 'text.json'}",
                 f"--output={tmp_path / name}", "--without", "Extra"],
                check=True, capture_output=True,
            )  # fmt: skip
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]
    lists = stock_ops.parse(outputs[0])
    assert list(lists) == ["2.19", "2.20"]
    assert lists["2.19"] == {"Add": {"T"}, "Abs": {"T"}, "Split": {"a", "b"}}
