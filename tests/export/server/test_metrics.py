"""What is counted, and the page that Prometheus reads."""

import re
import threading
import time

import grpc
import pytest
import tensorflow as tf

from export import protocol
from export.server import metrics, servable

LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)')


def parsed(page):
    """{(name, labels): value} and {name: type}, of a page in Prometheus' text format."""
    values, types = {}, {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
        else:
            name, labels, value = LINE.fullmatch(line).groups()
            assert (name, labels) not in values
            values[name, labels] = float(value)
    return values, types


def test_counter():
    counter = metrics.Counter("/tensorflow/serving/x", ["model_name", "status"])
    counter.add("b", "OK")
    counter.add('a"\\\n', "OK", by=3)
    counter.add("b", "OK")
    assert counter.lines() == [
        "# TYPE :tensorflow:serving:x counter",
        ':tensorflow:serving:x{model_name="a\\"\\\\\\n",status="OK"} 3',
        ':tensorflow:serving:x{model_name="b",status="OK"} 2',
    ]
    assert counter.first() == 3


def test_histogram():
    histogram = metrics.Histogram("/x", ["m"], 10, 1.8, 3)
    for value in (1, 9.5, 10, 30, 1000):
        histogram.add("a", by=value)
    assert histogram.lines() == [
        "# TYPE :x histogram",
        ':x_bucket{m="a",le="10"} 2',
        ':x_bucket{m="a",le="18"} 3',
        ':x_bucket{m="a",le="32.4"} 4',
        ':x_bucket{m="a",le="+Inf"} 5',
        ':x_sum{m="a"} 1050.5',
        ':x_count{m="a"} 5',
    ]


def test_buckets_of_latencies():
    metrics.REQUEST_LATENCY.add("buckets", "Predict", "GRPC", by=1)
    values, types = parsed(metrics.page())
    name = ":tensorflow:serving:request_latency"
    assert types[name] == "histogram"
    labels = 'model_name="buckets",API="Predict",entrypoint="GRPC"'
    ends = [key[1] for key in values if key[0] == f"{name}_bucket" and key[1].startswith(labels)]
    # 10 * 1.8 ** n, in six digits, as the stock page has them.
    assert len(ends) == 34
    assert ends[:4] == [f'{labels},le="{end}"' for end in ("10", "18", "32.4", "58.32")]
    assert ends[-2:] == [f'{labels},le="{end}"' for end in ("1.47476e+09", "+Inf")]


def test_names_that_clients_make_up(monkeypatch):
    monkeypatch.setattr(metrics, "_MOST_STRANGERS", 2)
    monkeypatch.setattr(metrics, "_strangers", set())
    labels = [
        metrics.model_label(name, {"m", "n"}) for name in ("m", "a", "b" * 999, "c", "a", "n")
    ]
    assert labels == ["m", "a", "b" * 128, "", "a", "n"]


def test_threads_lose_nothing():
    counter = metrics.Counter("/x", [])
    threads = [
        threading.Thread(target=lambda: [counter.add() for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.lines()[1:] == [":x{} 8000"]


def test_what_calls_count(server, inside):
    def counts():
        values, _ = parsed(metrics.page())
        return {key: values.get(key, 0) for key in expected}

    prefix = ":tensorflow:serving:"
    expected = {
        (prefix + "request_count", 'model_name="toy",status="OK"'): 3,
        (prefix + "request_count", 'model_name="toy",status="INVALID_ARGUMENT"'): 1,
        (prefix + "request_count", 'model_name="no",status="NOT_FOUND"'): 2,
        (
            prefix + "request_latency_count",
            'model_name="toy",API="Predict",entrypoint="GRPC"',
        ): 1,
        (
            prefix + "request_latency_count",
            'model_name="toy",API="predict",entrypoint="REST"',
        ): 1,
        (prefix + "request_latency_count", 'model_name="toy",API="",entrypoint="REST"'): 1,
        (prefix + "request_count", 'model_name="",status="OK"'): 1,
        (prefix + "request_count", 'model_name="",status="FAILED_PRECONDITION"'): 1,
        (prefix + "request_latency_count", 'model_name="",API="",entrypoint="REST"'): 1,
        (prefix + "runtime_latency_count", 'model_name="toy",API="Predict",runtime="TF1"'): 2,
    }
    before = counts()
    server.predict(x=[1.0])
    with pytest.raises(grpc.RpcError):
        server.predict("two", a=[1.0, 2.0], b=[1.0, 2.0, 3.0])
    with pytest.raises(grpc.RpcError):
        server.predict(model="no", x=[1.0])
    assert server.http("POST", "/v1/models/toy:predict", '{"instances": [1]}')[0] == 200
    assert server.http("POST", "/v1/models/no:predict", '{"instances": [1]}')[0] == 404
    assert server.http("GET", "/v1/models/toy")[0] == 200
    origin = {"Origin": "http://a.org"}
    assert server.http("OPTIONS", "/v1/models/toy", headers=origin)[0] == 200
    assert server.http("OPTIONS", "/v1/models/toy")[0] == 400
    assert {key: value - before[key] for key, value in counts().items()} == expected


def test_calls_beyond_the_limit_are_not_counted(server_of, toy_dir):
    server = server_of(servable.load, toy_dir.parent, grpc_max_threads=1)
    request = protocol.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", "spin"
    request.inputs["n"].CopyFrom(tf.make_tensor_proto([2**31 - 1], tf.int32))
    running = server.predictions.Predict.future(request, timeout=2)
    refused = 0
    while not running.done():
        try:
            server.predict(model="busy", x=[1.0])
        except grpc.RpcError as error:
            refused += error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        time.sleep(0.01)
    assert refused
    values, _ = parsed(metrics.page())
    busy = {labels for _, labels in values if 'model_name="busy"' in labels}
    assert busy <= {'model_name="busy",status="NOT_FOUND"'}


def test_page(server, inside):
    status, body, headers = server.http("GET", "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain")
    _, types = parsed(body.decode())
    assert {name.removeprefix(":tensorflow:serving:"): kind for name, kind in types.items()} == {
        "batching_session:input_batch_size": "histogram",
        "batching_session:padding_size": "histogram",
        "batching_session:processed_batch_size": "histogram",
        "batching_session:queuing_latency": "histogram",
        "batching_session:wrapped_run_count": "counter",
        "model_warmup_latency": "histogram",
        "model_warmup_records_read": "counter",
        "request_count": "counter",
        "request_example_count_total": "counter",
        "request_example_counts": "histogram",
        "request_latency": "histogram",
        "runtime_latency": "histogram",
    }
    for more in ("?x=1", "?", "#x"):
        assert server.exchange([b"GET /metrics%b HTTP/1.1" % more.encode()]) == (
            400,
            f"Unexpected path: /metrics{more}. Should be /metrics".encode(),
        )
    assert server.http("GET", "/metrics/x")[0] == 404
