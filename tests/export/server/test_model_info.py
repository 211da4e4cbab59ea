"""GetModelStatus and GetModelMetadata over gRPC; test_rest.py has their JSON."""

import grpc
import pytest
from google.protobuf import text_format

from export import protocol

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def status(server, text):
    request = text_format.Parse(text, protocol.GetModelStatusRequest())
    return server.models.GetModelStatus(request, timeout=60)


def metadata(server, text):
    request = text_format.Parse(text, protocol.GetModelMetadataRequest())
    return server.predictions.GetModelMetadata(request, timeout=60)


@pytest.mark.parametrize("choice", ["", "version { value: 1 }", 'version_label: "whatever"'])
def test_status(server, choice):
    response = status(server, f'model_spec {{ name: "toy" {choice} }}')
    assert response == text_format.Parse(
        "model_version_status { version: 1 state: AVAILABLE status {} }",
        protocol.GetModelStatusResponse(),
    )


def test_metadata(server):
    response = metadata(server, 'model_spec { name: "toy" } metadata_field: "signature_def"')
    found = protocol.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert found.signature_def["serving_default"].inputs["x"].name == "serving_default_x:0"
    assert found.signature_def["classify"].method_name == "tensorflow/serving/classify"
    assert found.signature_def["optional"].defaults["k"].int_val == [40]
    assert (response.model_spec.name, response.model_spec.version.value) == ("toy", 1)
    assert response.model_spec.signature_name == ""


@pytest.mark.parametrize(
    ("call", "text", "code", "message"),
    [
        (status, "", INVALID, "Missing ModelSpec"),
        (status, "model_spec {}", NOT_FOUND, "Could not find any versions of model "),
        (
            status, 'model_spec { name: "no" }',
            NOT_FOUND, "Could not find any versions of model no",
        ),
        (
            status, 'model_spec { name: "toy" version { value: 9 } }',
            NOT_FOUND, "Could not find version 9 of model toy",
        ),
        (metadata, "", INVALID, "Missing ModelSpec"),
        (
            metadata, 'model_spec { name: "toy" }',
            INVALID, "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            metadata, 'model_spec { name: "toy" } metadata_field: "x"',
            INVALID, "Metadata field x is not supported",
        ),
        (
            metadata, 'model_spec { name: "no" } metadata_field: "signature_def"',
            NOT_FOUND, "Servable not found for request: Latest(no)",
        ),
    ],
)  # fmt: skip
def test_refused(server, call, text, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(server, text)
    assert (caught.value.code(), caught.value.details()) == (code, message)
