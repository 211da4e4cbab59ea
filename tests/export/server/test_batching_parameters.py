"""Parameters of batching, good and bad."""

import dataclasses

import pytest
from google.protobuf import text_format

from export.server import batching_parameters, cores, errors, text_messages
from export.server.batching_parameters import BatchingParameters


def parameters(text):
    return BatchingParameters.of(text_format.Parse(text, text_messages.BatchingParameters()))


def test_defaults():
    assert parameters("") == BatchingParameters()
    assert dataclasses.astuple(BatchingParameters()) == (
        1000, 0, 10, cores.count(), "batch_threads", False, 1000, (), False,
    )  # fmt: skip


def test_given():
    assert parameters(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 1 } "
        "max_enqueued_batches { value: 2 } num_batch_threads { value: 3 } "
        'thread_pool_name { value: "" } enable_large_batch_splitting { value: true } '
        "max_execution_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 8 "
        "pad_variable_length_inputs: true"
    ) == BatchingParameters(8, 1, 2, 3, "", True, 4, (4, 8), True)


def test_rows_of_a_batch():
    splits = "enable_large_batch_splitting { value: true } "
    large, execution = "max_batch_size { value: 9 } ", "max_execution_batch_size { value: 4 } "
    assert parameters(large + execution).largest_batch == 9
    assert parameters(splits + large).largest_batch == 9
    assert parameters(splits + execution).largest_batch == 4
    assert parameters(splits + large + execution).largest_batch == 4


def test_padded():
    allowed = parameters("max_batch_size { value: 8 } allowed_batch_sizes: [2, 8]")
    assert [allowed.padded(size) for size in (1, 2, 3, 8, 9)] == [2, 2, 8, 8, 9]
    assert BatchingParameters().padded(3) == 3


def test_a_queue_of_no_batches_is_one_of_one():
    assert parameters("max_enqueued_batches { value: 0 }").max_enqueued_batches == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "allowed_batch_sizes: [2, 4]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 1000",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8]",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [8, 8]",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("max_batch_size { value: -1 }", "max_batch_size must be positive; was -1"),
        (
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros must be non-negative; was -1",
        ),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be positive; was -1"),
        (
            "max_enqueued_batches { value: 0 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 4 }",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            "enable_large_batch_splitting { value: true }",
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            "enable_large_batch_splitting { value: true } max_batch_size { value: 4 } "
            "max_execution_batch_size { value: 8 }",
            "When enable_large_batch_splitting is true, max_batch_size must be greater than or "
            "equal to max_execution_batch_size.",
        ),
    ],
)
def test_bad_parameters(text, message):
    bad = parameters(text)
    bad.check_threads()
    with pytest.raises(errors.ServingError) as caught:
        bad.check()
    assert str(caught.value) == f"INVALID_ARGUMENT: {message}"


def test_no_threads():
    bad = parameters("num_batch_threads { value: 0 }")
    bad.check()
    with pytest.raises(errors.ServingError) as caught:
        bad.check_threads()
    assert str(caught.value) == "INVALID_ARGUMENT: num_batch_threads must be positive; was 0"


def test_of_a_version(tmp_path):
    assert batching_parameters.of_version(str(tmp_path)) is None
    file = tmp_path / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 8 }")
    assert batching_parameters.of_version(str(tmp_path)) == BatchingParameters(max_batch_size=8)
    for text, message in (
        ("max_batch_size: 8", f"{file}:1:17 : "),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
    ):
        file.write_text(text)
        with pytest.raises(errors.ServingError) as caught:
            batching_parameters.of_version(str(tmp_path))
        assert str(caught.value).startswith(f"INVALID_ARGUMENT: {message}")
