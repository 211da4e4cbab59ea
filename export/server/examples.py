"""Classify, Regress and MultiInference: calls on `tf.Example`s.

Sources: servables/tensorflow/{util,classifier,regressor,multi_inference}.cc.
"""

import time

import numpy as np

from export import protocol, tensors
from export.server import errors, metrics
from export.server.manager import ModelManager
from export.server.predict import fill_model_spec
from export.server.servable import Servable
from export.server.signature import Signature

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def classify(
    manager: ModelManager, request: protocol.ClassificationRequest, deadline: float | None
) -> protocol.ClassificationResponse:
    """Answers a Classify call.

    Raises:
      ServingError: no such model or signature, no examples, a signature of another kind, a
        failing run.
    """
    if not request.HasField("model_spec"):
        raise errors.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as servable:
        return run_classify(servable, request, deadline)


def regress(
    manager: ModelManager, request: protocol.RegressionRequest, deadline: float | None
) -> protocol.RegressionResponse:
    """Answers a Regress call. Raises as `classify` does."""
    if not request.HasField("model_spec"):
        raise errors.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as servable:
        return run_regress(servable, request, deadline)


def multi_inference(
    manager: ModelManager, request: protocol.MultiInferenceRequest, deadline: float | None
) -> protocol.MultiInferenceResponse:
    """Answers a MultiInference call: several signatures on the same examples, in one run."""
    spec = request.tasks[0].model_spec if request.tasks else protocol.ModelSpec()
    with manager.use(spec) as servable:
        return run_multi_inference(servable, request, deadline)


def run_classify(
    servable: Servable, request: protocol.ClassificationRequest, deadline: float | None = None
) -> protocol.ClassificationResponse:
    """Answers a Classify call with a given version."""
    spec, response = request.model_spec, protocol.ClassificationResponse()
    signature = _signature(servable, spec)
    names = _classify_names(signature)
    fill_model_spec(response.model_spec, servable, spec.name, spec.signature_name)
    _run(servable, request.input, [(CLASSIFY, names, response.result)], deadline, "Classify")
    return response


def run_regress(
    servable: Servable, request: protocol.RegressionRequest, deadline: float | None = None
) -> protocol.RegressionResponse:
    """Answers a Regress call with a given version."""
    spec, response = request.model_spec, protocol.RegressionResponse()
    names = _regress_names(_signature(servable, spec))
    fill_model_spec(response.model_spec, servable, spec.name, spec.signature_name)
    _run(servable, request.input, [(REGRESS, names, response.result)], deadline, "Regress")
    return response


