"""REST: paths, verbs, status codes, and the JSON of requests and answers."""

import gzip
import json

import pytest

from export import protocol
from export.server import json_examples
from export.server.rest import RestApi


def respond(server, verb, path, body=""):
    status, found = server.respond(verb, path, body.encode() if isinstance(body, str) else body)
    return status, found.decode("utf-8", "surrogateescape")


def predict(server, body, path="/v1/models/toy:predict"):
    return respond(
        server, "POST", path, body if isinstance(body, str | bytes) else json.dumps(body)
    )


def error_of(text):
    return json.loads(text)["error"]


def test_rows(server):
    status, text = predict(server, {"instances": [1.0, 2, -3]})
    assert status == 200
    assert text == '{\n    "predictions": [2.5, 3.0, 0.5\n    ]\n}'
    _, text = predict(server, {"instances": [[1.0, 2.0], [3.0, 4.0]]})
    assert text == '{\n    "predictions": [[2.5, 3.0], [3.5, 4.0]\n    ]\n}'
    _, text = predict(
        server, {"signature_name": "two", "instances": [{"a": 1, "b": 2}, {"b": 0.5, "a": 3}]}
    )
    assert json.loads(text) == {
        "predictions": [{"sum": 3.0, "difference": -1.0}, {"sum": 3.5, "difference": 2.5}]
    }
    assert '        {\n            "difference": -1.0,\n            "sum": 3.0\n        }' in text


def test_columns(server):
    _, text = predict(server, {"inputs": [1.0, 2.0]})
    assert text == '{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'
    _, text = predict(server, {"inputs": {"x": 1}})
    assert json.loads(text) == {"outputs": 2.5}
    _, text = predict(server, {"signature_name": "two", "inputs": {"a": [1], "b": [2], "more": {}}})
    assert json.loads(text) == {"outputs": {"sum": [3.0], "difference": [-1.0]}}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/toy:predict", "/v1/models/toy/versions/1:predict", "/V1/MODELS/toy:predict",
        "/v1/models/%74oy:predict", "/v1/models/toy/versions/0001:predict",
    ],
)  # fmt: skip
def test_paths(server, path):
    assert predict(server, {"instances": [1]}, path)[0] == 200


def test_strings_and_bytes(server):
    body = {"signature_name": "strings", "inputs": ["é\n", {"b64": "/w=="}, {"b64": "aGVsbG8"}]}
    status, text = predict(server, body)
    assert status == 200
    # Strings are written as they are, even if they are not UTF-8.
    outputs = json.loads(text)["outputs"]
    assert outputs["s"] == ["é\n", b"\xff".decode("utf-8", "surrogateescape"), "hello"]
    assert outputs["s_bytes"] == [{"b64": "w6kK"}, {"b64": "/w=="}, {"b64": "aGVsbG8="}]
    body = {"signature_name": "strings", "instances": [{"b64": "aGVs\nbG8="}, "x"]}
    assert json.loads(predict(server, body)[1])["predictions"][0] == {
        "s": "hello",
        "s_bytes": {"b64": "aGVsbG8="},
    }


