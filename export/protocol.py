"""TF Serving's messages and services, as published in `tensorflow-serving-api`.

The only module that imports `tensorflow_serving`. Its generated modules import the messages of
`tensorflow.core`, and with them the `tensorflow` package: 5 s and 400 MB for what is 0.1 s of
message descriptors. A client needs the descriptors alone, so while they are imported an empty
stand-in takes the place of the `tensorflow` package. The descriptors live in protobuf's own pool,
so a program that imports TensorFlow later (or has done so before) gets the very same classes.
"""

import contextlib
import importlib.util
import sys
import types


@contextlib.contextmanager
def _descriptors_only():
    """Lets `tensorflow.x.y_pb2` be imported without running `tensorflow/__init__.py`."""
    spec = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if spec is None:  # imported already (or not installed: the import below says so)
        yield
        return
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        # Leave no trace: a later `import tensorflow` must run in full.
        for name in [n for n in sys.modules if n.split(".")[0] == "tensorflow"]:
            del sys.modules[name]


with _descriptors_only():
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.example.feature_pb2 import Feature
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow.core.protobuf.config_pb2 import ConfigProto, RunOptions
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
    from tensorflow_serving.apis.classification_pb2 import (
        ClassificationRequest,
        ClassificationResponse,
        ClassificationResult,
    )
    from tensorflow_serving.apis.get_model_metadata_pb2 import (
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        SignatureDefMap,
    )
    from tensorflow_serving.apis.get_model_status_pb2 import (
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelVersionStatus,
    )
    from tensorflow_serving.apis.inference_pb2 import (
        InferenceResult,
        InferenceTask,
        MultiInferenceRequest,
        MultiInferenceResponse,
    )
    from tensorflow_serving.apis.input_pb2 import Input
    from tensorflow_serving.apis.model_management_pb2 import (
        ReloadConfigRequest,
        ReloadConfigResponse,
    )
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    from tensorflow_serving.apis.regression_pb2 import (
        RegressionRequest,
        RegressionResponse,
        RegressionResult,
    )
    from tensorflow_serving.config.model_server_config_pb2 import (
        ModelConfig,
        ModelServerConfig,
        ModelType,
    )

# Service descriptors: names, methods, and the request and response type of each.
PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]

# Where a version directory keeps the requests that warm it up: TFRecords of PredictionLog.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000
DEFAULT_SIGNATURE = "serving_default"

__all__ = [
    "DEFAULT_SIGNATURE",
    "MAX_WARMUP_RECORDS",
    "MODEL_SERVICE",
    "PREDICTION_SERVICE",
    "WARMUP_FILE",
    "ClassificationRequest",
    "ClassificationResponse",
    "ClassificationResult",
    "ConfigProto",
    "DataType",
    "Example",
    "Feature",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "InferenceResult",
    "InferenceTask",
    "Input",
    "ModelConfig",
    "ModelServerConfig",
    "ModelServiceStub",
    "ModelSpec",
    "ModelType",
    "ModelVersionStatus",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "PredictionServiceStub",
    "RegressionRequest",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "RunOptions",
    "SignatureDef",
    "SignatureDefMap",
    "TensorInfo",
    "TensorProto",
]
