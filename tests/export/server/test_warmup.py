"""Warm-up requests of a version."""

import pytest
import tensorflow as tf
from google.protobuf import text_format

from export import protocol
from export.server import errors, servable, warmup

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


def test_none(toy, tmp_path):
    warmup.run(toy, str(tmp_path))


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


def test_no_tf_record(toy, tmp_path):
    run(toy, tmp_path, [])
    (tmp_path / protocol.WARMUP_FILE).write_bytes(b"not a TFRecord, but long enough")
    with pytest.raises(errors.ServingError) as caught:
        warmup.run(toy, str(tmp_path))
    assert caught.value.code.name == "DATA_LOSS"
    assert caught.value.message.endswith("Please verify your warmup data is in TFRecord format.")