def test_floats(server):
    values = "[9e6, 999999, 0.1, 1e-5, 1234567.5, 16777217, 1e39, -1e39, NaN, Infinity, -Infinity]"
    _, text = predict(server, f'{{"instances": {values}}}')
    line = text.split("[")[1].split("\n")[0]
    assert line == (
        "4500002.0, 500001.5, 2.05, 2.00000501, 617285.75, 8.38861e+06, Infinity, -Infinity, "
        "NaN, Infinity, -Infinity"
    )
    body = '{"signature_name": "echo_float64", "inputs": [9e6, 3e-5, 0.1, 1234567.5, 1e300, 0]}'
    _, text = predict(server, body)
    assert "".join(text.split()) == '{"outputs":[9e+06,3e-05,0.1,1234567.5,1e+300,0.0]}'


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int8", [1, -1, 300], [1, -1, 44]),
        ("uint8", [1, 300], [1, 44]),
        ("int16", [-32768, 70000], [-32768, 4464]),
        ("int32", [2**31 - 1], [2**31 - 1]),
        ("int64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ("uint32", [2**32 - 1], [2**32 - 1]),
        ("uint64", [2**64 - 1], [2**64 - 1]),
        ("bool", [True, False], [True, False]),
        ("float64", [1, 2.5], [1.0, 2.5]),
    ],
)
def test_dtypes(server, dtype, values, expected):
    _, text = predict(server, {"signature_name": f"echo_{dtype}", "inputs": values})
    assert json.loads(text) == {"outputs": expected}


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("int32", 1.5, "JSON Value: 1.5 Type: Number is not of expected type: int32"),
        ("int32", 2**31, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("int64", 2**63, "JSON Value: 9223372036854775808 Type: Number is not of expected "
         "type: int64"),
        ("uint32", -1, "JSON Value: -1 Type: Number is not of expected type: uint32"),
        ("bool", 1, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("int32", True, "JSON Value: true Type: True is not of expected type: int32"),
        ("float64", False, "JSON Value: false Type: False is not of expected type: double"),
        ("float64", None, "JSON Value: null Type: Null is not of expected type: double"),
        ("float64", "x", 'JSON Value: "x" Type: String is not of expected type: double'),
        (
            "float64", {"b64": "aGVsbG8="},
            'JSON Value: {\n    "b64": "aGVsbG8="\n} Type: Object is not of expected type: double',
        ),
    ],
)  # fmt: skip
def test_values_of_another_type(server, dtype, value, message):
    status, text = predict(server, {"signature_name": f"echo_{dtype}", "inputs": [value]})
    assert (status, error_of(text)) == (400, message)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "uint16"])
def test_types_without_json(server, dtype):
    name = {"float16": "half"}.get(dtype, dtype)
    status, text = predict(server, {"signature_name": f"echo_{dtype}", "inputs": [1]})
    assert (status, error_of(text)) == (501, f"Conversion of JSON Value: 1 to type: {name}")
    status, text = predict(server, {"signature_name": f"echo_{dtype}", "instances": [1]})
    assert (status, error_of(text)) == (
        400,
        "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: "
        f"Conversion of JSON Value: 1 to type: {name}",
    )


