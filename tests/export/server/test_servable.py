"""Loading SavedModels, and what goes past the session's checks in Python."""

import re
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from export.server import errors, servable


@pytest.mark.parametrize(
    ("name", "tags", "message"),
    [
        ("broken", ["serve"], "DATA_LOSS: Can't parse .*/broken/saved_model.pb as binary proto"),
        ("none", ["serve"], "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at .*/none. C"),
        (
            "good",
            ["serve", "tpu"],
            "NOT_FOUND: Could not find meta graph def .*: { serve tpu }. To",
        ),
        ("no_variables", ["serve"], ".*variables"),
    ],
)
def test_cannot_be_loaded(small_dirs, tmp_path, name, tags, message):
    for copy in ("good", "broken", "no_variables"):
        shutil.copytree(small_dirs[0], tmp_path / copy)
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\xff\xff")
    shutil.rmtree(tmp_path / "no_variables" / "variables")
    with pytest.raises(errors.ServingError) as caught:
        servable.load("m", 1, str(tmp_path / name), tags)
    assert re.match(message, str(caught.value))


def test_run(small_dirs):
    loaded = servable.load("m", 1, str(small_dirs[0]))
    signature = loaded.signatures["serving_default"]
    x, y = signature.inputs["x"].name, signature.outputs["y"].name
    value = np.array([1.0], np.float32)
    first, second = loaded.run({x: value}, [y, y.removesuffix(":0")])
    np.testing.assert_array_equal([first, second], [[2.5], [2.5]])
    with pytest.raises(errors.ServingError, match="Tensor no:0, specified in either feed_devices"):
        loaded.run({x: value}, ["no:0"])
    with pytest.raises(errors.ServingError, match="Timed out waiting for notification"):
        loaded.run({x: value}, [y], deadline=time.monotonic())
    loaded.close()
    with pytest.raises(errors.ServingError, match="Session has been closed"):
        loaded.run({x: value}, [y])


def test_an_error_that_quotes_bytes(tmp_path):
    class Parser(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def parse(self, text):
            return tf.strings.to_number(text)

    module = Parser()
    tf.saved_model.save(module, str(tmp_path), signatures=module.parse)
    loaded = servable.load("m", 1, str(tmp_path))
    signature = loaded.signatures["serving_default"]
    feed = {signature.inputs["text"].name: np.array([b"\xff\xfe"], object)}
    with pytest.raises(errors.ServingError, match=r"convert string: \ufffd\ufffd"):
        loaded.run(feed, [next(iter(signature.outputs.values())).name])
    loaded.close()
