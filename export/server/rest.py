"""The REST API: paths, verbs and status codes.

Sources: model_servers/http_rest_api_handler.cc, http_rest_api_util.cc, http_server.cc.
"""

import dataclasses
import http
import logging
import re
import time
import urllib.parse
from collections.abc import Mapping

import grpc

from export import protocol
from export.server import (
    errors,
    examples,
    json_examples,
    json_inputs,
    json_outputs,
    metrics,
    model_info,
    predict,
    request_log,
)
from export.server.json_writer import PrettyWriter
from export.server.manager import ModelManager

log = logging.getLogger(__name__)

_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?"
_CALL = re.compile(_MODEL + r":(classify|regress|predict)", re.IGNORECASE)
_INFO = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE,
)
_PATHS = {"POST": _CALL, "GET": _INFO}
_API = re.compile(r"/v1/.*", re.IGNORECASE)  # as in RE2, "." is no newline
_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}  # and 500 for the rest
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def error_page(status: int) -> Reply:
    """What libevent itself answers, without asking the API (http.c, `evhttp_send_error`)."""
    phrase = http.HTTPStatus(status).phrase
    text = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n"
        "</BODY></HTML>\n"
    )
    return Reply(status, text.encode(), {"Content-Type": "text/html", "Connection": "close"})


