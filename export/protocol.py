"""TensorFlow Serving's messages: the only module that imports `tensorflow_serving.apis`."""

from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

__all__ = ["ClassificationRequest", "PredictRequest", "PredictionLog"]
