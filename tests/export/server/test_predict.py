"""Predict over gRPC: answers, and the codes and messages of a stock server."""

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from export import protocol

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
X = {"x": [1.0, 2.0]}


def request_of(text="", **inputs):
    """A request: protobuf text and inputs."""
    request = text_format.Parse(text, protocol.PredictRequest())
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def failure(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    return caught.value.code(), caught.value.details()


def test_answer(server):
    response = server.predictions.Predict(request_of('model_spec { name: "toy" }', **X), timeout=60)
    assert response.outputs["y"] == protocol.TensorProto(
        dtype=protocol.DataType.DT_FLOAT,
        tensor_shape={"dim": [{"size": 2}]},
        float_val=[2.5, 3.0],  # typed fields, never tensor_content
    )
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "serving_default")


@pytest.mark.parametrize(
    ("text", "inputs", "code", "message"),
    [
        ("", X, INVALID, "Missing ModelSpec"),
        ("model_spec {}", X, INVALID, "ModelSpec has no name specified."),
        ('model_spec { name: "no" }', X, NOT_FOUND, "Servable not found for request: Latest(no)"),
        (
            'model_spec { name: "toy" version { value: 9 } }', X,
            NOT_FOUND, "Servable not found for request: Specific(toy, 9)",
        ),
        (
            'model_spec { name: "toy" version_label: "x" }', X,
            INVALID, "Unrecognized servable version label: x",
        ),
        (
            'model_spec { name: "toy" signature_name: "x" }', X,
            FAILED_PRECONDITION, 'Serving signature key "x" not found.',
        ),
        (
            'model_spec { name: "toy" }', {**X, "extra": 1},
            INVALID, "input size does not match signature: 2!=1 len({extra,x}) != len({x}). "
            "Sent extra: {extra}. Missing but required: {}.",
        ),
        (
            'model_spec { name: "toy" signature_name: "two" }', {"a": [1.0]},
            INVALID, "input size does not match signature: 1!=2 len({a}) != len({a,b}). "
            "Sent extra: {}. Missing but required: {b}.",
        ),
        (
            'model_spec { name: "toy" }', {},
            INVALID, "input size does not match signature: 0!=1 len({}) != len({x}). "
            "Sent extra: {}. Missing but required: {x}.",
        ),
        (
            'model_spec { name: "toy" }', {"wrong": [1.0]},
            INVALID, "Signature input alias: x(feed name: serving_default_x:0) not found in "
            "request and no default value provided. Inputs expected to be in the request {wrong}, "
            "or default input alias set: ",
        ),
        (
            'model_spec { name: "toy" signature_name: "optional" }', {"k": [1]},
            INVALID, "Signature input alias: prompts(feed name: optional_prompts:0) not found in "
            "request and no default value provided. Inputs expected to be in the request {k}, "
            "or default input alias set: k",
        ),
        (
            'model_spec { name: "toy" signature_name: "optional" }',
            {"prompts": ["a"], "bogus": 1},
            INVALID, "Inputs contains invalid name. Used request inputs: prompts, "
            "request input: bogus,prompts",
        ),
        (
            'model_spec { name: "toy" }', {"x": [1, 2]},
            INVALID, "Expects arg[0] to be float but int32 is provided",
        ),
        (
            'model_spec { name: "toy" }', {"x": ["a"]},
            INVALID, "Expects arg[0] to be float but string is provided",
        ),
        (
            'model_spec { name: "toy" signature_name: "two" }',
            {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]},
            INVALID, "Incompatible shapes: [2] vs. [3]",
        ),
        (
            'model_spec { name: "toy" } output_filter: "z"', X,
            INVALID, "output tensor alias not found in signature: z Outputs expected to be in the "
            "set {y}.",
        ),
        (
            'model_spec { name: "toy" } output_filter: "y" output_filter: "y"', X,
            INVALID, "duplicate output tensor alias: y",
        ),
    ],
)  # fmt: skip
def test_refused(server, text, inputs, code, message):
    told = failure(server.predictions.Predict, request_of(text, **inputs), timeout=60)
    if "Incompatible" in message:  # the op says more: [[node]]
        assert told[0] == code
        assert message in told[1]
    else:
        assert told == (code, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dtype: DT_VARIANT tensor_shape { dim { size: 1 } }",
            "Expects arg[1] to be float but variant is provided",
        ),
        (
            "dtype: DT_RESOURCE tensor_shape {} resource_handle_val { name: 'a' hash_code: 7 }",
            "Invalid resource type hash code: 7(name: a type: ). Perhaps a resource tensor was "
            "being provided as a feed? That is not currently allowed.",
        ),
        (
            "dtype: DT_RESOURCE tensor_shape {}",
            "Invalid resource type hash code: 0(name:  type: ). Perhaps a resource tensor was",
        ),
    ],
)
def test_tensors_that_no_array_holds(server, text, message):
    opaque = text_format.Parse(text, protocol.TensorProto())
    code, told = failure(server.predict, "two", a=[1.0], b=opaque)
    assert code == INVALID
    assert told.startswith(message)


