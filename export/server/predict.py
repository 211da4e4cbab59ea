"""PredictionService.Predict (servables/tensorflow/predict_util.cc)."""

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from export import protocol, tensors
from export.server import errors, feeds, metrics
from export.server.manager import ModelManager
from export.server.servable import Servable
from export.server.signature import Signature, TensorInfo


def predict(
    manager: ModelManager,
    request: protocol.PredictRequest,
    deadline: float | None,
    as_content: bool = False,
) -> protocol.PredictResponse:
    """Answers a Predict call, with tensors as `tensors.to_proto` writes them.

    Raises:
      ServingError: no model, signature or input of that name, a bad tensor, a failing run.
    """
    if not request.HasField("model_spec"):
        raise errors.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as servable:
        return run(servable, request, deadline, as_content)


def run(
    servable: Servable,
    request: protocol.PredictRequest,
    deadline: float | None = None,
    as_content: bool = False,
) -> protocol.PredictResponse:
    """Answers a Predict call with a given version, whatever model the request names."""
    name = request.model_spec.signature_name or protocol.DEFAULT_SIGNATURE
    outputs = run_signature(servable, name, request.inputs, request.output_filter, deadline)
    response = protocol.PredictResponse()
    fill_model_spec(response.model_spec, servable, request.model_spec.name, name)
    for alias, value in outputs.items():
        try:
            response.outputs[alias].CopyFrom(tensors.to_proto(value, as_content))
        except ValueError as error:
            raise errors.unimplemented(f"output {alias}: {error}") from error
    return response


def run_signature(
    servable: Servable,
    name: str,
    inputs: Mapping[str, np.ndarray | protocol.TensorProto],
    output_filter: Sequence[str] = (),
    deadline: float | None = None,
) -> dict[str, np.ndarray]:
    """Runs one signature.

    Args:
      servable: a version.
      name: of the signature.
      inputs: name -> tensor; those left out have their defaults.
      output_filter: names of outputs to compute; none for all.
      deadline: on the clock of `time.monotonic`.

    Returns:
      name of output -> value.

    Raises:
      ServingError: see `predict`.
    """
    if name not in servable.signatures:
        raise errors.failed_precondition(f'Serving signature key "{name}" not found.')
    signature = servable.signatures[name]
    _check_count(signature, inputs)
    feed = _feed(signature, inputs)
    aliases = _outputs(signature, output_filter)
    fetch = [signature.outputs[alias].name for alias in aliases]
    begun = time.monotonic()
    values = servable.run(feed, fetch, deadline)
    metrics.RUNTIME_LATENCY.add(servable.name, "Predict", "TF1", by=metrics.micros_since(begun))
    return dict(zip(aliases, values, strict=True))


def fill_model_spec(
    spec: protocol.ModelSpec, servable: Servable, name: str, signature_name: str
) -> None:
    """Says who answered; a label of the request is not repeated."""
    spec.name, spec.signature_name = name, signature_name or protocol.DEFAULT_SIGNATURE
    spec.version.value = servable.version


def _check_count(signature: Signature, inputs: Mapping) -> None:
    sent, known = set(inputs), set(signature.inputs)
    few = len(inputs) < len(signature.inputs) and not signature.defaults
    if few or len(inputs) > len(signature.inputs):
        raise errors.invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} "
            f"len({{{_names(inputs)}}}) != len({{{_names(signature.inputs)}}}). "
            f"Sent extra: {{{_names(sent - known)}}}. "
            f"Missing but required: {{{_names(known - sent)}}}."
        )


def _feed(signature: Signature, inputs: Mapping) -> dict[str, np.ndarray]:
    """Tensor name -> value, for all inputs: sessions build one executor for each set of feeds."""
    feed, used = {}, []
    for alias, info in sorted(signature.inputs.items()):
        if alias in inputs:
            value = inputs[alias]
            if not isinstance(value, np.ndarray):
                _check_opaque(signature, info, value)
                value = feeds.parse(alias, value)
            feed[info.name] = value
            used.append(alias)
        elif alias in signature.defaults:
            feed[info.name] = signature.defaults[alias]
        else:
            raise errors.invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and "
                "no default value provided. Inputs expected to be in the request "
                f"{{{_names(inputs)}}}, or default input alias set: {_names(signature.defaults)}"
            )
    if len(used) != len(inputs):
        raise errors.invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_names(used)}, "
            f"request input: {_names(inputs)}"
        )
    return feed


def _check_opaque(signature: Signature, info: TensorInfo, proto: protocol.TensorProto) -> None:
    """Refuses in the words of `DirectSession::Run` what no array can carry to it."""
    types = protocol.DataType
    if proto.dtype == types.DT_RESOURCE:
        handles = proto.resource_handle_val
        handle = handles[0] if handles else protocol.TensorProto().resource_handle_val.add()
        raise errors.invalid_argument(
            f"Invalid resource type hash code: {handle.hash_code}(name: {handle.name} type: "
            f"{handle.maybe_type_name}). Perhaps a resource tensor was being provided as a feed? "
            "That is not currently allowed."
        )
    if proto.dtype == types.DT_VARIANT != info.dtype:
        place = sorted(info.name for info in signature.inputs.values()).index(info.name)
        expected = types.Name(info.dtype).removeprefix("DT_").lower()
        raise errors.invalid_argument(
            f"Expects arg[{place}] to be {expected} but variant is provided"
        )


def _outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    seen = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise errors.invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{_names(signature.outputs)}}}."
            )
        if alias in seen:
            raise errors.invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(output_filter) or sorted(signature.outputs)


def _names(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
