"""Warm-up requests: what a server runs through a version before it lets clients in.

The first request with a set of inputs and outputs costs seconds, later ones do not. A server reads
at most 1000 `PredictionLog` records from one file of the version. It sends every input, with the
default where the request has none, so a request for each signature covers what clients do, but for
an `output_filter` of their own.
"""

import pathlib
from collections.abc import Iterable, Mapping

import tensorflow as tf

from export import protocol
from export.signatures import PREDICT


def request(name: str, signature_def, example: Mapping[str, list]) -> protocol.PredictionLog:
    """A recorded call of a signature.

    Args:
      name: of the signature.
      signature_def: as written into the SavedModel.
      example: name of input -> values.
    """
    log = protocol.PredictionLog()
    if signature_def.method_name == PREDICT:
        call = log.predict_log.request
        for key, values in example.items():
            dtype = signature_def.inputs[key].dtype
            call.inputs[key].CopyFrom(tf.make_tensor_proto(values, dtype))
    else:  # classify or regress
        kind = signature_def.method_name.rpartition("/")[2]
        call = getattr(log, f"{kind}_log").request
        for record in example["inputs"]:
            call.input.example_list.examples.add().ParseFromString(record)
    call.model_spec.signature_name = name
    return log


def write(directory, requests: Iterable[protocol.PredictionLog]) -> None:
    """Writes the warm-up file of the SavedModel in a directory."""
    file = pathlib.Path(directory) / protocol.WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for log in requests:
            writer.write(log.SerializeToString())
