"""Turns, in a session as a server runs them."""

import concurrent.futures

import pytest
import tensorflow as tf

from export.memory import Memory
from export.turns import Turns

NUMBER = tf.TensorSpec([], tf.int64)


class Tally(tf.Module):
    """A count that is read, and written after `rounds` of work: lost unless calls take turns."""

    def __init__(self, name, locked):
        super().__init__()
        self.memory = Memory(f"{name}_count", [], tf.int64)
        self.count = (
            Turns(f"{name}_inner", self._count, [NUMBER], NUMBER) if locked else self._count
        )
        self.twice = Turns(f"{name}_outer", lambda n: self.count(self.count(n)), [NUMBER], NUMBER)
        self.read = tf.function(lambda: {"count": self.memory.read()}, input_signature=[])
        self.one = tf.function(lambda rounds: {"n": self.count(rounds)}, input_signature=[NUMBER])
        self.two = tf.function(lambda rounds: {"n": self.twice(rounds)}, input_signature=[NUMBER])

    def _count(self, rounds):
        before = tf.identity(self.memory.read())
        with tf.control_dependencies([before]):
            done = tf.while_loop(lambda i: i < rounds, lambda i: (i + 1,), (tf.zeros_like(rounds),))
        with tf.control_dependencies(done):
            after = before + 1
        with tf.control_dependencies([self.memory.assign(after)]):
            return tf.identity(rounds)


def counted(path, name, locked, calls):
    """The count after 40 calls of `one` at once, and of `two` where that is asked for."""
    tally = Tally(name, locked)
    signatures = {key: getattr(tally, key) for key in ("read", "one", "two")}
    tf.saved_model.save(tally, path, signatures)
    threads = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=8)  # on one core too
    with tf.compat.v1.Session(graph=tf.Graph(), config=threads) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], path)

        def run(key, **inputs):
            signature = graph.signature_def[key]
            feed = {signature.inputs[k].name: v for k, v in inputs.items()}
            (output,) = signature.outputs.values()
            return session.run(output.name, feed)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda i: run(calls[i % len(calls)], rounds=5_000 + i), range(40))
            )
        assert answers == list(range(5_000, 5_040))
        return run("read")


@pytest.mark.parametrize(("calls", "count"), [(["one"], 40), (["one", "two"], 60)])
def test_no_call_is_lost(tmp_path, calls, count):
    assert counted(str(tmp_path), f"locked{count}", True, calls) == count


def test_without_turns_some_are(tmp_path):
    assert counted(str(tmp_path), "unlocked", False, ["one"]) < 40
