"""Answers requests with a SavedModel, in whatever TensorFlow this Python has; nothing of ours.

    python tests/export/plain_tensorflow.py SAVED_MODEL_DIR < rounds.json > answers.json

Rounds, one after the other, of requests that run at once: [[[signature, {input: values},
milliseconds to its deadline; 0 for none], ...], ...]. Answers: {"tensorflow": version, "answers":
[[{output: values} or the name of the error, ...], ...]}.
"""

import concurrent.futures
import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401, registers its ops


def main(directory):
    rounds = json.load(sys.stdin)
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], directory)

    def run(request):
        name, inputs, deadline = request
        return answer(session, meta_graph.signature_def[name], inputs, deadline)

    answers = []
    for requests in rounds:
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            answers.append(list(pool.map(run, requests)))
    json.dump({"tensorflow": tf.__version__, "answers": answers}, sys.stdout)


def answer(session, signature, inputs, deadline):
    given = {name: tf.make_ndarray(value) for name, value in signature.defaults.items()} | inputs
    feed = {signature.inputs[name].name: value for name, value in given.items()}
    fetches = {name: info.name for name, info in signature.outputs.items()}
    options = tf.compat.v1.RunOptions(timeout_in_ms=deadline)
    try:
        outputs = session.run(fetches, feed, options=options)
    except tf.errors.OpError as error:
        return type(error).__name__
    return {name: plain(value.tolist()) for name, value in outputs.items()}


def plain(value):
    """Lists of bytes as lists of text that JSON can hold."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main(sys.argv[1])
