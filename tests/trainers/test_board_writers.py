"""TensorBoard's files read by TensorBoard, wandb's by what wandb has of their form."""

import contextlib
import json
import math
import struct
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainers.args import UsageError
from trainers.board_writers import TensorBoardWriter, WandbWriter, check_wandb

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_tensorboard_reads_what_was_shown(tmp_path):
    writer = TensorBoardWriter(str(tmp_path))
    writer.scalars({"train/loss": 2.5, "train/loss_of/wiki": float("nan")}, 1)
    writer.scalars({"train/loss": 2.0}, 3)
    writer.texts("samples", ["Once"], ["<b>upon</b>\na time"], 3)
    writer.picture("attention/0/block_0", PICTURE, 3)
    writer.close(failed=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.5), (3, 2.0)]
    (event,) = events.Scalars("train/loss_of/wiki")
    assert math.isnan(event.value)
    (event,) = events.Tensors("samples")
    text = tf.make_ndarray(event.tensor_proto).item().decode()
    assert text == "**Once**\n\n    <b>upon</b>\n    a time"  # keeps lines, shows no markup
    (event,) = events.Tensors("attention/0/block_0")
    *_, png = tf.make_ndarray(event.tensor_proto)
    np.testing.assert_array_equal(tf.io.decode_png(png), PICTURE)


def test_without_wandb_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python's way to say that there is none
    check_wandb("")
    with pytest.raises(UsageError, match="--wandb_project=mine: wandb is not installed; pip inst"):
        check_wandb("mine")


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return pytest.importorskip("wandb")


def records(path):
    """Records of a `.wandb` file: LevelDB's log form, 32 KiB blocks, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""
        if -at % 32768 < 7:  # too little for a header: filled with zeros
            at += -at % 32768


def offline_run(path):
    """(id, config, rows of the history) of an offline run.

    wandb writes them in a process of its own, which need not have come to the end yet.
    """
    until, found = time.monotonic() + 60, []
    while not any(record.HasField("exit") for record in found):
        assert time.monotonic() < until
        time.sleep(0.05)
        with contextlib.suppress(DecodeError, struct.error):
            found = list(records(path))
    (run,) = [record.run for record in found if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    rows = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in found
        if record.HasField("history")
    ]
    return run, config, rows


def test_wandb_has_the_same_offline(wandb, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    writer = WandbWriter("mine", str(folder), {"learning_rate": 1e-3, "labels": ["a"]})
    writer.scalars({"train/loss": 2.5}, 1)
    writer.scalars({"train/grad_norm": 0.5}, 1)
    writer.scalars({"train/loss": 2.0}, 3)
    writer.texts("samples", ["Once"], ["upon\na time"], 3)
    writer.picture("attention/0/block_0", PICTURE, 3)
    writer.close(failed=True)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    run, config, rows = offline_run(path)
    assert (run.project, run.display_name) == ("mine", "run")
    assert config["learning_rate"] == 1e-3
    assert config["labels"] == ["a"]
    first, last = rows
    assert first["_step"] == 1
    assert (first["train/loss"], first["train/grad_norm"]) == (2.5, 0.5)
    assert (last["_step"], last["train/loss"]) == (3, 2.0)
    files = path.parent / "files"
    table = json.loads((files / last["samples/path"]).read_text())
    assert (table["columns"], table["data"]) == (["prompt", "text"], [["Once", "upon\na time"]])
    png = (files / last["attention/0/block_0/path"]).read_bytes()
    np.testing.assert_array_equal(tf.io.decode_png(png), PICTURE)

    again = WandbWriter("mine", str(folder), {})  # a run that failed goes on
    again.close(failed=False)
    other = WandbWriter("mine", str(folder), {})  # one that ended well does not
    other.close(failed=False)
    ids = {p.name for p in folder.glob("wandb/offline-run-*/*.wandb")}
    assert len(ids) == 2


def test_wandb_that_refuses(wandb, tmp_path):
    with pytest.raises(UsageError, match=r"--wandb_project=a/b: .*WANDB_MODE=offline"):
        WandbWriter("a/b", str(tmp_path), {})
