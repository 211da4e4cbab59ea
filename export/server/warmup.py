"""Replay of the requests that a version brings along to be warmed up with.

The first run with a set of inputs and outputs costs seconds; here it is over before clients come.
"""

import logging
import os
import time

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.lib.io import _pywrap_record_io as records  # tf.data adds to messages

from export import protocol
from export.server import errors, examples, metrics, predict
from export.server.servable import Servable

log = logging.getLogger(__name__)


def run(servable: Servable, directory: str, iterations: int = 1) -> None:
    """Runs the warm-up requests in a version's directory, if there are any.

    Args:
      servable: the version, loaded.
      directory: where it was loaded from.
      iterations: how often to run each request.

    Raises:
      ServingError: the file is broken or too long, or a request fails: the version is not to be
        served.
    """
    file = os.path.join(directory, protocol.WARMUP_FILE)
    if not os.path.exists(file):
        return
    begun, count, unreadable = time.monotonic(), 0, None
    try:
        for record in records.RecordIterator(file, ""):
            request = protocol.PredictionLog.FromString(record)
            for _ in range(iterations):
                _run_one(servable, request)
            count += 1
            if count > protocol.MAX_WARMUP_RECORDS:
                raise errors.invalid_argument(
                    "Number of warmup records exceeds the maximum "
                    f"({protocol.MAX_WARMUP_RECORDS}) at {file}"
                )
    except DecodeError as error:
        raise errors.invalid_argument(f"Failed to parse warmup record from {file}") from error
    except tf.errors.DataLossError as error:
        unreadable = errors.of_op_error(error)
    except tf.errors.OpError as error:
        raise errors.of_op_error(error) from error
    # As on the stock server, of the failures that of reading is counted alone.
    status = str(unreadable or "OK")
    metrics.MODEL_WARMUP_LATENCY.add(directory, status, by=metrics.micros_since(begun))
    metrics.MODEL_WARMUP_RECORDS_READ.add(directory, status, by=count)
    if unreadable:
        raise errors.ServingError(
            unreadable.code,
            f"{unreadable.message}. Please verify your warmup data is in TFRecord format.",
        )
    log.info("Warmed up with %d requests from %s in %.1f s",
             count, file, time.monotonic() - begun)  # fmt: skip


def _run_one(servable: Servable, record: protocol.PredictionLog) -> None:
    match record.WhichOneof("log_type"):
        case "predict_log":
            predict.run(servable, record.predict_log.request)
        case "classify_log":
            examples.run_classify(servable, record.classify_log.request)
        case "regress_log":
            examples.run_regress(servable, record.regress_log.request)
        case "multi_inference_log":
            examples.run_multi_inference(servable, record.multi_inference_log.request)
        case None:
            pass
        case kind:
            number = protocol.PredictionLog.DESCRIPTOR.fields_by_name[kind].number
            raise errors.unimplemented(f"Unsupported log_type for warmup: {number}")
