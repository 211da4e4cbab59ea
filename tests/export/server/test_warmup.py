"""Warm-up requests of a version."""

import re

import pytest
import tensorflow as tf
from google.protobuf import text_format

from export import protocol
from export.server import errors, metrics, servable, warmup

EXAMPLE = 'features { feature { key: "x" value { float_list { value: 1 } } } }'
INPUT = f"input {{ example_list {{ examples {{ {EXAMPLE} }} }} }}"
PREDICT = """predict_log { request {
  inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1 } }
} }"""


@pytest.fixture(scope="module")
def toy(toy_dir):
    loaded = servable.load("toy", 1, str(toy_dir))
    yield loaded
    loaded.close()


def run(toy, tmp_path, records, **options):
    file = tmp_path / protocol.WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            if isinstance(record, str):
                message = text_format.Parse(record, protocol.PredictionLog())
                record = message.SerializeToString()
            writer.write(record)
    warmup.run(toy, str(tmp_path), **options)


def counted(directory):
    """{status: records read}, of the warm-ups of one directory."""
    label = re.compile(rf'.*_read{{model_path="{directory}",status="(.*)"}} (.*)')
    found = map(label.fullmatch, metrics.MODEL_WARMUP_RECORDS_READ.lines())
    latencies = "".join(metrics.MODEL_WARMUP_LATENCY.lines())
    told = {match[1]: int(match[2]) for match in found if match}
    for status in told:
        assert f'_count{{model_path="{directory}",status="{status}"}} 1' in latencies
    return told


def test_all_kinds(toy, tmp_path, caplog):
    spec = 'model_spec { name: "another" signature_name: "%s" }'
    run(toy, tmp_path, [
        PREDICT,
        f"classify_log {{ request {{ {spec % 'classify'} {INPUT} }} }}",
        f"regress_log {{ request {{ {spec % 'regress'} {INPUT} }} }}",
        f"multi_inference_log {{ request {{ tasks {{ {spec % 'regress'} "
        f'method_name: "tensorflow/serving/regress" }} {INPUT} }} }}',
        "",
    ], iterations=2)  # fmt: skip
    assert counted(tmp_path) == {"OK": 5}


def test_none(toy, tmp_path):
    warmup.run(toy, str(tmp_path))
    assert counted(tmp_path) == {}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            ['predict_log { request { model_spec { signature_name: "x" } } }'],
            'FAILED_PRECONDITION: Serving signature key "x" not found.',
        ),
        (
            ["predict_streamed_log {}"],
            "UNIMPLEMENTED: Unsupported log_type for warmup: 7",
        ),
        (["session_run_log {}"], "UNIMPLEMENTED: Unsupported log_type for warmup: 5"),
        ([b"\xff\xff"], "INVALID_ARGUMENT: Failed to parse warmup record"),
        ([""] * 1001, "INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000) at "),
    ],
)
def test_bad_records(toy, tmp_path, records, message):
    with pytest.raises(errors.ServingError) as caught:
        run(toy, tmp_path, records)
    assert str(caught.value).startswith(message)
    assert counted(tmp_path) == {}  # as on the stock server


@pytest.mark.parametrize(
    ("spoil", "read", "message"),
    [
        (lambda data: b"not a TFRecord, but long enough", 0,
         "DATA_LOSS: corrupted record at 0 (Is this even a TFRecord file?)"),
        (lambda data: data[:-1], 1,
         "DATA_LOSS: truncated record at {}' failed with Read less bytes than requested"),
    ],
)  # fmt: skip
def test_no_tf_record(toy, tmp_path, spoil, read, message):
    run(toy, tmp_path, [PREDICT, PREDICT])
    file = tmp_path / protocol.WARMUP_FILE
    data = file.read_bytes()
    file.write_bytes(spoil(data))
    with pytest.raises(errors.ServingError) as caught:
        warmup.run(toy, str(tmp_path))
    message = message.format(len(data) // 2)
    remedy = "Please verify your warmup data is in TFRecord format."
    assert str(caught.value) == f"{message}. {remedy}"
    assert counted(tmp_path) == {"OK": 2, message: read}
