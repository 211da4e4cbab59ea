"""Answers requests with a SavedModel, in whatever TensorFlow this Python has; nothing of ours.

    python tests/export/plain_tensorflow.py SAVED_MODEL_DIR < requests.json > answers.json

Requests: [[signature, {input: values}], ...]. Answers: {"tensorflow": version, "answers":
[{output: values}, ...]}.
"""

import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401, registers its ops


def main(directory):
    requests = json.load(sys.stdin)
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], directory)
    answers = [answer(session, meta_graph.signature_def[name], inputs) for name, inputs in requests]
    json.dump({"tensorflow": tf.__version__, "answers": answers}, sys.stdout)


def answer(session, signature, inputs):
    given = {name: tf.make_ndarray(value) for name, value in signature.defaults.items()} | inputs
    feed = {signature.inputs[name].name: value for name, value in given.items()}
    outputs = session.run({name: info.name for name, info in signature.outputs.items()}, feed)
    return {name: plain(value.tolist()) for name, value in outputs.items()}


def plain(value):
    """Lists of bytes as lists of text that JSON can hold."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main(sys.argv[1])