ROW = "Failed to process element: "
ROWS = " of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        ("[1]", "JSON Value: [1] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        (
            '{"signature_name": 5}',
            'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            '{"signature_name": "x", "inputs": 1}',
            'Serving signature name: "x" not found in signature def',
        ),
        (
            '{"inputs": 1, "instances": [1]}',
            'JSON Value: {\n    "inputs": 1,\n    "instances": [1]\n} Not formatted correctly '
            "expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            '{"instances": 1}',
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        (
            '{"instances": []}',
            "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
        ),
        ('{"instances": [1, "a"]}', ROW + "1" + ROWS
            + 'JSON Value: "a" Type: String is not of expected type: float'),
        ('{"instances": [1, [2]]}', ROW + "1" + ROWS + "Expecting shape [] but got: [1]"),
        ('{"instances": [[1], [2, 3]]}', ROW + "1" + ROWS + "Expecting tensor size: 1 but got: 2"),
        ('{"instances": [[1, 2], [[1], [2]]]}', ROW + "1" + ROWS
            + "Expecting shape [2] but got: [2,1]"),
        ('{"instances": [[[1], 2]]}', ROW + "0" + ROWS
            + "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"instances": [[1, [2]]]}', ROW + "0" + ROWS
            + "Encountered list at unexpected level: 1 expected < 1"),
        ('{"instances": [[[1], [2, 3]]]}', ROW + "0" + ROWS
            + "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ('{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1 of input list"),
        ('{"instances": [1, {"x": 2}]}',
            "Expecting value/list but got object at item 1 of input list"),
        ('{"instances": [{"z": 1}]}', ROW + "0 key: z" + ROWS
            + "JSON object: does not have named input: z"),
        ('{"instances": [{}]}', ROW + "0 of 'instances' list. JSON object: {} keys must be equal "
            "to: x"),
        ('{"signature_name": "two", "instances": [1]}', "instances is a plain list, but expecting "
            "list of objects as multiple input tensors required as per tensorinfo_map"),
        ('{"signature_name": "two", "instances": [{"a": 1}]}', ROW + "0 of 'instances' list. "
            'JSON object: {\n    "a": 1\n} keys must be equal to: a,b'),
        ('{"signature_name": "two", "inputs": [1]}', "inputs is a plain value/list, but expecting "
            "an object as multiple input tensors required as per tensorinfo_map"),
        ('{"signature_name": "two", "inputs": {"a": 1}}',
            "Missing named input: b in 'inputs' object."),
        # Defaults are for gRPC only.
        ('{"signature_name": "optional", "inputs": {"prompts": ["a"]}}',
            "Missing named input: k in 'inputs' object."),
        ('{"signature_name": "strings", "inputs": [{"b64": "a"}]}', "Unable to base64 decode"),
        ('{"signature_name": "strings", "inputs": [{"b64": "a*bc"}]}', "Unable to base64 decode"),
        ('{"signature_name": "strings", "inputs": [{"b64": "aGVsbG8=="}]}',
            "Unable to base64 decode"),
        ('{"signature_name": "strings", "inputs": [{"b64": 1}]}',
            'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data'),
        # Answers that are no rows.
        ('{"signature_name": "spin", "instances": [1]}',
            "Tensor name: count has no shape information "),
        ('{"signature_name": "uneven", "instances": [1, 2]}',
            "Tensor name: b has inconsistent batch size: 4 expecting: 2"),
        ('{"instances": ' + "[" * 100_000 + "]" * 100_000 + "}",
            ROW + "0" + ROWS + "tensor parsing error: x"),
        ('{"inputs": ' + "[" * 255 + "1" + "]" * 255 + "}", "tensor parsing error: x"),
        ('{"instances": ' + "[" * 255 + "1" + "]" * 255 + "}", "tensor parsing error: x"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_bad_bodies(server, body, message):
    status, text = predict(server, body)
    assert error_of(text) == message
    assert status == 400


def test_nothing_in_nothing_out(server):
    _, text = predict(server, {"inputs": []})
    assert json.loads(text) == {"outputs": []}
    for dtype in ("float16", "bfloat16", "complex64", "uint16"):  # that have no form in JSON
        name = f"echo_{dtype}"
        _, text = predict(server, {"signature_name": name, "inputs": [[], []]})
        assert json.loads(text) == {"outputs": [[], []]}
        _, text = predict(server, {"signature_name": name, "instances": [[], []]})
        assert json.loads(text) == {"predictions": [[], []]}


def test_many_dimensions(server, inside):
    """More than an array has, but not too many for the stock server."""
    body = {"signature_name": "echo_float64", "inputs": 1.5}
    for _ in range(64):
        body["inputs"] = [body["inputs"]]
    status, text = predict(server, body)
    assert (status, json.loads(text)) == (200, {"outputs": body["inputs"]})
    body["inputs"] = [body["inputs"]]
    status, text = predict(server, body)
    message = "input x has 65 dimensions: no more than 64 can be served here"
    assert (status, error_of(text)) == (400, message)


@pytest.mark.parametrize(
    ("verb", "path", "status", "message"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("POST", "/v1/models/toy", 400, "Malformed request: POST /v1/models/toy"),
        ("GET", "/v1/models/toy:predict", 400, "Malformed request: GET /v1/models/toy:predict"),
        ("PUT", "/v1/models/toy", 400, "Malformed request: PUT /v1/models/toy"),
        ("POST", "/v1/models/toy:PREDICT", 400, "Malformed request: POST /v1/models/toy:PREDICT"),
        ("GET", "/v1/models/a/b", 400, "Malformed request: GET /v1/models/a/b"),
        (
            "POST", "/v1/models/toy/versions/x:predict",
            400, "Malformed request: POST /v1/models/toy/versions/x:predict",
        ),
        ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
        ("GET", "/v1/models/toy?x=1", 404, "Could not find any versions of model toy?x=1"),
        ("GET", "/v1/models/toy/versions/9", 404, "Could not find version 9 of model toy"),
        ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
        (
            "GET", "/v1/models/toy/labels/a/metadata",
            400, "Unrecognized servable version label: a",
        ),
        (
            "POST", "/v1/models/toy/versions/9:predict",
            404, "Servable not found for request: Specific(toy, 9)",
        ),
        ("POST", "/v1/models/n%C3%A9:predict", 404, "Servable not found for request: Latest(né)"),
    ],
)  # fmt: skip
def test_bad_paths(server, verb, path, status, message):
    found, text = respond(server, verb, path, '{"instances": [1]}')
    assert (found, error_of(text)) == (status, message)


def test_version_that_is_no_int64(server):
    assert respond(server, "GET", "/v1/models/toy/versions/9223372036854775808") == (400, "")
    assert respond(server, "GET", "/v1/models/toy/versions/" + "9" * 5000) == (400, "")
    assert respond(server, "GET", "/v1/models/toy/versions/" + "0" * 5000 + "1")[0] == 200


def test_status_and_metadata(server):
    status, text = respond(server, "GET", "/v1/models/toy")
    assert status == 200
    assert text == (
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}'
    )
    assert respond(server, "GET", "/v1/models/toy/labels/x") == (status, text)
    _, text = respond(server, "GET", "/v1/models/toy/versions/1/metadata")
    found = json.loads(text)
    assert found["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"] == {
        "name": "serving_default_x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }
    assert signatures["serving_default"]["defaults"] == {}
    assert signatures["optional"]["defaults"]["k"]["int_val"] == [40]


def call(server, method, body):
    status, text = respond(server, "POST", f"/v1/models/toy:{method}", json.dumps(body))
    return status, json.loads(text)


def test_classify(server):
    body = {"signature_name": "classify", "examples": [{"x": 2.0}, {"x": [-1.5], "bias": 1.0}]}
    assert call(server, "classify", body) == (
        200,
        {"results": [[["low", 2.0], ["high", -2.0]], [["low", -0.5], ["high", 0.5]]]},
    )
    _, text = respond(server, "POST", "/v1/models/toy:classify", json.dumps(body))
    assert text.startswith('{\n    "results": [[["low", 2.0], ["high", -2.0]], [["low", ')


def test_regress(server):
    body = {"signature_name": "regress", "context": {"bias": 10.0}, "examples": [{"x": 2.0}]}
    assert call(server, "regress", body) == (200, {"results": [12.0]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"signature_name": ["x"]}, "'signature_name' key must be a string value."),
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
        ({"context": [1]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1, 2.0]}]}, "element type in feature: x expecting type: int64"),
        ({"examples": [{"x": [2.0, 1]}]}, "element type in feature: x expecting type: float"),
        ({"examples": [{"x": ["a", 1]}]}, "element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": 2**63}]}, "x has uint64_t element. Only int64_t is supported."),
        ({"examples": [{"x": 1}], "signature_name": "q"}, "signature was found with the name: q"),
        # A JSON integer is an integer feature, and this signature wants a float.
        ({"examples": [{"x": 1}], "signature_name": "classify"}, "Data types don't match."),
    ],
)  # fmt: skip
def test_bad_examples(server, body, message):
    for method in ("classify", "regress"):
        status, found = call(server, method, body)
        assert status == 400
        if method == "classify" or body.get("signature_name") != "classify":
            assert message in found["error"]