def run_multi_inference(
    servable: Servable, request: protocol.MultiInferenceRequest, deadline: float | None = None
) -> protocol.MultiInferenceResponse:
    """Answers a MultiInference call with a given version."""
    response, tasks, seen = protocol.MultiInferenceResponse(), [], set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise errors.invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise errors.invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or protocol.DEFAULT_SIGNATURE
        if name in seen:
            raise errors.invalid_argument(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in servable.signatures:
            raise errors.invalid_argument(f"Requested signature not found in model graph: {name}")
        result = response.results.add()
        fill_model_spec(result.model_spec, servable, task.model_spec.name, name)
        signature = servable.signatures[name]
        if task.method_name == CLASSIFY:
            tasks.append((CLASSIFY, _classify_names(signature), result.classification_result))
        elif task.method_name == REGRESS:
            tasks.append((REGRESS, _regress_names(signature), result.regression_result))
        else:
            raise errors.unimplemented(f"Unsupported signature method_name: {task.method_name}")
    _run(servable, request.input, tasks, deadline)
    return response


def _run(
    servable: Servable,
    examples: protocol.Input,
    tasks,
    deadline: float | None,
    api: str | None = None,
) -> None:
    """Runs signatures on the same examples and writes their results.

    Args:
      servable: a version.
      examples: of the request.
      tasks: (method name, {role: tensor name}, message for the result) of each.
      deadline: on the clock of `time.monotonic`.
      api: the call that this answers, for the metrics; None for MultiInference, which has others.
    """
    records = _serialized(examples)
    feed = {names["inputs"]: records for _, names, _ in tasks}
    fetch = sorted({t for _, names, _ in tasks for role, t in names.items() if role != "inputs"})
    begun = time.monotonic()
    values = dict(zip(fetch, servable.run(feed, fetch, deadline), strict=True))
    if api is None:
        metrics.REQUEST_EXAMPLE_COUNTS.add(servable.name, by=len(records))
        metrics.REQUEST_EXAMPLE_COUNT_TOTAL.add(servable.name, by=len(records))
    else:
        metrics.RUNTIME_LATENCY.add(servable.name, api, "TF1", by=metrics.micros_since(begun))
    for method, names, result in tasks:
        outputs = {role: values[name] for role, name in names.items() if role != "inputs"}
        write = _write_classes if method == CLASSIFY else _write_regressions
        write(result, len(records), **outputs)


def _serialized(examples: protocol.Input) -> np.ndarray:
    """The examples of a request, each with the context they share: strings (N,)."""
    context, found = b"", []
    match examples.WhichOneof("kind"):
        case "example_list":
            found = examples.example_list.examples
        case "example_list_with_context":
            found = examples.example_list_with_context.examples
            context = examples.example_list_with_context.context.SerializeToString()
    if not found:
        raise errors.invalid_argument("Input is empty.")
    # Messages one after the other are the merged message.
    records = np.empty(len(found), object)  # (N,)
    records[:] = [context + example.SerializeToString() for example in found]
    return records


def _signature(servable: Servable, spec: protocol.ModelSpec) -> Signature:
    name = spec.signature_name or protocol.DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise errors.invalid_argument(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _classify_names(signature: Signature) -> dict[str, str]:
    """Tensor names by role: `inputs`, and `classes` or `scores` or both."""
    if len(signature.inputs) != 1:
        raise errors.invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise errors.invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if "inputs" not in signature.inputs:
        raise errors.invalid_argument(
            f"No classification inputs found in SignatureDef: {signature.definition()}"
        )
    names = {key: o.name for key, o in signature.outputs.items() if key in ("classes", "scores")}
    if not names:
        raise errors.invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature.definition()}'
        )
    return {"inputs": signature.inputs["inputs"].name, **names}


def _regress_names(signature: Signature) -> dict[str, str]:
    """Tensor names by role: `inputs`, `outputs`."""
    if len(signature.inputs) != 1:
        raise errors.invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise errors.invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise errors.invalid_argument(
            f"No regression inputs found in SignatureDef: {signature.definition()}"
        )
    if "outputs" not in signature.outputs:
        raise errors.invalid_argument(
            f"No regression outputs found in SignatureDef: {signature.definition()}"
        )
    return {
        "inputs": signature.inputs["inputs"].name,
        "outputs": signature.outputs["outputs"].name,
    }


def _write_classes(
    result: protocol.ClassificationResult, count: int, classes=None, scores=None
) -> None:
    _check_classes("classes", classes, count, np.object_, "DT_STRING")
    _check_classes("scores", scores, count, np.float32, "DT_FLOAT")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise errors.invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(count):
        found = result.classifications.add().classes
        for column in range((scores if classes is None else classes).shape[1]):
            entry = found.add()
            if classes is not None:
                entry.label = classes[row, column].decode("utf-8", "replace")
            if scores is not None:
                entry.score = scores[row, column]


def _check_classes(role: str, value: np.ndarray | None, count: int, dtype, dtype_name: str) -> None:
    if value is None:
        return
    if value.ndim != 2:
        raise errors.invalid_argument(
            "Expected Tensor shape: [batch_size num_classes] but got " + _shape_text(value)
        )
    if value.dtype != dtype:
        raise errors.invalid_argument(
            f"Expected {role} Tensor of {dtype_name}. Got: {_dtype_name(value)}"
        )
    if value.shape[0] != count:
        raise errors.invalid_argument(
            f"Expected {role} output batch size of {count}. Got: {value.shape[0]}"
        )


def _write_regressions(result: protocol.RegressionResult, count: int, outputs: np.ndarray) -> None:
    if not (outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)):
        raise errors.invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            + _shape_text(outputs)
        )
    if len(outputs) != count:
        raise errors.invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {len(outputs)}"
        )
    if outputs.dtype != np.float32:
        raise errors.invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {_dtype_name(outputs)}"
        )
    for value in outputs.reshape(-1):
        result.regressions.add().value = value


def _shape_text(value: np.ndarray) -> str:
    return f"[{','.join(map(str, value.shape))}]"


def _dtype_name(value: np.ndarray) -> str:
    return protocol.DataType.Name(tensors.data_type(value.dtype))
