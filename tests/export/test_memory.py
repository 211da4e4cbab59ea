"""Memory that requests change: reads and writes, and no bytes on disk."""

import numpy as np
import tensorflow as tf

from export.memory import Memory


def test_reads_and_writes():
    memory = Memory("test_reads_and_writes", (4, 3), tf.float32)
    np.testing.assert_array_equal(memory.read(), np.zeros((4, 3)))
    memory.put_rows(tf.constant([2, 0]), tf.constant([[1.0, 2, 3], [4, 5, 6]]))
    memory.put_at(tf.constant([[[3, 1]], [[2, 2]]]), tf.constant([[7.0], [8]]))
    expected = [[4, 5, 6], [0, 0, 0], [1, 2, 8], [0, 7, 0]]
    np.testing.assert_array_equal(memory.read(), expected)
    rows = memory.rows(tf.constant([[2], [3]]))
    assert rows.shape == (2, 1, 3)
    np.testing.assert_array_equal(rows[:, 0], expected[2:])
    np.testing.assert_array_equal(memory.at(tf.constant([[0, 1], [3, 1]])), [5, 7])
    np.testing.assert_array_equal(memory.at(tf.constant([[0], [3]])), [expected[0], expected[3]])
    memory.assign(tf.ones((4, 3)))
    np.testing.assert_array_equal(memory.read(), np.ones((4, 3)))


def test_begins_as_zeros_wherever_it_is_loaded(tmp_path):
    root = tf.Module()
    root.memory = Memory("test_begins_as_zeros", (1 << 18,), tf.float32)
    root.memory.assign(tf.ones((1 << 18,)))

    @tf.function(input_signature=[])
    def total():
        return {"total": tf.reduce_sum(root.memory.read())}

    tf.saved_model.save(root, str(tmp_path), signatures={"total": total})
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 1 << 17
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        name = meta.signature_def["total"].outputs["total"].name
        assert session.run(name) == 0
