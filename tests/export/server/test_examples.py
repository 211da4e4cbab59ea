"""Classify, Regress and MultiInference over gRPC."""

import time

import grpc
import pytest
from google.protobuf import text_format

from export import protocol
from export.server import errors, examples

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def features(**values):
    entries = "".join(
        f'feature {{ key: "{name}" value {{ float_list {{ value: {value} }} }} }} '
        for name, value in values.items()
    )
    return f"features {{ {entries} }}"


EXAMPLES = (
    f"input {{ example_list {{ examples {{ {features(x=2)} }} examples {{ {features(x=-1)} }} }} }}"
)
CONTEXT = (
    f"input {{ example_list_with_context {{ context {{ {features(bias=10, x=5)} }} "
    f"examples {{ {features(x=2)} }} }} }}"
)


def ask(server, method, text):
    request_type = {
        "Classify": protocol.ClassificationRequest,
        "Regress": protocol.RegressionRequest,
        "MultiInference": protocol.MultiInferenceRequest,
    }[method]
    request = text_format.Parse(text, request_type())
    return getattr(server.predictions, method)(request, timeout=60)


def spec(signature, name="toy"):
    return f'model_spec {{ name: "{name}" signature_name: "{signature}" }} '


def test_classify(server):
    response = ask(server, "Classify", spec("classify") + EXAMPLES)
    found = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
    assert found == [[("low", 2.0), ("high", -2.0)], [("low", -1.0), ("high", 1.0)]]
    assert response.model_spec.signature_name == "classify"
    assert response.model_spec.version.value == 1


def test_context_is_shared_and_examples_win(server):
    response = ask(server, "Regress", spec("regress") + CONTEXT)
    assert [entry.value for entry in response.result.regressions] == [12.0]


def test_regress(server):
    response = ask(server, "Regress", spec("regress") + EXAMPLES)
    assert [entry.value for entry in response.result.regressions] == [2.0, -1.0]


def task(signature, method, name="toy"):
    return f'tasks {{ {spec(signature, name)} method_name: "tensorflow/serving/{method}" }} '


def test_multi_inference(server):
    both = task("classify", "classify") + task("regress", "regress")
    first, second = ask(server, "MultiInference", both + EXAMPLES).results
    assert first.classification_result.classifications[1].classes[1].score == 1.0
    assert second.regression_result.regressions[0].value == 2.0
    assert [first.model_spec.signature_name, second.model_spec.signature_name] == [
        "classify", "regress",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "text", "code", "message"),
    [
        ("Classify", EXAMPLES, INVALID, "Missing ModelSpec"),
        ("Regress", EXAMPLES, INVALID, "Missing ModelSpec"),
        ("MultiInference", EXAMPLES, INVALID, "ModelSpec has no name specified."),
        (
            "Classify", spec("classify", "no") + EXAMPLES,
            grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(no)",
        ),
        ("Classify", spec("x") + EXAMPLES, INVALID, "No signature was found with the name: x"),
        ("Regress", spec("x") + EXAMPLES, INVALID, "No signature was found with the name: x"),
        ("Classify", spec("classify"), INVALID, "Input is empty."),
        ("Regress", spec("regress") + "input { example_list {} }", INVALID, "Input is empty."),
        ("Classify", spec("two") + EXAMPLES, INVALID, "Expected one input Tensor."),
        ("Regress", spec("two") + EXAMPLES, INVALID, "Expected one input Tensor."),
        ("Regress", spec("classify") + EXAMPLES, INVALID, "Expected one output Tensor."),
        (
            "Classify", spec("") + EXAMPLES,
            INVALID, "No classification inputs found in SignatureDef: inputs {",
        ),
        (
            "Regress", spec("") + EXAMPLES,
            INVALID, "No regression inputs found in SignatureDef: inputs {",
        ),
        (
            "Classify", spec("regress") + EXAMPLES,
            INVALID, "Expected classification signature outputs to contain at least one of "
            '"classes" or "scores". Signature was: inputs {',
        ),
        (
            "Classify", spec("flat_classes") + EXAMPLES,
            INVALID, "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        (
            "Regress", spec("wide_regression") + EXAMPLES,
            INVALID, "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            "but got [2,2]",
        ),
        (
            "MultiInference", task("classify", "classify") * 2 + EXAMPLES,
            INVALID, "Duplicate evaluation of signature: classify",
        ),
        (
            "MultiInference",
            task("classify", "classify") + task("regress", "regress", "other") + EXAMPLES,
            INVALID, "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            "MultiInference", task("x", "classify") + EXAMPLES,
            INVALID, "Requested signature not found in model graph: x",
        ),
        (
            "MultiInference", task("two", "predict") + EXAMPLES,
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)  # fmt: skip
def test_refused(server, method, text, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, method, text)
    assert caught.value.code() == code
    if message.endswith("{"):
        assert caught.value.details().startswith(message)
    else:
        assert caught.value.details() == message


def test_deadline(inside):
    request = text_format.Parse(spec("classify") + EXAMPLES, protocol.ClassificationRequest())
    with pytest.raises(errors.ServingError, match="Timed out waiting for notification"):
        examples.classify(inside, request, deadline=time.monotonic())