def test_integer_and_bytes_features():
    found = protocol.Input()
    body = {"examples": [{"i": [1, True], "s": ["é", {"b64": "/w=="}], "f": [1e39], "none": []}]}
    json_examples.read_examples(body, found)
    feature = found.example_list.examples[0].features.feature
    assert list(feature["i"].int64_list.value) == [1, 1]
    assert list(feature["s"].bytes_list.value) == ["é".encode(), b"\xff"]
    assert list(feature["f"].float_list.value) == [float("inf")]
    assert feature["none"].WhichOneof("kind") is None


def test_timeout(inside):
    body = {"signature_name": "spin", "inputs": [2**31 - 1]}
    reply = RestApi(inside, timeout_ms=200).respond(
        "POST", "/v1/models/toy:predict", json.dumps(body).encode()
    )
    assert (reply.status, error_of(reply.body)) == (504, "Timed out waiting for notification")


# Over HTTP itself


def test_http(server):
    status, body, headers = server.http("POST", "/v1/models/toy:predict", '{"instances": [1]}')
    assert (status, json.loads(body)) == (200, {"predictions": [2.5]})
    assert headers["Content-Type"] == "application/json"
    assert "Access-Control-Allow-Origin" not in headers
    status, body, headers = server.http("GET", "/index.html")
    assert status == 404
    assert body.startswith(b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>")
    status, body, _ = server.http("GET", "/v1/models/toy?x=1")
    assert (status, error_of(body)) == (404, "Could not find any versions of model toy?x=1")
    status, body, _ = server.http("HEAD", "/v1/models/toy")
    assert (status, body) == (400, b"")


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        (b"http://localhost:8501/v1/models/toy", 200, b"AVAILABLE"),
        (b"//localhost/v1/models/toy", 200, b"AVAILABLE"),
        (b"//v1/models/toy", 404, b"<TITLE>404 Not Found</TITLE>"),
        (b"/v1/models/toy?", 404, b"Could not find any versions of model toy?"),
        (b"/v1/models/toy#", 404, b"Could not find any versions of model toy#"),
        (b"/v1/models/toy?a=?#b?", 404, b"Could not find any versions of model toy?a=?#b?"),
        (b"/v1/models/a~!$&'()*+,;=@b", 404, b"of model a~!$&'()*+,;=@b"),
        (b"*", 404, b"<TITLE>404 Not Found</TITLE>"),
        *(
            (b"/v1/models/a%bb" % wrong, 400, b"<TITLE>400 Bad Request</TITLE>")
            for wrong in (
                b"|", b"[", b"]", b'"', b"{", b"}", b"\\", b"^", b"`", b"<", b">", b"%", b"%zz",
                b"##", "é".encode(), b"?|",
            )
        ),
    ],
)  # fmt: skip
def test_targets(server, target, status, message):
    found, body = server.exchange([b"GET %b HTTP/1.1" % target])
    assert found == status
    assert message in body


