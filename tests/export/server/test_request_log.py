"""Ids of requests, and what the log says of them."""

import json
import logging
import re
import sys

import grpc
import pytest
import tensorflow as tf

from export import protocol
from export.server import request_log


@pytest.mark.parametrize(
    ("given", "taken"),
    [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("\n", False),
     ("é", False), ("", False), (None, False)],
)  # fmt: skip
def test_ids(given, taken):
    found = request_log.id_of(given)
    assert (found == given) == taken
    assert taken or re.fullmatch("[0-9a-f]{32}", found)


def request_of(signature=""):
    request = protocol.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([41.5]))
    return request


def test_calls(server, inside, caplog):
    caplog.set_level(logging.INFO, request_log.log.name)
    metadata = [(request_log.HEADER, "mine")]
    _, call = server.predictions.Predict.with_call(request_of(), timeout=60, metadata=metadata)
    assert dict(call.trailing_metadata())[request_log.HEADER] == "mine"
    with pytest.raises(grpc.RpcError) as caught:
        server.predictions.Predict(request_of("none"), timeout=60)
    given = dict(caught.value.trailing_metadata())[request_log.HEADER]
    headers = {"X-Request-Id": "theirs", "Content-Type": "application/json"}
    path = "/v1/models/toy:predict"
    _, _, told = server.http("POST", path, '{"instances": [41.5]}', headers)
    assert told["x-request-id"] == "theirs"
    server.http("GET", "/v1/models/no")
    fields = [record.fields for record in caplog.records if record.name == request_log.log.name]
    assert [
        [f[key] for key in ("request_id", "call", "entrypoint", "model", "code")]
        for f in fields[:3]
    ] == [
        ["mine", "Predict", "GRPC", "toy", "OK"],
        [given, "Predict", "GRPC", "toy", "FAILED_PRECONDITION"],
        ["theirs", "predict", "REST", "toy", "OK"],
    ]
    assert (fields[3]["call"], fields[3]["model"], fields[3]["code"]) == ("GET", "no", "NOT_FOUND")
    assert all(0 < f["milliseconds"] < 60_000 for f in fields)
    assert "41.5" not in caplog.text


def test_json():
    try:
        raise ValueError("no\nline")
    except ValueError:
        record = logging.LogRecord(
            "a.b", logging.ERROR, "file", 1, "%s é", ("x\ny",), sys.exc_info()
        )
    record.fields = {"request_id": "1"}
    line = request_log.JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry.pop("time"))
    assert "ValueError: no\nline" in entry.pop("exception")
    assert entry == {"level": "ERROR", "logger": "a.b", "message": "x\ny é", "request_id": "1"}
