"""PredictionService and ModelService over gRPC, and beside them health and reflection."""

import functools
import logging
import time
from collections.abc import Callable, Container, Mapping

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from export import protocol
from export.server import errors, examples, metrics, model_info, predict, request_log
from export.server.call_limit import CallLimit
from export.server.configuration import Configuration
from export.server.options import Options

log = logging.getLogger(__name__)

SERVICES = (protocol.PREDICTION_SERVICE, protocol.MODEL_SERVICE)
_WITH_MODEL = ("Predict", "Classify", "Regress", "GetModelMetadata", "GetModelStatus")
_COUNTED = ("Predict", "Classify", "Regress")  # calls that the stock server has metrics of

_LARGEST_MESSAGE = 2**31 - 1  # bytes, received
_LASTING = 16  # calls at a time of each kind that lasts: reflection, which idles, and reloads
_NO_DEADLINE = 10 * 365 * 24 * 3600  # seconds; gRPC gives centuries where a client gave none
_MALFORMED = object()  # a request that is no message of its type


def create(configuration: Configuration, options: Options) -> grpc.Server:
    """A gRPC server, without a port yet.

    Args:
      configuration: what it serves, and what HandleReloadConfigRequest replaces.
      options: of the server.
    """
    limit, reloads = CallLimit(options.grpc_max_threads), CallLimit(_LASTING)
    server = grpc.server(
        limit.threads,
        options=[
            ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or two servers would share a port, each with half the calls
            *options.grpc_channel_arguments,
        ],
    )
    calls = {
        name: _guarded(
            name,
            call,
            reloads if name == "HandleReloadConfigRequest" else limit,
            configuration.manager.names,
        )
        for name, call in _calls(configuration, options).items()
    }
    for service in SERVICES:
        server.add_generic_rpc_handlers((_handlers(service, calls),))
    names = [service.full_name for service in SERVICES]
    if options.enable_grpc_healthcheck_service:
        names.append(health.SERVICE_NAME)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in ("", "ModelService", "PredictionService"):  # as the stock server calls them
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    server.add_generic_rpc_handlers((_reflection([*names, reflection.SERVICE_NAME]),))
    return server


def _calls(configuration: Configuration, options: Options) -> dict[str, Callable]:
    """What each call does: (request, deadline) -> response, or ServingError."""
    on_models = {
        "Predict": functools.partial(
            predict.predict, as_content=options.enable_serialization_as_tensor_content
        ),
        "Classify": examples.classify,
        "Regress": examples.regress,
        "MultiInference": examples.multi_inference,
        "GetModelMetadata": model_info.get_model_metadata,
        "GetModelStatus": model_info.get_model_status,
    }
    calls = {
        name: functools.partial(call, configuration.manager) for name, call in on_models.items()
    }
    calls["HandleReloadConfigRequest"] = configuration.handle_reload_config_request
    return calls


def _handlers(service, calls: Mapping[str, Callable]) -> grpc.GenericRpcHandler:
    handlers = {}
    for method in service.methods:
        if method.name in calls:
            request_type = message_factory.GetMessageClass(method.input_type)
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                calls[method.name],
                request_deserializer=_reader(request_type),
                response_serializer=_write,
            )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _reader(request_type) -> Callable:
    def read(data: bytes):
        # gRPC would log the stack of an error here: the call itself refuses what comes of it.
        try:
            return request_type.FromString(data)
        except DecodeError:
            return _MALFORMED

    return read


def _write(response) -> bytes:
    return response.SerializeToString()


def _reflection(names: Container[str]) -> grpc.GenericRpcHandler:
    limit, servicer = CallLimit(_LASTING), reflection.ReflectionServicer(names)

    def handle(requests, context: grpc.ServicerContext):
        try:
            with limit:
                yield from servicer.ServerReflectionInfo(requests, context)
        except errors.ServingError as error:
            context.abort(error.code, error.details)

    handle.experimental_thread_pool = limit.threads
    handler = grpc.stream_stream_rpc_method_handler(
        handle,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=_write,
    )
    return grpc.method_handlers_generic_handler(
        reflection.SERVICE_NAME, {"ServerReflectionInfo": handler}
    )


def _guarded(name: str, call: Callable, limit: CallLimit, known: Container[str]) -> Callable:
    def handle(request, context: grpc.ServicerContext):
        begun, request_id = time.monotonic(), _request_id(context)
        response, code, details = None, grpc.StatusCode.OK, ""
        counted = False
        try:
            with limit:
                if request is _MALFORMED:
                    raise errors.ServingError(grpc.StatusCode.INTERNAL, "Malformed request")
                counted = name in _COUNTED  # not what gRPC itself refuses on the stock server
                response = call(request, _deadline(context))
        except errors.ServingError as error:
            # The error itself, kept, would keep this frame, which keeps it, until a collection.
            code, details = error.code, error.details
        except Exception as error:
            log.exception("%s failed, request %s", name, request_id)
            failure = errors.of_exception(error)
            code, details = failure.code, failure.details
        model = ""
        if name in _WITH_MODEL and request is not _MALFORMED:
            model = metrics.model_label(request.model_spec.name, known)
        request_log.note(request_id, name, "GRPC", model, code.name, begun)
        if counted:
            metrics.REQUEST_COUNT.add(model, code.name)
            if response is not None:
                metrics.REQUEST_LATENCY.add(model, name, "GRPC", by=metrics.micros_since(begun))
        return context.abort(code, details) if response is None else response

    handle.experimental_thread_pool = limit.threads
    return handle


def _request_id(context: grpc.ServicerContext) -> str:
    """The client's own, or a new one; the client is told."""
    given = dict(context.invocation_metadata()).get(request_log.HEADER)
    request_id = request_log.id_of(given if isinstance(given, str) else None)
    context.set_trailing_metadata([(request_log.HEADER, request_id)])
    return request_id


def _deadline(context: grpc.ServicerContext) -> float | None:
    """When the client stops waiting, on the clock of `time.monotonic`."""
    left = context.time_remaining()
    if left is None or left > _NO_DEADLINE:
        return None
    return time.monotonic() + left
