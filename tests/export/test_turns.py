"""Turns, in a session as a server runs them."""

import concurrent.futures
import re

import pytest
import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

from export import stock_ops
from export.memory import Memory
from export.turns import LATER, Turns, optimize_later

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


def test_what_turns_call_is_optimized_when_they_run(tmp_path):
    """Grappler leaves it as it is, with what it calls in turn, and nothing else."""
    tally = Tally("later", locked=True)
    tf.saved_model.save(tally, str(tmp_path), {"two": tally.two})
    saved_model = stock_ops.read(tmp_path)
    optimize_later(saved_model)
    meta_graph = saved_model.meta_graphs[0]
    before = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    marked = {name for name, f in before.items() if f.attr[LATER].b}
    kinds = {re.sub(r"_\d+$", "", name) for name in marked}
    assert kinds == {"__inference_batch_of_one", "while_body", "while_cond"}

    output = meta_graph.signature_def["two"].outputs["n"].name.split(":")[0]
    meta_graph.collection_def["train_op"].node_list.value.append(output)  # what Grappler keeps
    optimized = tf_optimizer.OptimizeGraph(tf.compat.v1.ConfigProto(), meta_graph)
    after = {f.signature.name: f for f in optimized.library.function}
    assert marked <= set(after)
    for name in marked:
        assert {n.name for n in after[name].node_def} == {n.name for n in before[name].node_def}
