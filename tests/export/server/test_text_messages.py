"""Files in protobuf's text format."""

import pytest
from google.protobuf import descriptor_pool

from export import protocol
from export.server import text_messages


def written(tmp_path, text):
    file = tmp_path / "message.pbtxt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_batching_parameters(tmp_path):
    text = """
        # as the stock server documents it
        max_batch_size { value: 8 }
        batch_timeout_micros { value: 0 }
        max_enqueued_batches { value: 100 }
        num_batch_threads { value: 4 }
        thread_pool_name { value: "pool" }
        enable_large_batch_splitting { value: true }
        max_execution_batch_size { value: 4 }
        allowed_batch_sizes: 2
        allowed_batch_sizes: [4, 8]
        pad_variable_length_inputs: true
    """
    read = text_messages.read(written(tmp_path, text), text_messages.BatchingParameters)
    assert read.max_batch_size.value == 8
    assert read.HasField("batch_timeout_micros")
    assert not read.batch_timeout_micros.value
    assert read.max_enqueued_batches.value == 100
    assert read.num_batch_threads.value == 4
    assert read.thread_pool_name.value == "pool"
    assert read.enable_large_batch_splitting.value
    assert read.max_execution_batch_size.value == 4
    assert list(read.allowed_batch_sizes) == [2, 4, 8]
    assert read.pad_variable_length_inputs
    # As another program writes and reads it.
    assert read.SerializeToString() == bytes.fromhex(
        "0a020808" "1200" "1a020864" "22020804" "2a060a04706f6f6c" "3203020408" "3801" "42020801"
        "4a020804"
    )  # fmt: skip


def test_ssl_config(tmp_path):
    text = r'server_key: "a\n" "b" server_cert: "c" custom_ca: "d" client_verify: true'
    read = text_messages.read(written(tmp_path, text), text_messages.SSLConfig)
    assert (read.server_key, read.server_cert, read.custom_ca) == ("a\nb", "c", "d")
    assert read.client_verify


def test_monitoring_config(tmp_path):
    text = 'prometheus_config: { enable: true, path: "/monitoring" }'
    read = text_messages.read(written(tmp_path, text), text_messages.MonitoringConfig)
    assert read.prometheus_config.enable
    assert read.prometheus_config.path == "/monitoring"


@pytest.mark.parametrize(
    ("message", "text", "told"),
    [
        ("BatchingParameters", "\nmax_batch_size: 8", "message.pbtxt:2:17 : .*max_batch_size: 8"),
        ("BatchingParameters", "max_batch_sise { value: 8 }", 'message.pbtxt:1:1 : .*"max_batch_s'),
        ("BatchingParameters", "max_batch_size { value: x }", "message.pbtxt:1:25"),
        ("SSLConfig", 'server_key: "a', "message.pbtxt:1:13"),
        ("MonitoringConfig", "}", "message.pbtxt:1:1"),
        ("SSLConfig", b"\xff", "message.pbtxt:'utf-8' codec can't decode byte 0xff in position 0"),
    ],
)
def test_text_that_does_not_parse(tmp_path, message, text, told):
    with pytest.raises(ValueError, match=told):
        text_messages.read(written(tmp_path, text), getattr(text_messages, message))


def test_published_messages_too(tmp_path):
    file = written(tmp_path, "intra_op_parallelism_threads: 3")
    assert text_messages.read(file, protocol.ConfigProto).intra_op_parallelism_threads == 3
    with pytest.raises(FileNotFoundError):
        text_messages.read(str(tmp_path / "none"), protocol.ConfigProto)


def test_the_pool_that_all_share_is_left_alone():
    name = text_messages.BatchingParameters.DESCRIPTOR.full_name
    assert name == "tensorflow.serving.BatchingParameters"
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(name)


def test_a_key_is_not_shown(tmp_path):
    file = tmp_path / "ssl.config"
    file.write_text('server_cert: "x"\nserver_key: "-----BEGIN SECRET\n')
    with pytest.raises(
        ValueError, match=r"ssl.config:2:13 : no SSLConfig in text format"
    ) as caught:
        text_messages.read(str(file), text_messages.SSLConfig, secret=True)
    assert "SECRET" not in str(caught.value)