class RestApi:
    """Answers HTTP requests. Thread-safe.

    Args:
      manager: the models.
      timeout_ms: limit for one request's run; 0 or less for none.
      enable_cors: send the headers that let web pages of other hosts call.
      metrics_path: of the page for Prometheus; "" for none.
    """

    def __init__(
        self,
        manager: ModelManager,
        timeout_ms: int = 30000,
        enable_cors: bool = False,
        metrics_path: str = "",
    ):
        self._manager, self._timeout_ms, self._enable_cors = manager, timeout_ms, enable_cors
        self._metrics_path = metrics_path

    def respond(
        self, verb: str, path: str, body: bytes, origin: str = "", request_id: str = ""
    ) -> Reply:
        """Answers one request.

        Args:
          verb: such as "POST".
          path: with its query and fragment, as sent.
          body: uncompressed.
          origin: header of that name.
          request_id: for the log.
        """
        if self._metrics_path and re.split("[?#]", path, maxsplit=1)[0] == self._metrics_path:
            return self._metrics(path)
        if not _API.fullmatch(path):
            return error_page(404)
        cors = _CORS if self._enable_cors else {}
        begun = time.monotonic()
        if verb == "OPTIONS":
            allowed = re.search("https?://", origin)
            metrics.REQUEST_COUNT.add("", "OK" if allowed else "FAILED_PRECONDITION")
            if allowed:
                metrics.REQUEST_LATENCY.add("", "", "REST", by=metrics.micros_since(begun))
            return Reply(200 if allowed else 400, b"", cors)
        match = _PATHS[verb].fullmatch(path) if verb in _PATHS else None
        status, code = 200, "OK"
        try:
            if match is None:
                raise errors.invalid_argument(f"Malformed request: {verb} {path}")
            text = self._call(match, body) if verb == "POST" else self._info(match)
        except _BadVersionError:
            text, status, code = "", 400, "INVALID_ARGUMENT"
        except errors.ServingError as error:
            text, status, code = _error_json(error), _STATUS.get(error.code, 500), error.code.name
        except Exception as error:
            log.exception("%s %s failed, request %s", verb, path, request_id)
            text, status, code = _error_json(errors.of_exception(error)), 500, "INTERNAL"
        name = urllib.parse.unquote(match[1] or "") if match else ""
        model = metrics.model_label(name, self._manager.names)
        method = match[4] if match and verb == "POST" else ""
        request_log.note(request_id, method or verb, "REST", model, code, begun)
        metrics.REQUEST_COUNT.add(model, code)
        if code == "OK":
            metrics.REQUEST_LATENCY.add(model, method, "REST", by=metrics.micros_since(begun))
        headers = {"Content-Type": "application/json"} | cors
        return Reply(status, text.encode("utf-8", "surrogateescape"), headers)

    def _metrics(self, path: str) -> Reply:
        status, text = 200, metrics.page()
        if path != self._metrics_path:
            status, text = 400, f"Unexpected path: {path}. Should be {self._metrics_path}"
        return Reply(status, text.encode(), {"Content-Type": "text/plain"})

    def _call(self, match: re.Match, body: bytes) -> str:
        spec, deadline = _model_spec(match), self._deadline()
        match match[4]:
            case "predict":
                return self._predict(spec, body, deadline)
            case "classify":
                return self._classify(spec, body, deadline)
            case "regress":
                return self._regress(spec, body, deadline)
        raise errors.invalid_argument(f"Malformed request: POST {match[0]}")

    def _info(self, match: re.Match) -> str:
        spec = _model_spec(match)
        if not spec.name:
            raise errors.invalid_argument("Missing model name in request.")
        return self._metadata(spec) if match[4] == "metadata" else self._status(spec)

    def _deadline(self) -> float | None:
        return time.monotonic() + self._timeout_ms / 1000 if self._timeout_ms > 0 else None

    def _predict(self, spec: protocol.ModelSpec, body: bytes, deadline: float | None) -> str:
        found, asked = json_inputs.document(body)
        name = asked or protocol.DEFAULT_SIGNATURE
        with self._manager.use(spec) as servable:
            if name not in servable.signatures:
                raise errors.invalid_argument(
                    f'Serving signature name: "{name}" not found in signature def'
                )
            infos = servable.signatures[name].inputs
            if not infos:
                raise errors.invalid_argument(
                    f"Failed to get input map for signature: {asked or 'DEFAULT'}"
                )
            form, inputs = json_inputs.read_inputs(found, infos)
            outputs = predict.run_signature(servable, name, inputs, deadline=deadline)
        return json_outputs.write_outputs(outputs, form)

    def _classify(self, spec: protocol.ModelSpec, body: bytes, deadline: float | None) -> str:
        found, spec.signature_name = json_inputs.document(body)
        request = protocol.ClassificationRequest(model_spec=spec)
        json_examples.read_examples(found, request.input)
        response = examples.classify(self._manager, request, deadline)
        return json_examples.write_classifications(response.result)

    def _regress(self, spec: protocol.ModelSpec, body: bytes, deadline: float | None) -> str:
        found, spec.signature_name = json_inputs.document(body)
        request = protocol.RegressionRequest(model_spec=spec)
        json_examples.read_examples(found, request.input)
        response = examples.regress(self._manager, request, deadline)
        return json_examples.write_regressions(response.result)

    def _status(self, spec: protocol.ModelSpec) -> str:
        request = protocol.GetModelStatusRequest(model_spec=spec)
        return model_info.status_json(model_info.get_model_status(self._manager, request))

    def _metadata(self, spec: protocol.ModelSpec) -> str:
        request = protocol.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[model_info.SIGNATURE_DEF]
        )
        return model_info.metadata_json(model_info.get_model_metadata(self._manager, request))


class _BadVersionError(Exception):
    """The stock server answers a version that is no int64 with an empty body."""


def _model_spec(match: re.Match) -> protocol.ModelSpec:
    name, version, label = match[1], match[2], match[3]
    spec = protocol.ModelSpec(name=urllib.parse.unquote(name or ""))
    if version is not None:
        number = int(version.lstrip("0")[:20] or "0")
        if number >= 2**63:
            raise _BadVersionError
        spec.version.value = number
    elif label is not None:
        spec.version_label = urllib.parse.unquote(label)
    return spec


def _error_json(error: errors.ServingError) -> str:
    writer = PrettyWriter()
    writer.start_object()
    writer.string("error")
    writer.string(error.message)
    writer.end_object()
    return writer.text()