def test_shapes_are_not_checked(server):
    np.testing.assert_array_equal(server.predict(x=[[1.0], [2.0]])["y"], [[2.5], [3.0]])
    assert server.predict(x=np.zeros([0], np.float32))["y"].shape == (0,)


@pytest.mark.parametrize("value", [b"a", b"", b"\xff\x00"])
def test_scalars_of_strings(server, value):
    answer = server.predict("strings", s=tf.make_tensor_proto(value, tf.string, []))
    assert answer["s"].shape == ()
    assert answer["s"].item() == value


def test_defaults_and_output_filter(server):
    np.testing.assert_array_equal(
        server.predict("optional", prompts=["a", "b"])["text"], [b"a40", b"b40"]
    )
    np.testing.assert_array_equal(
        server.predict("optional", prompts=["a", "b"], k=[1, 2])["text"], [b"a1", b"b2"]
    )
    answer = server.predict("two", a=[3.0], b=[1.0], output_filter=["difference"])
    assert answer.keys() == {"difference"}


@pytest.mark.parametrize("shape", [[], [0], [2, 3]])
@pytest.mark.parametrize(
    "dtype",
    ["float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "bool",
     "float16", "bfloat16", "complex64"],
)  # fmt: skip
def test_dtypes_come_back(server, dtype, shape):
    value = tf.cast(tf.reshape(tf.range(np.prod(shape, dtype=int)), shape), dtype).numpy()
    answer = server.predict(f"echo_{dtype}", x=tf.make_tensor_proto(value))["y"]
    assert answer.dtype == value.dtype
    np.testing.assert_array_equal(answer, value)


def test_long_messages_are_cut(server):
    _, message = failure(server.predict, "x" * 3000, x=[1.0])
    assert message == 'Serving signature key "' + "x" * 1001 + "...TRUNCATED"


@pytest.mark.parametrize("cut", ["é" * 999, "x" + "é" * 999])
def test_cut_messages_stay_utf8(server, cut):
    _, message = failure(server.predict, cut, x=[1.0])
    assert message.endswith("é...TRUNCATED")


def test_deadline_stops_the_run(server):
    begun = time.monotonic()
    code, _ = failure(server.predict, "spin", timeout=0.5, n=[2**31 - 1])
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 5
    np.testing.assert_array_equal(server.predict(x=[1.0])["y"], [2.5])


def test_a_run_that_was_stopped_holds_nothing(server, inside):
    failure(server.predict, "spin", timeout=0.5, n=[2**31 - 1])
    until = time.monotonic() + 10
    while inside.states("toy")[0].users and time.monotonic() < until:
        time.sleep(0.05)
    assert inside.states("toy")[0].users == 0


def test_compiles_only_where_allowed(server, inside):
    # In this process nobody has switched XLA off; test_serve.py has the other case.
    np.testing.assert_array_equal(server.predict("compiled", x=[1.0])["y"], [2.0])


def test_large_messages(server):
    big = np.arange(3_000_000, dtype=np.float32)  # 12 MB, above gRPC's usual 4
    np.testing.assert_array_equal(server.predict(x=big)["y"], 0.5 * big + 2)


def test_many_at_once(server):
    wrong = []

    def ask(start):
        for value in range(start, start + 50):
            if server.predict(x=[float(value)])["y"][0] != 0.5 * value + 2:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_stack_for_garbage(server, caplog):
    raw = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    code, message = failure(raw, b"\xff\xff\xff garbage", timeout=60)
    assert (code, message) == (grpc.StatusCode.INTERNAL, "Malformed request")
    raw = server.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert failure(raw, b"", timeout=60)[0] == grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records