@pytest.mark.parametrize(
    ("verb", "status"),
    [(b"TRACE", 501), (b"CONNECT", 501), (b"get", 501), (b"FOO", 501), (b"PATCH", 400)],
)
def test_verbs(server, verb, status):
    found, body = server.exchange([b"%b /v1/models/toy HTTP/1.1" % verb])
    assert found == status
    assert (b"<H1>Not Implemented</H1>" in body) == (status == 501)


@pytest.mark.parametrize(
    ("line", "body", "status"),
    [
        (b"Expect: foo", b'{"instances": [1]}', 417),
        (b"Expect: foo", b"", 400),  # an empty document
        (b"Expect: 100-Continue", b'{"instances": [1]}', 200),
    ],
)
def test_expectations(server, line, body, status):
    # "100 Continue" itself is read past.
    found, answer = server.exchange([b"POST /v1/models/toy:predict HTTP/1.1", line], body)
    assert found == status
    assert (b"<TITLE>417 Expectation Failed</TITLE>" in answer) == (status == 417)


def test_options(server):
    assert server.http("OPTIONS", "/v1/models/toy")[0] == 400
    assert server.http("OPTIONS", "/v1/models/toy", headers={"Origin": "http://x"})[0] == 200


def test_cors(inside):
    api = RestApi(inside, enable_cors=True)
    assert api.respond("GET", "/v1/models/toy", b"").headers == {
        "Content-Type": "application/json",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "POST, GET",
        "Access-Control-Allow-Headers": "Content-Type",
    }


def test_gzip(server):
    zipped = gzip.compress(b'{"instances": [1]}')
    header = {"Content-Encoding": "gzip"}
    status, body, _ = server.http("POST", "/v1/models/toy:predict", zipped, header)
    assert (status, json.loads(body)) == (200, {"predictions": [2.5]})
    for broken in (b"x" * 20, zipped[:-3], gzip.compress(bytes(101 * 2**20))):
        status, body, _ = server.http("POST", "/v1/models/toy:predict", broken, header)
        assert (status, error_of(body)) == (400, "JSON Parse error: The document is empty")


def test_large_and_deep_bodies(server, caplog):
    numbers = ", ".join(["0.5"] * 200_000)
    status, body, _ = server.http("POST", "/v1/models/toy:predict", f'{{"instances": [{numbers}]}}')
    assert status == 200
    assert json.loads(body) == {"predictions": [2.25] * 200_000}
    deep = '{"instances": [1], "more": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert server.http("POST", "/v1/models/toy:predict", deep)[0] == 200
    assert server.http("POST", "/v1/models/toy:predict", deep[:-5])[0] == 400
    assert not caplog.records
