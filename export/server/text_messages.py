"""Files in protobuf's text format, and the messages of those that `tensorflow-serving-api` lacks.

Sources of the messages: config/ssl_config.proto, config/monitoring_config.proto,
servables/tensorflow/session_bundle_config.proto.
"""

from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

_Message = TypeVar("_Message", bound=Message)
_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tensorflow.serving"


def _message(name: str, repeated=(), **fields: tuple) -> descriptor_pb2.DescriptorProto:
    """field -> (number, type); a type is a constant of `FieldDescriptorProto` or a message."""
    made = descriptor_pb2.DescriptorProto(name=name)
    for field, (number, kind) in fields.items():
        label = _Field.LABEL_REPEATED if field in repeated else _Field.LABEL_OPTIONAL
        added = made.field.add(name=field, number=number, label=label)
        if isinstance(kind, str):
            added.type, added.type_name = _Field.TYPE_MESSAGE, kind
        else:
            added.type = kind
    return made


def _classes() -> dict[str, type[Message]]:
    text, switch, number = _Field.TYPE_STRING, _Field.TYPE_BOOL, ".google.protobuf.Int64Value"
    file = descriptor_pb2.FileDescriptorProto(
        name="gpt_keras/export/server/text_messages.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    file.message_type.extend(
        [
            _message(
                "SSLConfig", server_key=(1, text), server_cert=(2, text), custom_ca=(3, text),
                client_verify=(4, switch),
            ),
            _message("PrometheusConfig", enable=(1, switch), path=(2, text)),
            _message("MonitoringConfig", prometheus_config=(1, f".{_PACKAGE}.PrometheusConfig")),
            _message(
                "BatchingParameters", repeated=["allowed_batch_sizes"],
                max_batch_size=(1, number), batch_timeout_micros=(2, number),
                max_enqueued_batches=(3, number), num_batch_threads=(4, number),
                thread_pool_name=(5, ".google.protobuf.StringValue"),
                allowed_batch_sizes=(6, _Field.TYPE_INT64), pad_variable_length_inputs=(7, switch),
                enable_large_batch_splitting=(8, ".google.protobuf.BoolValue"),
                max_execution_batch_size=(9, number),
            ),
        ]
    )  # fmt: skip
    # A pool of its own: a program may have the real messages, under the same names, in the default.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(found[name]) for name in found}


_CLASSES = _classes()
SSLConfig = _CLASSES["SSLConfig"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
BatchingParameters = _CLASSES["BatchingParameters"]


def read(file: str, message: type[_Message], secret: bool = False) -> _Message:
    """Reads a file that holds one message.

    Args:
      file: its path.
      message: its class.
      secret: say nothing of what is in it.

    Raises:
      ValueError: it does not; tells file, line and column.
      OSError: it cannot be read.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            return text_format.Parse(stream.read(), message())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        if secret and isinstance(error, text_format.ParseError):
            where = f"{file}:{error.GetLine()}:{error.GetColumn()}"
            raise ValueError(f"{where} : no {message.DESCRIPTOR.name} in text format") from None
        raise ValueError(f"{file}:{error}") from error
